"""Recovery: which distiller a changed model learns by, and what the report says of it."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from sartor.core import (
    ArtifactError,
    Family,
    Recipe,
    RecipeError,
    Target,
    Task,
    TrainingError,
)
from sartor.data import digits_task
from sartor.fit import FitSettings
from sartor.fit.publish import _notes
from sartor.fit.state import Candidate, RunState
from sartor.fit.teaching import Teaching
from sartor.fit.workshop import Workshop
from sartor.losses import DISTILLERS, default_distiller, make_distiller
from sartor.nn import tiny_vit
from sartor.train import TrainSettings, distill


def net(seed: int, classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, classes)).eval()


def first_output(model: nn.Module) -> float:
    return float(model(torch.ones(1, 4)).detach()[0, 0])


def task(classes: int | None = 3, quality=lambda model: 0.0) -> Task:
    x, y = torch.randn(24, 4, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    plain = {} if classes else {"loss": lambda z, y: z.square().mean()}
    return Task.from_loader(loader, quality, num_classes=classes, **plain)


def workshop(folder, data: Task, **settings) -> Workshop:
    family = Family.of({"small": net(1), "large": net(2)})
    state = RunState(folder)
    given = FitSettings(recovery_epochs=2, recovery_lr=0.01, **settings)
    return Workshop(family, data, Target.parse("cpu/eager"), given, state)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


@pytest.mark.parametrize("name", ["soft", "hard", "vanilla"])
def test_the_setting_chooses_the_distiller(tmp_path, name: str) -> None:
    data, ours, plain = task(), net(5), net(5)
    shop = workshop(tmp_path, data, recovery=name)
    shop.recover("one", ours)
    teacher = shop.teaching.teacher
    loss = make_distiller(name, plain, teacher, label_loss=data.loss)
    settings = TrainSettings(epochs=2, lr=0.01, weight_decay=0.05)
    distill(plain, teacher, data, loss=loss, settings=settings)
    assert all(torch.equal(a, b) for a, b in zip(weights(ours), weights(plain), strict=True))


@pytest.mark.parametrize("sign", [1, -1])
def test_what_a_model_loses_on_the_selection_data_is_undone(tmp_path, sign: int) -> None:
    """One sign of the same number rises, the other falls."""
    data = task(quality=lambda model: sign * first_output(model))
    model = net(5)
    shop = workshop(tmp_path, data)
    shop.recover("one", model)
    before = sign * first_output(net(5))
    changed = sign * first_output(model) != before
    assert changed == shop.state.recoveries["one"]["kept"] == (sign == 1)
    assert changed or all(
        torch.equal(a, b) for a, b in zip(weights(model), weights(net(5)), strict=True)
    )
    assert sign * first_output(model) >= before
    assert shop.state.recoveries["one"]["before"] == pytest.approx(before)


def test_distillers_differ(tmp_path) -> None:
    made = []
    for name in {*DISTILLERS} - {"manifold"}:  # which reads features that these models lack
        model = net(5)
        workshop(tmp_path, task(), recovery=name).recover("one", model)
        made.append(weights(model)[0])
    assert all(not torch.equal(made[0], other) for other in made[1:])


def test_without_classes_outputs_are_matched(tmp_path) -> None:
    model = net(5)
    shop = workshop(tmp_path, task(None))
    before = (model(torch.ones(1, 4)) - shop.teaching.teacher(torch.ones(1, 4))).square().mean()
    shop.recover("one", model)
    after = (model(torch.ones(1, 4)) - shop.teaching.teacher(torch.ones(1, 4))).square().mean()
    assert after < before


def test_the_report_says_what_it_cost_and_gained(tmp_path) -> None:
    shop = workshop(tmp_path, task())
    shop.state.recoveries = {
        id: {"distiller": "soft", "before": before, "kept": kept, "seconds": seconds, "bridges": []}
        for id, before, kept, seconds in (
            ("a", 0.5, True, 2.0),
            ("b", 0.7, True, 1.0),
            ("c", 0.8, False, 1.0),
            ("failed", 0.1, True, 1.0),
        )
    }
    for id, accuracy in (("a", 0.83), ("b", 0.67), ("c", 0.8), ("untouched", 0.9)):
        shop.state.add(
            Candidate(
                id=id,
                recipe=Recipe(base=({"name": "small", "source": {"kind": "module"}},)),
                parent=None,
                accuracy=accuracy,
                seconds=1.0,
                folder=tmp_path,
            )
        )
    notes = _notes(shop)[1:]  # the first one is the task's
    assert notes[0].startswith("Recovery 'soft' took 4.0 s for 3 models")
    assert "+0.100 on average" in notes[0]
    assert notes[1] == "a: recovery took 2.0 s and changed quality from 0.500 to 0.830."
    assert notes[2] == "b: recovery took 1.0 s and changed quality from 0.700 to 0.670."
    assert notes[3].startswith("c: recovery took 1.0 s and was undone") and len(notes) == 4
    assert RunState.load(tmp_path).recoveries == shop.state.recoveries


def test_no_epochs_recover_nothing_and_tell_nothing(tmp_path) -> None:
    shop = workshop(tmp_path, task())
    shop.settings = FitSettings(recovery_epochs=0)
    model = net(5).train()
    shop.recover("one", model)
    assert not model.training and not shop.state.recoveries
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(net(5)), strict=True))


def test_models_of_one_kind_recover_softly_and_others_by_their_labels_too() -> None:
    vits = [timm.create_model("test_vit"), timm.create_model("test_vit2")]
    cnn, mixer = timm.create_model("test_resnet"), timm.create_model("test_mambaout")
    assert default_distiller(vits[0], vits[1]) == "soft" == default_distiller(cnn, cnn)
    assert default_distiller(cnn, vits[0]) == "vanilla" == default_distiller(vits[0], mixer)
    assert FitSettings().recovery == "auto"


def test_manifold_pairs_the_blocks_of_timm_models() -> None:
    student, teacher = tiny_vit(embed_dim=8, depth=2), tiny_vit(embed_dim=16, depth=4)
    loss = make_distiller("manifold", student, teacher)
    assert loss.student_taps == ("blocks.0", "blocks.1")
    assert loss.teacher_taps == ("blocks.0", "blocks.3")
    data = digits_task()
    report = distill(student, teacher, data, loss=loss, settings=TrainSettings(epochs=1))
    assert report.history.losses[0] > 0
    with pytest.raises(TrainingError, match="does not name its features"):
        make_distiller("manifold", net(1), teacher)


def test_unknown_distillers_are_refused() -> None:
    with pytest.raises(RecipeError, match="does not know 'sof'; did you mean 'soft'"):
        FitSettings(recovery="sof")


class Asked(nn.Module):
    """A teacher that counts the inputs that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.inputs = net(2), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs += len(x)
        return self.net(x)


@pytest.mark.parametrize(
    ("collate", "asked"),
    [(None, 24), (lambda items: default_collate(items), 2 * 2 * 24)],
    ids=["tensors in memory", "unknown collation"],
)
def test_inputs_that_never_vary_are_shown_to_the_teacher_once(tmp_path, collate, asked) -> None:
    plain = task()
    loader = DataLoader(plain.train.dataset, batch_size=8, collate_fn=collate)
    data = Task.from_loader(loader, lambda model: 0.0, num_classes=3)
    teacher = Asked()
    settings = FitSettings(recovery_epochs=2, recovery_lr=0.01)
    teaching = Teaching(teacher, data, settings, tmp_path)
    for seed in (5, 6):
        teaching.recover(net(seed))
    probes = 0 if collate is None else 2 * 2  # distill first looks at two inputs
    assert teacher.inputs == asked + probes


def test_kept_logits_are_checked_when_a_run_goes_on(tmp_path) -> None:
    first = Teaching(net(2), task(), FitSettings(), tmp_path).cache
    again = Teaching(net(2), task(), FitSettings(), tmp_path).cache
    assert first is not None and again is not None
    assert torch.equal(first.rows(range(24)), again.rows(range(24)))
    with pytest.raises(ArtifactError, match="another teacher"):
        _ = Teaching(net(3), task(), FitSettings(), tmp_path).cache
