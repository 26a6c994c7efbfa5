import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
from torch import nn

import sartor
import sartor.core
from sartor.core import DataError, Family, FamilyError, Member, Target, TargetError, Task
from sartor.core.modes import eval_mode
from sartor.core.target import TARGETS

MODULES = [f"sartor.core.{m.name}" for m in pkgutil.iter_modules(sartor.core.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str, tmp_path: Path) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_the_top_level_names_exist() -> None:
    assert {"Budget", "Family", "Frontier", "Target", "Task"} <= set(dir(sartor))
    assert sartor.Budget is sartor.core.Budget
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sartor.nothing  # noqa: B018


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_targets_parse(name: str) -> None:
    target = Target.parse(name, threads=2, batch=8)
    assert target.name == name and (target.threads, target.batch) == (2, 8)
    assert Target.parse(target) == target and Target.parse(target, batch=1).threads == 2
    assert str(target) == f"{name}, 2 threads, batch 8"
    assert str(Target.parse(name)).endswith(", 1 thread, batch 1")


def test_the_default_target_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Target.parse(None).name == "cpu/onnxruntime"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Target.parse(None).name == "cuda/compile"


@pytest.mark.parametrize("text", ["cpu", "cpu/onnx", "tpu/eager", "", "cuda/onnxruntime"])
def test_unknown_targets(text: str) -> None:
    with pytest.raises(TargetError, match=r"does not exist; (did you mean|allowed)"):
        Target.parse(text)


@pytest.mark.parametrize("counts", [{"threads": 0}, {"batch": 0}, {"batch": -3}])
def test_counts_start_at_one(counts: dict[str, int]) -> None:
    with pytest.raises(TargetError, match="must be at least 1"):
        Target.parse("cpu/eager", **counts)


# --- families -----------------------------------------------------------------------------------


def test_families() -> None:
    small, large = nn.Linear(4, 2), nn.Linear(4, 2)
    family = Family.of({"small": small, "large": large})
    assert family.names == ("small", "large") and family.models == (small, large)
    assert len(family) == 2 and [m.source for m in family] == [{"kind": "module"}] * 2
    with pytest.raises(FamilyError, match="empty"):
        Family(())
    with pytest.raises(FamilyError, match="names 'a' twice"):
        Family((Member(name="a", model=small), Member(name="a", model=large)))


# --- tasks --------------------------------------------------------------------------------------


def task(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Task:
    example = torch.zeros(1, 3)
    return Task(name="toy", train=batches, selection=batches, validation=batches, example=example)


def test_tasks_evaluate_and_give_batches() -> None:
    inputs, targets = torch.eye(3), torch.tensor([0, 1, 0])
    toy = task([(inputs, targets), (inputs[:1], targets[:1])])
    assert toy.evaluate(nn.Identity(), toy.validation) == 0.75
    assert toy.input_shape == (3,) and toy.metric == "accuracy"
    assert toy.loss(10 * inputs, targets).shape == ()
    assert torch.equal(toy.batch(2), inputs[:2])
    assert toy.batch(4).shape == (4, 3) and toy.batch(99).shape == (4, 3)
    model = nn.Linear(3, 3)
    assert toy.evaluate(model, toy.validation) >= 0 and model.training
    with pytest.raises(DataError, match="empty"):
        toy.evaluate(nn.Identity(), [])
    with pytest.raises(DataError, match="training data of 'toy' is empty"):
        task([]).batch(1)


def test_eval_mode_gives_back_every_mode() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)))
    model[1].eval()
    with pytest.raises(RuntimeError), eval_mode(model):
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    assert [m.training for m in model.modules()] == [True, True, False, False]
