"""``fit`` with ESTA: few values train, and training says which routes are scored."""

from pathlib import Path

import pytest
import torch

from sartor.core import Frontier
from sartor.fit import FitSettings, fit
from sartor.fit.state import RunState
from sartor.testing import tiny_task, tiny_vit_family


def run(folder: Path, epochs: int) -> list[str]:
    """Names of the configurations that were scored."""
    settings = FitSettings(
        engine="esta", epochs=epochs, routes=3, moves=("prune",), prune_ratios=(0.5,),
        recovery_epochs=0, costs=("flops",), lr=1e-2,
    )  # fmt: skip
    fit(tiny_vit_family(), tiny_task(), out=folder, settings=settings, target="cpu/eager")
    return [score["name"] for score in RunState.load(folder).scores]


def test_a_short_training_scores_every_route(tmp_path: Path) -> None:
    scored = run(tmp_path / "run", epochs=1)
    assert len(scored) == 11
    frontier = Frontier.load(tmp_path / "run")
    made = {point.id for point in (*frontier.points, *frontier.others)}
    assert sum(id.startswith("esta.") and "+" not in id for id in made) == 3
    assert any("prune" in id for id in made)
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for point in frontier.points:
        assert point.load_model()(inputs).shape == (3, 10)


@pytest.mark.slow
def test_a_training_that_gave_every_route_a_score_shortlists(tmp_path: Path) -> None:
    scored = run(tmp_path / "run", epochs=18)  # 36 steps; scores are complete after 33
    assert {"a0", "a1", "a2"} < set(scored) and len(scored) < 11
