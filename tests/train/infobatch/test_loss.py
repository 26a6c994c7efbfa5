"""The weighted mean, what is kept as score, whole trainings on it, and its refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import TrainingError
from sartor.train import (
    InfoBatchSettings,
    LossPruningSampler,
    PruningLoss,
    TrainSettings,
    prune_data,
    pruned_mean,
    train,
)
from sartor.train.infobatch import loss as infobatch_loss

EPOCHS = 8
SETTINGS = TrainSettings(epochs=EPOCHS, lr=0.01, weight_decay=0.1, warmup_epochs=1, seed=3)


def data() -> TensorDataset:
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long())


def model(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))


def losses(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(net(inputs), targets, reduction="none")


def pruned(**settings) -> tuple[DataLoader, PruningLoss]:
    loader = DataLoader(data(), batch_size=8, shuffle=True)
    loader = prune_data(loader, epochs=EPOCHS, settings=InfoBatchSettings(**settings))
    return loader, PruningLoss(loader.sampler, losses)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_weighted_loss_and_unweighted_score() -> None:
    sampler = LossPruningSampler(16, epochs=8)
    sampler.update(torch.arange(16), torch.arange(16) / 16)
    sampler.set_epoch(1)
    index = torch.tensor([0, 9, 3])
    given = torch.tensor([0.5, 2.0, 1.0], requires_grad=True)
    value = pruned_mean(sampler, given, index)
    value.backward()
    assert value.item() == pytest.approx((2 * 0.5 + 2.0 + 2 * 1.0) / 3)
    torch.testing.assert_close(given.grad, torch.tensor([2.0, 1.0, 2.0]) / 3)
    assert sampler.scores[index].tolist() == [0.5, 2.0, 1.0] and not sampler.scores.requires_grad


def test_scores_of_their_own() -> None:
    sampler = LossPruningSampler(2, epochs=2)
    mixed = torch.tensor([3.0, 5.0])
    value = pruned_mean(sampler, mixed, torch.arange(2), scores=torch.tensor([0.25, 0.5]))
    assert value.item() == 4.0 and sampler.scores.tolist() == [0.25, 0.5]


def test_low_precision_losses_keep_their_type() -> None:
    sampler = LossPruningSampler(2, epochs=2)
    value = pruned_mean(sampler, torch.ones(2, dtype=torch.bfloat16), torch.arange(2))
    assert value.dtype == torch.bfloat16 and sampler.scores.dtype == torch.float32


@pytest.mark.parametrize("off", [{"prune_ratio": 0.0}, {"anneal_fraction": 0.0}], ids=str)
def test_switched_off_it_is_the_plain_training_bit_for_bit(off: dict) -> None:
    ours, plain = model(), model()
    loader, loss = pruned(**off)
    history = train(ours, loader, loss, SETTINGS)
    order = LossPruningSampler(40, epochs=EPOCHS, settings=InfoBatchSettings(**off))

    def plain_loss(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return losses(net, inputs, targets).mean()

    unpruned = DataLoader(data(), batch_size=8, sampler=order)
    assert train(plain, unpruned, plain_loss, SETTINGS).losses == history.losses
    assert same(ours, plain) and loader.sampler.saved_fraction == 0


def test_equals_a_hand_written_loop() -> None:
    ours, plain = model(), model()
    loader, loss = pruned()
    history = train(ours, loader, loss, SETTINGS)
    again, _ = pruned()
    sampler, scores = again.sampler, torch.ones(40)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        low = scores < scores.mean() if 0 < epoch < 7 else torch.zeros(40, dtype=torch.bool)
        weight = torch.ones(40)
        weight[low] = int(low.sum()) / max(1, int(low.sum()) // 2)
        steps = len(again)
        for number, (x, y, index) in enumerate(again):
            step = epoch * 5 + number * 5 // steps
            rate = (step + 1) / 5 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 35))
            optimizer.param_groups[0]["lr"] = 0.01 * rate
            each = losses(plain, x, y)
            (weight[index] * each).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            scores[index] = each.detach()
            sampler.update(index, each)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert history.samples[0] == history.samples[7] == 40 and max(history.samples[1:7]) < 40
    assert loader.sampler.saved_fraction == pytest.approx(1 - sum(history.samples) / (40 * EPOCHS))


@pytest.mark.parametrize("done", [1, 3, 5])
def test_a_killed_training_resumes_the_same(tmp_path, done: int) -> None:
    whole, resumed = model(dropout=0.5), model(dropout=0.5)
    loader, loss = pruned()
    history = train(whole, loader, loss, SETTINGS)

    def stop(epoch: int, _: float) -> None:
        if epoch == done:
            raise KeyboardInterrupt

    killed, its_loss = pruned()
    with pytest.raises(KeyboardInterrupt):
        train(model(dropout=0.5), killed, its_loss, SETTINGS, folder=tmp_path, on_epoch=stop)
    again, its_loss = pruned()
    later = train(resumed, again, its_loss, SETTINGS, folder=tmp_path)
    assert same(whole, resumed) and later.losses == history.losses
    assert later.samples == history.samples and min(later.samples) < 40
    assert torch.equal(again.sampler.scores, loader.sampler.scores)
    assert again.sampler.saved_fraction == loader.sampler.saved_fraction


@pytest.mark.parametrize("steps", [1, 3])
def test_a_plain_loop_killed_in_mid_epoch_resumes_the_same(steps: int) -> None:
    """Weights, momentum, scores and the rest of the epoch go on, of a loop of one's own."""

    def go(state: dict | None = None, stop: tuple[int, int] | None = None):
        net, (loader, loss) = model(), pruned()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        parts = {"net": net, "optimizer": optimizer, "sampler": loader.sampler}
        if state:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        for epoch in range(loader.sampler.epoch, EPOCHS):
            loader.sampler.set_epoch(epoch)
            for number, batch in enumerate(loader):
                if (epoch, number) == stop:
                    return net, {name: part.state_dict() for name, part in parts.items()}
                loss(net, *batch).backward()
                optimizer.step()
                optimizer.zero_grad()
        return net, loader.sampler.scores

    whole, scores = go()
    _, state = go(stop=(2, steps))
    resumed, again = go(state)
    assert same(whole, resumed) and torch.equal(scores, again)


@pytest.mark.parametrize(
    "wrong", [torch.tensor(1.0), torch.ones(8, 3), torch.ones(7)], ids=["mean", "tokens", "short"]
)
def test_losses_that_are_not_one_a_sample_are_refused(wrong: Tensor) -> None:
    sampler = LossPruningSampler(8, epochs=2)
    match = r"per-sample losses of shape \(batch,\), here \(8,\), got .*reduction='none'"
    with pytest.raises(TrainingError, match=match):
        pruned_mean(sampler, wrong, torch.arange(8))
    with pytest.raises(TrainingError, match=match):
        pruned_mean(sampler, torch.ones(8), torch.arange(8), scores=wrong)


def test_stripes_without_their_processes_are_refused() -> None:
    sampler = LossPruningSampler(8, epochs=2, rank=0, world_size=2)
    with pytest.raises(TrainingError, match="stripes for 2 processes, and 1 train"):
        pruned_mean(sampler, torch.ones(4), torch.arange(4))


def test_two_losses_of_one_batch_are_refused() -> None:
    sampler = LossPruningSampler(4, epochs=2)
    pruned_mean(sampler, torch.ones(4), torch.arange(4))
    with pytest.raises(TrainingError, match="hand the losses of each batch over once"):
        pruned_mean(sampler, torch.ones(4), torch.arange(4))


def test_a_batch_beyond_the_epoch_is_refused_in_several_processes(monkeypatch) -> None:
    sampler = LossPruningSampler(4, epochs=2)
    pruned_mean(sampler, torch.ones(4), torch.arange(4))
    monkeypatch.setattr(infobatch_loss, "_world_size", lambda _: 2)
    joined = torch.arange(4), torch.ones(4), torch.arange(2)
    monkeypatch.setattr(infobatch_loss, "_joined", lambda *_: joined)
    with pytest.raises(TrainingError, match="hand the losses of each batch over once"):
        pruned_mean(sampler, torch.ones(2), torch.arange(2))
