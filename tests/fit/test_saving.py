"""``--save``: what it switches on, that memory is saved exactly, and what the report says of it."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import RecipeError, Task, TrainingError
from sartor.fit import FitSettings, fit
from sartor.fit.saving import saved_text, saving_recipe, step_bytes, training_record
from sartor.fit.teaching import Teaching
from sartor.losses import HintKD, bce_loss, dist_loss
from sartor.nn import tiny_vit
from sartor.testing import tiny_vit_family
from sartor.train import History, distill
from sartor.train.per_sample import per_sample


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tiny_vit(embed_dim=16, depth=2, num_heads=2)


def task(num_classes=10):
    x = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x, torch.arange(48) % 10), batch_size=8, shuffle=True)
    return Task.from_loader(loader, lambda model: 0.5, num_classes=num_classes)


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_words_become_switches():
    vit, mlp = net(), nn.Linear(2, 2)
    assert not saving_recipe((), vit).active()
    assert list(saving_recipe(("memory",), vit).active()) == ["checkpointing=blocks"]
    assert list(saving_recipe(("memory",), mlp).active()) == ["activations=mesa"]
    every = saving_recipe(("data", "memory", "steps"), vit)
    wanted = {"checkpointing=blocks", "optimizer=muon", "data_pruning=infobatch", "batch_factor"}
    assert set(every.active()) == wanted


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"save": ("memroy",)}, "did you mean 'memory'"),
        ({"save": ("data",), "epochs": 1}, "2 or more, got 1"),
        ({"save": ("data",), "recovery_epochs": 1}, "2 or more, got 10 and 1"),
    ],
    ids=str,
)
def test_illegal_words_are_refused(wrong, said):
    with pytest.raises(RecipeError, match=said):
        FitSettings(**wrong)


@pytest.mark.parametrize("recovery", ["soft", "hard", "vanilla"])
def test_recovery_with_less_memory_is_the_same_recovery(tmp_path, recovery):
    made = []
    for save in ((), ("memory",)):
        settings = FitSettings(recovery=recovery, recovery_epochs=2, save=save)
        student = net(1)
        Teaching(net(2), task(), settings, tmp_path / "-".join(save)).recover(student)
        made.append(student)
    assert same(*made) and not same(made[0], net(1))


@pytest.mark.parametrize("recovery", ["soft", "hard", "vanilla"])
def test_recovery_on_fewer_data_goes_by_the_losses_of_samples(tmp_path, recovery):
    settings = FitSettings(recovery=recovery, recovery_epochs=4, save=("data",))
    report = Teaching(net(2), task(), settings, tmp_path).recover(net(1))
    assert report.history.samples[0] == 48 > min(report.history.samples)


def test_a_step_with_checkpointing_takes_less():
    inputs, targets = next(iter(task().train))
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain, saved = step_bytes(model, (inputs, targets), F.cross_entropy, ("memory", "data"))
    assert saved < 0.8 * plain
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_records_and_sentences():
    history = History(losses=[1, 1], seconds=[2.0, 1.0], steps=[3, 2], samples=[48, 32])
    record = training_record(history, task().train)
    assert record == {
        "samples": 80,
        "steps": 5,
        "seconds": 3.0,
        "plain_samples": 96,
        "plain_steps": 12,
    }
    said = saved_text(("data", "memory", "steps"), [record, record], (1000, 250))
    assert said == (
        "--save data: 2 trainings of 6.0 s saw 160 samples instead of 192 (17% less).",
        "--save memory: a training step of the largest model takes 250 B instead of 1 kB on top of "
        "its weights (75% less).",
        "--save steps: 2 trainings of 6.0 s took 10 steps instead of 24 (58% less).",
    )
    assert saved_text((), [record]) == saved_text(("data",), []) == ()
    assert training_record(history, [1, 2])["plain_steps"] == 5


def test_a_run_saves_all_three_and_says_so(tmp_path):
    settings = FitSettings(
        epochs=4,
        routes=1,
        moves=("prune",),
        prune_ratios=(0.5,),
        recovery_epochs=4,
        save=("data", "memory", "steps"),
    )
    frontier = fit(
        tiny_vit_family(), "digits", target="cpu/eager", out=tmp_path / "run", settings=settings
    )
    said = [note for note in frontier.notes if note.startswith("--save")]
    assert [note.split(":")[0] for note in said] == ["--save data", "--save memory", "--save steps"]
    assert all("% less)" in note for note in said)
    journal = json.loads((tmp_path / "run" / "state" / "journal.json").read_text())
    elastic = journal["trainings"]["elastic"]
    assert elastic["samples"] < elastic["plain_samples"] == 4 * 960
    assert elastic["steps"] <= elastic["plain_steps"] / 2
    assert len(journal["trainings"]) > 1 and journal["step_bytes"][1] < journal["step_bytes"][0]
    assert FitSettings.from_dict(frontier.settings) == settings


# --- losses of samples ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [F.cross_entropy, bce_loss], ids=["cross entropy", "bce"])
def test_losses_of_samples_have_the_gradient_of_the_mean(loss):
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(6) % 4
    if loss is bce_loss:
        targets = F.one_hot(targets, 4).float()
    losses = per_sample(loss)(outputs, targets)
    assert losses.shape == (6,)
    (one,) = torch.autograd.grad(losses.mean(), outputs)
    (other,) = torch.autograd.grad(loss(outputs, targets), outputs)
    torch.testing.assert_close(one, other)
    alone = torch.stack([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(losses, alone)


def test_losses_that_compare_samples_are_refused():
    logits, teacher = torch.randn(8, 4), torch.randn(8, 4)
    with pytest.raises(TrainingError, match=r"compares samples|sample by sample"):
        per_sample(lambda z, t: z.var(dim=0, correction=0).sum() + t.sum() * 0)(logits, teacher)
    with pytest.raises(TrainingError, match=r"compares samples|sample by sample"):
        per_sample(dist_loss)(logits, teacher)


def test_losses_that_cannot_be_mapped_are_refused():
    def picky(outputs, targets):
        return outputs.mean() if float(outputs.sum()) > 0 else outputs.sum()

    with pytest.raises(TrainingError, match="sample by sample"):
        per_sample(picky)(torch.ones(3, 2), torch.zeros(3))


def test_losses_of_features_cannot_leave_samples_out():
    data, patches = task(), ("patch_embed",)
    with pytest.raises(TrainingError, match="features of whole batches"):
        distill(
            net(1),
            net(2),
            data,
            loss=HintKD(patches, patches),
            recipe=saving_recipe(("data",), net()),
        )
