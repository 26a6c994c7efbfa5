import copy
import math

import pytest
import torch
from PIL import Image
from torch import nn

from sartor.core import Task, TrainingError
from sartor.losses import Outputs
from sartor.nn.sources import seeded
from sartor.train import TrainSettings, distill
from sartor.train.compact_recipe import CompactRecipe, auto_ema_decay, prepare_compact

SMALL = CompactRecipe(epochs=4, warmup_epochs=1, optimizer="sgd", lr=0.1, batch_size=8)


def small_net() -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 4, 4, generator=draw), torch.randint(3, (8,), generator=draw)


def take(training, steps: int, first: int = 0) -> None:
    for seed in range(first, first + steps):
        images, labels = batch(seed)
        training.step(nn.functional.cross_entropy(training.model(images), labels))


def test_the_rate_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    training = prepare_compact(small_net(), SMALL, steps_per_epoch=5)
    rates = []
    for seed in range(20):
        rates.append(training.optimizer.param_groups[0]["lr"])
        take(training, 1, seed)
    warm = [1e-4 + (0.1 - 1e-4) * step / 5 for step in range(5)]
    cosine = [1e-5 + (0.1 - 1e-5) * 0.5 * (1 + math.cos(math.pi * s / 15)) for s in range(15)]
    assert rates == pytest.approx(warm + cosine)


def test_rates_follow_the_batch() -> None:
    quarter = prepare_compact(small_net(), SMALL, steps_per_epoch=5, batch_size=2)
    whole = prepare_compact(small_net(), SMALL, steps_per_epoch=5)
    for training in (quarter, whole):
        take(training, 9)
    ours, theirs = (t.optimizer.param_groups[0]["lr"] for t in (quarter, whole))
    assert ours == pytest.approx(theirs / 4)


def test_norms_and_biases_are_not_decayed() -> None:
    training = prepare_compact(small_net(), SMALL, steps_per_epoch=5)
    groups = {
        g["weight_decay"]: {p.ndim for p in g["params"]} for g in training.optimizer.param_groups
    }
    assert groups == {0.0: {1}, 2e-5: {2, 4}}


def test_the_average_is_the_recursion_over_weights_and_statistics() -> None:
    training = prepare_compact(small_net(), SMALL, steps_per_epoch=5)
    decay = auto_ema_decay(20)
    assert decay == 0.5
    expected = {
        k: v.double() for k, v in training.model.state_dict().items() if v.is_floating_point()
    }
    expected = copy.deepcopy(expected)
    for seed in range(6):
        take(training, 1, seed)
        now = training.model.state_dict()
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    found = training.averaged.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-5, atol=1e-7)
    assert "1.running_mean" in expected and not training.averaged.training


def test_a_decay_that_is_given_is_taken() -> None:
    recipe = CompactRecipe(ema_decay=0.9999)
    assert prepare_compact(small_net(), recipe, steps_per_epoch=1).ema.decay == 0.9999


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.0), (10, 0.0), (1000, 0.99), (10**7, 0.9999)])
def test_the_average_spans_a_tenth_of_the_training(steps: int, decay: float) -> None:
    assert auto_ema_decay(steps) == pytest.approx(decay)


@pytest.mark.parametrize("optimizer", ["lamb", "sgd", "adamw"])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(optimizer: str) -> None:
    recipe = CompactRecipe(epochs=2, warmup_epochs=1, optimizer=optimizer, lr=0.01)
    whole = prepare_compact(small_net(), recipe, steps_per_epoch=3)
    take(whole, 6)
    first = prepare_compact(small_net(), recipe, steps_per_epoch=3)
    take(first, 2)
    again = prepare_compact(small_net(), recipe, steps_per_epoch=3)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    take(again, 4, first=2)
    for ours, theirs in ((again.model, whole.model), (again.averaged, whole.averaged)):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_the_defaults_are_what_the_card_says() -> None:
    recipe = CompactRecipe()
    assert (recipe.epochs, recipe.optimizer, recipe.lr, recipe.batch_size) == (
        600,
        "lamb",
        5e-3,
        2048,
    )
    loss = recipe.loss()
    assert (loss.weight, loss.label_weight, loss.temperature, loss.label_smoothing) == (
        1,
        1,
        1,
        0.1,
    )
    assert prepare_compact(small_net(), recipe, steps_per_epoch=625).ema.decay == 0.9999
    logits = torch.zeros(2, 2)
    value = loss(Outputs(logits), Outputs(torch.randn(2, 2)), torch.tensor([0, 1]))
    assert value.item() == pytest.approx(2 * math.log(2))


def test_its_loss_is_one_that_distill_takes() -> None:
    batches = [batch(seed) for seed in range(3)]
    task = Task.from_loader(batches, lambda model: 0.0, num_classes=3)
    student, teacher = small_net(), small_net().eval()
    losses = []
    for settings in (TrainSettings(epochs=1, lr=1e-9), TrainSettings(epochs=20, lr=1e-2)):
        report = distill(student, teacher, task, loss=CompactRecipe().loss(), settings=settings)
        losses.append(report.history.losses[-1])
    assert losses[1] < losses[0]


def test_pictures_become_inputs() -> None:
    transform = CompactRecipe().transform((3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    image = transform(Image.new("RGB", (50, 40), (255, 0, 127)))
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32


def test_without_augmentation_only_crop_and_flip_are_left() -> None:
    recipe = CompactRecipe(augment=None, erase=0.0)
    transform = recipe.transform((3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    names = [type(step).__name__ for step in transform.transforms]
    assert not {"RandAugment", "RandomErasing"} & set(names)
    assert "RandomHorizontalFlip" in names


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"epochs": 3}, "0 <= warmup_epochs < epochs"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"lr": 0}, "lr > 0"),
        ({"weight_decay": -1}, "weight_decay, warmup_lr and min_lr >= 0"),
        ({"ema_decay": 1.0}, r"ema_decay in \[0, 1\)"),
        ({"erase": 2}, r"erase in \[0, 1\]"),
        ({"temperature": 0}, "temperature > 0"),
        ({"label_smoothing": 1.0}, "label_smoothing in"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        CompactRecipe(**setting)


def test_trainings_that_cannot_be_are_refused() -> None:
    with pytest.raises(TrainingError, match="at least 1 step an epoch"):
        prepare_compact(small_net(), SMALL, steps_per_epoch=0)
    with pytest.raises(TrainingError, match="cannot make the optimiser 'lamp'"):
        prepare_compact(small_net(), CompactRecipe(optimizer="lamp"), steps_per_epoch=1)
    with pytest.raises(TrainingError, match="at least 1 step, got 0"):
        auto_ema_decay(0)
