import functools

import pytest
import torch

from sartor.reproduce.came import choose, judge, run
from sartor.reproduce.came_training import (
    ADAFACTOR,
    ADAMW,
    CAME_,
    CORRECTED,
    PLAIN,
    QUICK,
    RATES,
    TinyLanguageModel,
    Trained,
    optimizer,
    texts,
    train_one,
)
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract
from sartor.train import CAME, optimizer_state_bytes


def trained(loss: float, state: int = 100) -> Trained:
    return Trained(selection=loss, unseen=loss + 0.1, state=state, seconds=1.0)


def test_the_model_and_the_states_of_the_card() -> None:
    model = TinyLanguageModel()
    assert sum(p.numel() for p in model.parameters()) == 108_352
    entries = {
        name: optimizer_state_bytes(model, name) // 4
        for name in ("adamw", "came", "adafactor_momentum")
    }
    assert entries == {"adamw": 216_704, "came": 114_754, "adafactor_momentum": 112_449}
    assert entries["came"] / entries["adamw"] == pytest.approx(0.53, abs=0.005)


def test_no_position_sees_what_follows() -> None:
    model = TinyLanguageModel()
    symbols = torch.randint(65, (2, 64), generator=torch.Generator().manual_seed(0))
    changed = symbols.clone()
    changed[:, 40:] = 3
    first, second = model(symbols), model(changed)
    assert first.shape == (2, 64, 65)
    torch.testing.assert_close(first[:, :40], second[:, :40])
    assert not torch.allclose(first[:, 40:], second[:, 40:])


def test_the_texts_are_parts_of_one() -> None:
    parts = texts()
    total = sum(map(len, parts))
    assert total > 300_000 and all(int(part.max()) == 64 for part in parts)
    assert [round(len(part) / total, 3) for part in parts] == [0.8, 0.1, 0.1]


def test_without_confidence_the_step_is_the_momentum() -> None:
    """The control is CAME's update with the confidence term made constant."""
    weights = torch.nn.Parameter(torch.zeros(5, 4))
    made = optimizer(PLAIN, [weights], 1e-2)
    assert isinstance(made, CAME)
    wanted = torch.zeros(5, 4)
    for step in range(5):
        weights.grad = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        made.step()
        wanted -= 1e-2 * made.state[weights]["exp_avg"]
        torch.testing.assert_close(weights.data, wanted, rtol=2e-4, atol=1e-6)


def test_a_training_is_repeated_exactly() -> None:
    plan = type(QUICK)(steps=3, batch=2, judged=8)
    runs = [train_one(CAME_, 1e-3, 4, plan) for _ in range(2)]
    assert runs[0].unseen == runs[1].unseen and runs[0].state == 114_754
    assert runs[0].unseen != runs[0].selection


def test_choice_and_verdict() -> None:
    sweep = {name: {lr: trained(2.0 + lr) for lr in rates} for name, rates in RATES.items()}
    sweep[ADAMW][1e-2] = trained(1.9)
    rates = choose(sweep)
    assert rates[ADAMW] == 1e-2 and rates[CAME_] == 3e-4
    results = {name: [sweep[name][lr]] for name, lr in rates.items()}
    results[CAME_] = [trained(1.94, state=60)]
    checks = judge(sweep, results)
    assert [c.passed for c in checks if c.decides] == [True, True]
    results[CAME_] = [trained(1.96, state=61)]
    checks = judge(sweep, results)
    assert [c.passed for c in checks if c.decides] == [False, False]
    by_name = {c.asked: c for c in checks}
    assert by_name["loss of CAME minus that of AdamW"].measured == pytest.approx(0.06)
    adafactor = by_name["loss of CAME minus that of Adafactor with momentum"]
    assert adafactor.measured == pytest.approx(1.96 - 2.003) and adafactor.passed
    assert set(results) == {ADAMW, ADAFACTOR, CAME_, CORRECTED, PLAIN}


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_optimiser_is_reported(self) -> None:
        made = quick_run()
        tables = list(made.tables.values())
        assert [len(table) for table in tables] == [len(RATES), len(RATES)]
        (state,) = [c for c in made.checks if c.asked.startswith("entries of state")]
        assert state.passed and state.measured == pytest.approx(114_754 / 216_704)
