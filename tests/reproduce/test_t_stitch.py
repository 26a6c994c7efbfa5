import functools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from sartor.data.generation import DigitVectors
from sartor.nn.t_stitch.ddim import vector_sampler
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.t_stitch import run
from sartor.reproduce.t_stitch_training import SHAPES, cpu_seconds, switched, trained_pair
from sartor.stitch.t_stitch.sampler import stitch_samplers
from sartor.testing import EvidenceContract


def noise() -> torch.Tensor:
    return torch.randn(2, 64, generator=torch.Generator().manual_seed(0))


def test_training_is_seeded_and_learns_and_leaves_the_random_state() -> None:
    vectors = torch.full((8, 64), 0.5)
    digits = DigitVectors(train=vectors, selection=vectors, validation=vectors)
    before = torch.get_rng_state()
    pairs = [trained_pair(digits, 0, 3) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert list(pairs[0]) == list(SHAPES) == ["small", "large"]
    for name in SHAPES:
        weights = [pair[name].state_dict() for pair in pairs]
        assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    longer = trained_pair(digits, 0, 60)["small"]
    sample, timestep = 0.5 + noise(), 30
    errors = [
        float((sampler.denoiser(sample, timestep) - noise()).square().mean())
        for sampler in (pairs[0]["small"], longer)
    ]
    assert errors[1] < errors[0]


def test_the_control_is_the_other_way_round() -> None:
    small, large = (vector_sampler(width=w, depth=1, num_steps=50) for w in (2, 4))
    for share, steps in ((0.0, 0), (0.4, 20), (1.0, 50)):
        first = switched(small, large, share).denoiser
        last = switched(large, small, 1 - share).denoiser
        numbers = [first.model_index(t) for t in small.timesteps]
        assert numbers == [0] * steps + [1] * (50 - steps)
        # there the small model has number 1
        assert [last.model_index(t) for t in small.timesteps].count(1) == steps


def test_every_share_is_timed() -> None:
    pair = {f"{w}": vector_sampler(width=w, depth=1, num_steps=2) for w in (2, 4)}
    times = cpu_seconds(stitch_samplers(pair, noise(), grid=0.5), noise(), rounds=2)
    assert list(times) == [0.0, 0.5, 1.0] and all(value > 0 for value in times.values())


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_the_claim_holds_and_every_comparison_is_reported(self) -> None:
        made = quick_run()
        exact = [c for c in made.checks if "bit for bit" in c.asked or "FLOPs" in c.asked]
        assert len(exact) == 2 and all(c.measured == 0 for c in exact)
        assert made.passed, [c.asked for c in made.checks if not c.passed]

    def test_it_saves_its_picture(self, tmp_path: Path) -> None:
        paths = quick_run().save(tmp_path / "t-stitch")
        assert [path.name for path in paths] == ["evidence.json", "samples.svg"]
        ElementTree.fromstring(paths[1].read_text(encoding="utf-8"))
        value = json.loads(paths[0].read_text(encoding="utf-8"))
        assert Evidence.from_dict(value).to_dict() == value
