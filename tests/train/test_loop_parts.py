"""What the loop takes beside AdamW and epochs of one length: optimisers, and samplers that leave
samples out and have a state.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from sartor.core import ArtifactError
from sartor.core.files import read_json, write_json
from sartor.train import TrainSettings, train
from sartor.train.schedule import warmup_cosine

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 3
SETTINGS = TrainSettings(epochs=4, lr=0.05, weight_decay=0.1, warmup_epochs=1)


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))


def loss(net, inputs, targets):
    return F.cross_entropy(net(inputs), targets)


def same(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


class Halving(Sampler):
    """The samples with the highest remembered numbers; each time one is drawn its number falls."""

    def __init__(self):
        self.numbers, self.epoch = torch.arange(24.0), 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 24 if self.epoch in (0, 3) else 16

    def __iter__(self):
        drawn = self.numbers.argsort(descending=True)[: len(self)].tolist()
        for index in drawn:
            self.numbers[index] -= 5
            yield index

    def state_dict(self):
        return {"numbers": self.numbers, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.numbers, self.epoch = state["numbers"].clone(), state["epoch"]


def sgd(groups):
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True)


def test_another_optimizer_equals_a_hand_written_loop():
    ours, plain = model(), model()
    train(ours, DataLoader(TensorDataset(X, Y), batch_size=8), loss, SETTINGS, optimizer=sgd)
    by_hand = torch.optim.SGD(
        plain.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1
    )
    for step in range(12):
        by_hand.param_groups[0]["lr"] = 0.05 * warmup_cosine(step, 12, warmup=3)
        rows = slice(step % 3 * 8, step % 3 * 8 + 8)
        loss(plain, X[rows], Y[rows]).backward()
        by_hand.step()
        by_hand.zero_grad()
    assert same(ours, plain)


def test_rates_of_groups_and_of_tensors_follow_the_schedule():
    seen = []

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([float(group["lr"]) for group in self.param_groups])
            return super().step(closure)

    def made(groups):
        (group,) = groups
        first, *rest = group["params"]
        tensor = torch.tensor(0.5)
        return Watching([{"params": [first], "lr": tensor}, {**group, "params": rest}])

    data = DataLoader(TensorDataset(X, Y), batch_size=8)
    train(model(), data, loss, TrainSettings(epochs=2, lr=0.05), optimizer=made)
    factors = [warmup_cosine(step, 6) for step in range(6)]
    expected = [[0.5 * factor, 0.05 * factor] for factor in factors]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))


def test_epochs_may_be_shorter_than_the_first():
    net, plain, steps = model(), model(), []
    data = DataLoader(TensorDataset(X, Y), batch_size=4, sampler=Halving())
    history = train(net, data, loss, SETTINGS, on_step=steps.append)
    assert history.steps == [6, 4, 4, 6] and history.samples == [24, 16, 16, 24]
    # the shorter epochs go through the same schedule in larger strides
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 20, 21, 22, 23]
    sampler, done = Halving(), iter(steps)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.1)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for rows in torch.tensor(list(sampler)).split(4):
            optimizer.param_groups[0]["lr"] = 0.05 * warmup_cosine(next(done), 24, warmup=6)
            loss(plain, X[rows], Y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert same(net, plain)


def halved(folder=None, optimizer=None, on_epoch=None):
    net, sampler = model(), Halving()
    data = DataLoader(TensorDataset(X, Y), batch_size=4, sampler=sampler)
    history = train(
        net, data, loss, SETTINGS, optimizer=optimizer, folder=folder, on_epoch=on_epoch
    )
    return net, sampler, history


@pytest.mark.parametrize("optimizer", [None, sgd], ids=["adamw", "sgd"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_killed_run_with_a_sampler_that_remembers_resumes(tmp_path, optimizer, epochs):
    whole, sampler, history = halved(optimizer=optimizer)

    def stop(epoch, _):
        if epoch == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halved(tmp_path, optimizer, stop)
    resumed, again, later = halved(tmp_path, optimizer)
    assert same(whole, resumed) and torch.equal(sampler.numbers, again.numbers)
    assert later.losses == history.losses and later.steps == history.steps


def test_checkpoint_without_what_the_sampler_remembers_is_refused(tmp_path):
    data = DataLoader(TensorDataset(X, Y), batch_size=4)
    train(model(), data, loss, TrainSettings(epochs=1), folder=tmp_path)
    with pytest.raises(ArtifactError, match="no state of the sampler"):
        halved(tmp_path)


def test_checkpoint_that_counts_no_steps_is_refused(tmp_path):
    data = DataLoader(TensorDataset(X, Y), batch_size=4)
    train(model(), data, loss, TrainSettings(epochs=1), folder=tmp_path)
    record = read_json(tmp_path / "checkpoint.json")
    del record["progress"]["history"]["steps"]
    write_json(tmp_path / "checkpoint.json", record)
    with pytest.raises(ArtifactError, match="did not count steps"):
        train(model(), data, loss, TrainSettings(epochs=2), folder=tmp_path)


def test_batches_without_a_length_are_counted_once():
    class Endless:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([(X[:8], Y[:8]), (X[8:16], Y[8:16])])

    data = Endless()
    history = train(model(), data, loss, TrainSettings(epochs=3))
    assert history.steps == [2, 2, 2] and data.passes == 4
