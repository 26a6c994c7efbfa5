import functools
import warnings

import pytest
import torch

from sartor.reproduce.esta import run
from sartor.reproduce.esta_digits import (
    METHODS,
    Adapted,
    Schedule,
    adapt,
    pretrained,
    sideways,
    stitched,
)
from sartor.reproduce.esta_language import SETTINGS, SYMBOLS, _language, _texts
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract


def result(accuracies: list[float], importance: list[float]) -> Adapted:
    return Adapted(
        configs=[str(i) for i in range(len(accuracies))],
        trainable=1,
        held=2,
        accuracies=accuracies,
        importance=importance,
        flops=[0, 30, 5, 9, 12, 19, 21, 22, 29],
        seconds=1.0,
    )


def test_anchors_do_not_compete_when_one_stitch_of_an_interval_is_chosen() -> None:
    accuracies = [0.1, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.75]
    importance = [9.0, 9.0, 1.0, 2.0, 4.0, 3.0, 1.0, 2.0, 3.0]
    chosen = result(accuracies, importance).chosen
    rows = [(c.accuracy, c.median, c.of_stitches, c.best) for c in chosen]
    assert rows[0] == pytest.approx((0.4, 0.3, 0.35, 0.4))
    assert rows[1] == pytest.approx((0.5, 0.55, 0.55, 0.6))
    assert rows[2] == pytest.approx((0.75, 0.775, 0.75, 0.8))
    assert result(accuracies, accuracies).rank == pytest.approx(1.0)


def test_the_tasks_share_no_image_and_turn_the_same_way() -> None:
    upright, side = sideways(0)
    assert len(upright.train.sampler) == 800 and len(side.train.sampler) == 300  # type: ignore[attr-defined]
    assert sum(len(labels) for _, labels in side.validation) == 2 * 697
    assert len(list(side.train)) == 6
    again = sideways(0)[1]
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(side.validation, again.validation, strict=True)
    )
    # the bright middle of a turned digit 1 lies on its side: rows differ less than columns
    images, labels = next(iter(side.validation))
    ones = images[labels == 1].mean(0)[0]
    assert ones.mean(1).std() > ones.mean(0).std()


@pytest.mark.slow
def test_every_method_trains_its_share_and_leaves_the_family() -> None:
    upright, side = sideways(0)
    schedule = Schedule(pretraining=1, adaptation=1)
    family = pretrained(upright, 0, schedule)
    kept = [{k: v.clone() for k, v in m.state_dict().items()} for m in family.models]
    made = [adapt(family, side, method, 0, schedule) for method in METHODS[:3]]
    assert [m.trainable for m in made] == [61_576, 5_388, 9_132]
    assert [len(m.accuracies) for m in made] == [9, 9, 9]
    for model, state in zip(family.models, kept, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    net = stitched(family, side, 0)
    assert sum(p.numel() for p in net.parameters()) == 61_576


def test_the_language_is_a_seeded_chain() -> None:
    first, second = _language(0, 0.0), _language(0, 0.5)
    assert torch.equal(first, _language(0, 0.0))
    assert torch.allclose(first.sum(-1), torch.ones(SYMBOLS, SYMBOLS), atol=1e-5)
    same = (first == second).all(-1).float().mean()
    assert 0.3 < same < 0.7
    texts = _texts(first, 3, 0)
    assert torch.equal(texts, _texts(first, 3, 0)) and int(texts.max()) < SYMBOLS
    assert not SETTINGS.train_head


@functools.cache
def quick_run() -> Evidence:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_what_does_not_depend_on_long_training_holds(self) -> None:
        made = quick_run()
        checks = {check.asked: check for check in made.checks}
        for words in ("share of those", "largest gap of logits", "share of greedy tokens"):
            (check,) = [c for asked, c in checks.items() if words in asked]
            assert check.decides and check.passed
        assert len(made.checks) == 11 and len(made.tables) == 3
