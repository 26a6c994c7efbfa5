"""The training loop: the schedule, resuming, ending, and that it is plain AdamW underneath."""

import math
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import ArtifactError, Elastic, TrainingError
from sartor.train import TrainSettings, load_tensors, train
from sartor.train.schedule import warmup_cosine


def data(count=24, batch=8, shuffle=False):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(count, 4, generator=generator), torch.arange(count) % 3
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=shuffle)


def model(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 3))


def loss(net, inputs, targets):
    return F.cross_entropy(net(inputs), targets)


def same(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_equals_a_hand_written_loop():
    settings = TrainSettings(epochs=3, lr=0.01, weight_decay=0.1, warmup_epochs=1)
    ours, plain = model(), model()
    history = train(ours, data(), loss, settings)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for step, (x, y) in enumerate([batch for _ in range(3) for batch in data()]):
        rate = (step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 6))
        optimizer.param_groups[0]["lr"] = 0.01 * rate
        value = loss(plain, x, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert same(ours, plain)
    assert history.losses == pytest.approx(
        [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)], rel=1e-6
    )
    assert not ours.training


def test_schedule_reaches_its_ends():
    values = [warmup_cosine(step, 100, warmup=10, floor=0.1) for step in range(101)]
    assert values[0] == 0.1 and values[9] == values[10] == 1.0
    assert values[100] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_resumed_training_equals_an_uninterrupted_one(tmp_path):
    settings = TrainSettings(epochs=4, lr=0.01, seed=3)
    whole = model(dropout=0.5)
    history = train(whole, data(shuffle=True), loss, settings)

    def stop(epoch, _):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            model(dropout=0.5), data(shuffle=True), loss, settings, folder=tmp_path, on_epoch=stop
        )
    resumed = model(dropout=0.5)
    again = train(resumed, data(shuffle=True), loss, settings, folder=tmp_path)
    assert same(whole, resumed)
    assert again.losses == history.losses


def test_epochs_differ_and_the_global_generator_is_left_alone():
    orders = []

    class Watching(nn.Linear):
        def forward(self, x):
            orders.append(x[:, 0].tolist())
            return super().forward(x)

    net, before = Watching(4, 3), torch.get_rng_state()
    train(net, data(batch=24, shuffle=True), loss, TrainSettings(epochs=2))
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert torch.equal(before, torch.get_rng_state())


def test_loss_that_is_not_finite_keeps_the_last_good_epoch(tmp_path):
    net, kept = model(), []

    def breaking(model, inputs, targets):
        value = loss(model, inputs, targets)
        return value * math.nan if len(kept) == 2 else value

    def note(epoch, _):
        kept.append({k: v.clone() for k, v in net.state_dict().items()})

    with pytest.raises(
        TrainingError, match=r"nan in epoch 3, step 1; the weights of epoch 2 are kept"
    ):
        train(net, data(), breaking, TrainSettings(epochs=5), folder=tmp_path, on_epoch=note)
    assert all(torch.equal(value, kept[1][key]) for key, value in net.state_dict().items())


def test_deadline_ends_after_an_epoch():
    history = train(model(), data(), loss, TrainSettings(epochs=50), deadline=time.monotonic() - 1)
    assert len(history.losses) == 1 and history.stopped == "deadline"


def test_no_epochs_change_nothing():
    net = model()
    assert train(net, data(), loss, TrainSettings(epochs=0)).losses == []
    assert same(net, model()) and not net.training


def test_damaged_checkpoint_is_refused(tmp_path):
    train(model(), data(), loss, TrainSettings(epochs=1), folder=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="was changed since it was written"):
        train(model(), data(), loss, TrainSettings(epochs=2), folder=tmp_path)
    with pytest.raises(ArtifactError, match="not a readable safetensors"):
        path.write_bytes(b"garbage")
        load_tensors(path)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    train(model(), data(), loss, TrainSettings(epochs=1), folder=tmp_path)
    with pytest.raises(ArtifactError, match="of another model"):
        train(nn.Linear(4, 3), data(), loss, TrainSettings(epochs=2), folder=tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"epochs": -1}, {"lr": 0}, {"weight_decay": -1}, {"precision": "int3"}], ids=str
)
def test_illegal_settings_are_refused(wrong):
    with pytest.raises(TrainingError, match=r"must be|takes"):
        TrainSettings(**wrong)


class Spared(Elastic):
    """Two layers; the second one's weight is not to be decayed."""

    def __init__(self, names=("body.3.weight",)):
        super().__init__()
        self.body, self.names = model(), names

    configs = (0,)

    def set_config(self, index):
        pass

    def flops(self, index):
        return 0

    def extract(self, index):
        return self.body

    def no_weight_decay(self):
        return frozenset(self.names)

    def forward(self, x):
        return self.body(x)


def test_an_elastic_model_names_what_is_not_decayed():
    settings = TrainSettings(epochs=2, lr=0.01, weight_decay=0.5)
    spared, all_decayed, plain = Spared(), Spared(names=()), model()
    for net in (spared, all_decayed, plain):
        train(net, data(), loss, settings)
    assert same(all_decayed.body, plain) and not same(spared.body, plain)
    by_hand = model()
    named = dict(by_hand.named_parameters())
    spare = named.pop("3.weight")
    optimizer = torch.optim.AdamW(
        [{"params": list(named.values())}, {"params": [spare], "weight_decay": 0.0}],
        lr=0.01,
        weight_decay=0.5,
    )
    for step, (x, y) in enumerate([batch for _ in range(2) for batch in data()]):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * warmup_cosine(step, 6)
        loss(by_hand, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(spared.body, by_hand)


def test_a_training_with_two_groups_resumes(tmp_path):
    settings = TrainSettings(epochs=4, lr=0.01, weight_decay=0.5)
    whole, parted = Spared(), Spared()
    train(whole, data(), loss, settings)
    train(parted, data(), loss, settings, folder=tmp_path, deadline=time.monotonic())
    again = Spared()
    history = train(again, data(), loss, settings, folder=tmp_path)
    assert len(history.losses) == 4 and same(again, whole)
