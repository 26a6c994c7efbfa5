import functools

import pytest
import torch

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.sn_net import run
from sartor.reproduce.sn_net_rivalry import compare, duel_rows, rivalry_checks, rivalry_rows
from sartor.reproduce.sn_net_training import FULL, QUICK, RIVALS, Scored, stitched
from sartor.testing import EvidenceContract, tiny_task, tiny_vit_family


def scored(name: str, flops: int, selection: float, validation: float) -> Scored:
    return Scored(name=name, flops=flops, params=flops, selection=selection, validation=validation)


def test_steps_divide_equally() -> None:
    assert FULL.joint % RIVALS == QUICK.joint % RIVALS == 0


def test_the_sides_of_the_comparison() -> None:
    family = tiny_vit_family()
    net = stitched(family, tiny_task(), 0, least_squares=True)
    points = [
        scored("a0", 10, 0.4, 0.4),
        scored("a1", 100, 0.5, 0.6),
        scored("x", 1000, 0.45, 0.9),  # not chosen: worse than a1 on the selection split
        scored("y", 1000, 0.7, 0.7),
    ]
    anchors = [scored("small", 10, 0.5, 0.5), scored("large", 100, 0.6, 0.6)]
    routes = ([scored("x", 1000, 0.8, 0.8)], 2.0)
    rivalry = compare(net, points, 3.0, family, anchors, routes, ([], 0.0))
    # over log10(FLOPs) up to 3 and above 0.1
    assert rivalry.stitched.area == pytest.approx(1 * 0.3 + 1 * 0.5)
    assert rivalry.anchors.area == rivalry.vits.area == pytest.approx(1 * 0.4 + 1 * 0.5)
    assert [p.name for p in rivalry.stitched.points] == ["a0", "a1", "y"]
    assert [p.name for p in rivalry.routes.points] == ["small", "large", "x"]
    assert rivalry.routes.params == 10 + 100 + 1000
    assert rivalry.stitched.params == sum(p.numel() for p in net.parameters())
    assert rivalry.duels == [("x", 1000, 0.9, 0.8)]
    assert 0 < rivalry.switch_us < 100 and rivalry.load_ms > rivalry.switch_us / 1e3
    assert len(rivalry_rows([rivalry], [0])) == 5
    assert duel_rows([rivalry])[0]["difference"] == pytest.approx(0.1)
    checks = {check.asked: check for check in rivalry_checks([rivalry])}
    assert not any(check.decides for check in checks.values())
    (seconds,) = [c for asked, c in checks.items() if asked.startswith("CPU seconds")]
    assert seconds.measured == 1.5 and not seconds.passed


def test_random_initialisation_is_seeded_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    nets = [stitched(tiny_vit_family(), tiny_task(), 0, least_squares=False) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    weights = [net.stitch_layers["a0-1_s0_n0"].weight for net in nets]
    assert torch.equal(*weights)


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_the_claim_holds_and_every_comparison_is_reported(self) -> None:
        made = quick_run()
        assert made.passed, [c.asked for c in made.checks if not c.passed]
        assert len(made.checks) == 12 and len(made.tables) == 3
