"""HiLo attention and token pooling are moves of a run of ``fit``."""

from pathlib import Path

import torch

from sartor.fit import FitSettings, fit
from sartor.testing import tiny_task, tiny_vit_family


def test_hilo_and_pooling_are_moves_of_a_run(tmp_path: Path) -> None:
    settings = FitSettings(epochs=1, routes=2, recovery_epochs=1, moves=("litv2", "hvt"))
    frontier = fit(
        tiny_vit_family(),
        tiny_task(),
        out=tmp_path / "run",
        settings=settings,
        target="cpu/eager",
    )
    ids = {point.id for point in (*frontier.points, *frontier.others)}
    assert any(id.endswith("+litv2") for id in ids) and any(id.endswith("+hvt") for id in ids)
    for point in frontier:
        assert point.load_model()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
