"""sartor's own pyramids go through ``fit``: they are stitched, and HiLo and pooling are its
moves."""

from pathlib import Path

import torch

from sartor.core import Family, Frontier, Point
from sartor.export import export
from sartor.fit import FitSettings, fit
from sartor.nn import load_family
from sartor.stitch import stitch
from sartor.testing import tiny_task, tiny_vit_family

INPUTS = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def litv2_family() -> Family:
    """LITv2-S and -M at a twelfth of their widths, with fewer blocks."""
    sources = []
    for width, depth in ((8, 2), (12, 3)):
        kwargs = {
            "embed_dims": [width, 2 * width, 4 * width, 8 * width],
            "depths": [1, 1, depth, 1],
            "num_heads": [1, 2, 4, 8],
            "alpha": 0.5,
            "drop_path_rate": 0.0,
            "in_chans": 1,
            "num_classes": 4,
        }
        sources.append({"kind": "timm", "name": "litv2_small", "kwargs": kwargs})
    return load_family(sources, task=tiny_task((1, 32, 32), num_classes=4))


def made(frontier: Frontier) -> dict[str, Point]:
    return {point.id: point for point in (*frontier.points, *frontier.others)}


def test_a_family_of_our_own_pyramids_is_stitched(tmp_path: Path) -> None:
    """Routes of both pyramids are made, and those on the frontier come back from their recipes
    alone."""
    settings = FitSettings(epochs=1, routes=4, moves=(), costs=("flops",))
    frontier = fit(
        litv2_family(),
        tiny_task((1, 32, 32), num_classes=4),
        out=tmp_path / "run",
        settings=settings,
        target="cpu/eager",
    )
    stitched = [point for id, point in made(frontier).items() if id.startswith("sn.")]
    assert any(".s" in point.id for point in stitched), "no route passes a stitch"
    for point in frontier:
        model = point.load_model()
        assert model(INPUTS).shape == (3, 4)


def test_a_stitched_pyramid_exports(tmp_path: Path) -> None:
    net = stitch(litv2_family(), INPUTS)
    names = [config.name for config in net.configs]
    route = net.extract(names.index("a0-1.s2.0-1"))
    assert export(route, INPUTS, tmp_path / "stitched.onnx", format="onnx").verified


def test_hilo_and_pooling_are_moves_of_a_run(tmp_path: Path) -> None:
    settings = FitSettings(epochs=1, routes=2, recovery_epochs=1, moves=("litv2", "hvt"))
    frontier = fit(
        tiny_vit_family(),
        tiny_task(),
        out=tmp_path / "run",
        settings=settings,
        target="cpu/eager",
    )
    ids = set(made(frontier))
    assert any(id.endswith("+litv2") for id in ids) and any(id.endswith("+hvt") for id in ids)
    for point in frontier:
        assert point.load_model()(INPUTS[:, :, :8, :8]).shape == (3, 10)
