import json
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sartor.core import ArtifactError, DataError, TrainingError
from sartor.data import digits_task
from sartor.nn import tiny_vit
from sartor.train import LogitFormat, TeacherCache, cache_teacher


def pictures(count: int = 50, shift: float = 0.0) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, 8, 8, generator=generator) + shift
    return DataLoader(TensorDataset(x, torch.arange(count) % 10), batch_size=16, shuffle=True)


def teacher(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tiny_vit(embed_dim=16, depth=2)


@torch.no_grad()
def answers(model: nn.Module, loader: DataLoader, size: int) -> Tensor:
    (inputs, _) = loader.dataset.tensors
    return torch.cat([model.eval()(part) for part in inputs.split(size)])


def test_single_precision_is_the_live_teacher_bit_for_bit(tmp_path) -> None:
    model, loader = teacher(), pictures()
    cache = cache_teacher(model, loader, tmp_path, dtype="float32", batch_size=8, shard_rows=24)
    assert len(cache) == 50 and len(cache.manifest["shards"]) == 3
    assert torch.equal(cache.rows(range(50)), answers(model, loader, 8))
    order = torch.randperm(50)
    assert torch.equal(cache.rows(order.tolist()), answers(model, loader, 8)[order])
    assert cache.check_teacher(model, loader) < 1e-5


def test_half_precision_errs_by_its_rounding(tmp_path) -> None:
    model, loader = teacher(), pictures()
    cache = cache_teacher(model, loader, tmp_path, batch_size=8)
    live = answers(model, loader, 8)
    gap = (cache.rows(range(50)) - live).abs()
    assert bool((gap <= live.abs() * 2.0**-11 + 2.0**-25).all()) and gap.max() > 0
    assert cache.size_bytes < 50 * 10 * 2 + 200


def test_top_k_keeps_their_probability_and_what_the_rest_has_together(tmp_path) -> None:
    model, loader = teacher(), pictures()
    exact, bounded = (
        cache_teacher(model, loader, tmp_path / d, dtype=d, top_k=3, batch_size=8)
        for d in ("float32", "float16")
    )
    live = answers(model, loader, 8).softmax(1)
    values, at = live.topk(3, dim=1)
    for cache, within in ((exact, 1e-6), (bounded, 2e-3)):
        stored = cache.rows(range(50)).softmax(1)
        torch.testing.assert_close(stored.gather(1, at), values, atol=within, rtol=0)
        rest = stored.scatter(1, at, 0.0)
        torch.testing.assert_close(rest.sum(1), 1 - values.sum(1), atol=within, rtol=0)
        shares = rest[rest > 0].view(50, 7)
        torch.testing.assert_close(shares, shares[:, :1].expand(-1, 7))


def test_rows_come_beside_the_items_they_belong_to(tmp_path) -> None:
    task, model = digits_task(), teacher()
    cache = cache_teacher(model, task.train, tmp_path, dtype="float32")
    torch.manual_seed(3)
    with torch.random.fork_rng():
        plain = list(task.train)
    beside = list(cache.beside(task.train))
    assert len(plain) == len(beside)
    for (x, y), (inputs, targets, _) in zip(plain, beside, strict=True):
        assert torch.equal(x, inputs) and torch.equal(y, targets)
    inputs, _, logits = beside[-1]
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(inputs), atol=1e-5, rtol=1e-5)


def test_loading_processes_give_the_same(tmp_path) -> None:
    loader = pictures()
    cache = cache_teacher(teacher(), loader, tmp_path)
    rows = []
    for workers in (0, 2):
        more = DataLoader(loader.dataset, batch_size=16, shuffle=False, num_workers=workers)
        rows.append(torch.cat([logits for *_, logits in cache.beside(more)]))
    assert torch.equal(*rows)


class Augmented(Dataset):
    """Noise from every global state that people draw from."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = torch.randn(1, 8, 8) + random.random() + np.random.rand()  # noqa: NPY002
        return drawn + index, index % 10


def test_augmentation_is_fixed_by_seed_and_item(tmp_path) -> None:
    loader = DataLoader(Augmented(), batch_size=5, shuffle=True)
    model = teacher()
    cache = cache_teacher(model, loader, tmp_path / "a", dtype="float32", seed=4)
    before = torch.get_rng_state(), random.getstate()
    first, second = (
        {
            float(x.sum()): z
            for xs, _, zs in cache.beside(loader)
            for x, z in zip(xs, zs, strict=True)
        }
        for _ in range(2)
    )
    assert len(first) == 20 and set(first) == set(second)
    assert random.getstate() == before[1]
    inputs, _, logits = next(iter(cache.beside(loader)))
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(inputs), atol=1e-5, rtol=1e-5)
    other = cache_teacher(model, loader, tmp_path / "b", dtype="float32", seed=5)
    assert not torch.equal(cache.rows(range(20)), other.rows(range(20)))


class Random(Augmented):
    """Draws from a generator of its own, which nobody can fix."""

    generator = torch.Generator().manual_seed(0)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(1, 8, 8, generator=self.generator), 0


def test_data_that_cannot_be_fixed_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="another item each time"):
        cache_teacher(teacher(), DataLoader(Random(), batch_size=5), tmp_path)
    for loader in ([(torch.zeros(2, 1, 8, 8), torch.zeros(2))], DataLoader(Random(), None)):
        with pytest.raises(DataError, match="torch DataLoader with a batch_size"):
            cache_teacher(teacher(), loader, tmp_path)
    assert not list(tmp_path.iterdir())


class Counting(nn.Module):
    """Counts the rows that it is asked about; stops as a killed process does, if told to."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.net, self.rows, self.stop = teacher(), 0, stop

    def forward(self, inputs: Tensor) -> Tensor:
        if self.stop is not None and self.rows >= self.stop:
            raise KeyboardInterrupt
        self.rows += len(inputs)
        return self.net(inputs)


def test_a_killed_pass_goes_on_after_its_last_shard(tmp_path) -> None:
    loader, settings = pictures(), {"batch_size": 8, "shard_rows": 16, "dtype": "float32"}
    killed, again, whole = Counting(stop=40), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        cache_teacher(killed, loader, tmp_path / "a", **settings)
    with pytest.raises(ArtifactError, match="has 32 of 50 rows; call cache_teacher again"):
        TeacherCache(tmp_path / "a")
    resumed = cache_teacher(again, loader, tmp_path / "a", **settings)
    assert again.rows == 50 - 32
    wanted = cache_teacher(whole, loader, tmp_path / "b", **settings)
    assert whole.rows == 50 and resumed.manifest == wanted.manifest
    assert torch.equal(resumed.rows(range(50)), wanted.rows(range(50)))
    third = Counting()
    cache_teacher(third, loader, tmp_path / "a", **settings)
    assert third.rows == 0


def test_a_cache_of_something_else_is_refused(tmp_path) -> None:
    cache_teacher(teacher(), pictures(), tmp_path)
    for arguments, more, what in (
        ((teacher(1), pictures()), {}, "another teacher"),
        ((teacher(), pictures(49)), {}, "another data"),
        ((teacher(), pictures(shift=1e-3)), {}, "another data"),
        ((teacher(), pictures()), {"dtype": "float32"}, "another setting of format"),
        ((teacher(), pictures()), {"top_k": 2}, "another setting of format"),
        ((teacher(), pictures()), {"seed": 1}, "another setting of seed"),
    ):
        with pytest.raises(ArtifactError, match=what):
            cache_teacher(*arguments, tmp_path, **more)


def test_another_architecture_with_the_same_weights_is_told(tmp_path) -> None:
    class Scaled(nn.Sequential):
        factor = 1.0

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * self.factor

    model, loader = Scaled(teacher()), pictures()
    cache = cache_teacher(model, loader, tmp_path)
    model.factor = 1.5
    with pytest.raises(ArtifactError, match="deviates by"):
        cache.check_teacher(model, loader)


@pytest.mark.parametrize("damage", ["changed", "removed", "list"])
def test_damage_is_told(tmp_path, damage: str) -> None:
    cache_teacher(teacher(), pictures(), tmp_path)
    (shard,) = tmp_path.glob("*.safetensors")
    if damage == "changed":
        raw = bytearray(shard.read_bytes())
        raw[-1] ^= 1
        shard.write_bytes(raw)
    elif damage == "removed":
        shard.unlink()
    else:
        (tmp_path / "teacher_cache.json").write_text(json.dumps({"rows": 50}))
    for call in (
        lambda: TeacherCache(tmp_path),
        lambda: cache_teacher(teacher(), pictures(), tmp_path),
    ):
        with pytest.raises(ArtifactError, match=r"was changed or removed|not the list"):
            call()


def test_teachers_that_cannot_be_kept_are_refused(tmp_path) -> None:
    class Loud(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.net, self.factor = teacher(), factor

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs) * self.factor

    with pytest.raises(TrainingError, match="not finite"):
        cache_teacher(Loud(float("nan")), pictures(), tmp_path / "nan")
    with pytest.raises(TrainingError, match='float16 cannot hold; keep them as dtype="float32"'):
        cache_teacher(Loud(1e6), pictures(), tmp_path / "loud")
    assert len(cache_teacher(Loud(1e6), pictures(), tmp_path / "wide", dtype="float32")) == 50
    with pytest.raises(TrainingError, match="top_k=10 keeps all of 10 classes"):
        cache_teacher(teacher(), pictures(), tmp_path / "all", top_k=10)


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"top_k": 0}], ids=str)
def test_formats_that_do_not_exist_are_refused(wrong: dict) -> None:
    with pytest.raises(TrainingError, match="float32 or float16 and top_k"):
        LogitFormat(**wrong)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"shard_rows": 0}, {"seed": -1}], ids=str)
def test_settings_out_of_range_are_refused(tmp_path, wrong: dict) -> None:
    with pytest.raises(TrainingError, match="at least 1 and a seed of at least 0, got"):
        cache_teacher(teacher(), pictures(), str(tmp_path), **wrong)
