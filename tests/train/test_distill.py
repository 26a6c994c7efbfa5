import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sartor
from sartor.core import ArtifactError, Task, TrainingError
from sartor.losses import DistillationLoss, MatchOutputs, Outputs, VanillaKD, kd_loss
from sartor.train import TrainSettings, cache_teacher, distill, train

SETTINGS = TrainSettings(epochs=2, lr=0.01, seed=1)


def task(classes: int | None = 3, *, count: int = 24, shuffle: bool = True, size: int = 4) -> Task:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(count, 1, size, size, generator=generator), torch.arange(count) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle)
    return Task.from_loader(loader, lambda model: 0.5, num_classes=classes)


def net(seed: int, *, size: int = 4, classes: int = 3, width: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(size * size, width),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(width, classes),
        )


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Projected(DistillationLoss):
    """Hidden features of the student, projected, against those of the teacher."""

    student_taps = teacher_taps = ("1",)

    def prepare(self, student: Outputs, teacher: Outputs) -> tuple[str, ...]:
        mine, wanted = student.features["1"], teacher.features["1"]
        self.projector = nn.Linear(mine.shape[1], wanted.shape[1])
        return (f"1 goes from {mine.shape[1]} to {wanted.shape[1]}",)

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        wanted = teacher.features["1"]
        assert not wanted.requires_grad and not teacher.logits.requires_grad
        gap = F.mse_loss(self.projector(student.features["1"]), wanted)
        return F.cross_entropy(student.logits, targets) + gap


def test_it_is_the_loop_with_the_loss() -> None:
    ours, plain, teacher = net(0), net(0), net(5).eval()
    report = sartor.distill(ours, teacher, task(), settings=SETTINGS)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher(inputs)
        logits = model(inputs)
        return F.cross_entropy(logits, targets) + kd_loss(logits, taught)

    history = train(plain, task().train, loss, SETTINGS)
    assert same(ours, plain) and report.history.losses == history.losses
    assert (report.loss, report.bridges, report.bridge_params) == ("VanillaKD", (), 0)
    assert not report.cached and report.seconds > 0 and not ours.training


def test_a_teacher_in_train_mode_teaches_in_eval_mode_and_gets_its_mode_back() -> None:
    modes = []
    made = []
    for training in (False, True):
        teacher, student = net(5).train(training), net(0)
        teacher[3].eval()  # one part differs from the rest
        before = copy.deepcopy(teacher)
        handle = teacher.register_forward_hook(lambda m, *_: modes.append(m.training))
        distill(student, teacher, task(), settings=SETTINGS)
        handle.remove()
        assert same(teacher, before)
        assert [m.training for m in teacher.modules()] == [m.training for m in before.modules()]
        made.append(student)
    assert modes and not any(modes) and same(*made)


def test_the_teacher_gets_no_gradients() -> None:
    teacher = net(5)
    distill(net(0), teacher, task(), settings=SETTINGS)
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_what_bridges_shapes_trains_is_told_and_is_dropped() -> None:
    student, teacher, loss = net(0, width=6), net(5, width=10), Projected()
    names, before = list(student.state_dict()), copy.deepcopy(student)
    report = distill(student, teacher, task(), loss=loss, settings=SETTINGS)
    assert report.bridges == ("1 goes from 6 to 10",) and report.bridge_params == 70
    assert list(student.state_dict()) == names and not same(student, before)
    fresh = Projected()
    distill(net(0, width=6), teacher, task(), loss=fresh, settings=TrainSettings(epochs=0, seed=1))
    assert not torch.equal(loss.projector.weight, fresh.projector.weight)
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())


def test_a_seed_gives_the_same_again_and_the_global_state_is_left_alone() -> None:
    made = []
    for noise in (1, 2):
        student, data = net(0, width=6), task()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        distill(student, net(5), data, loss=Projected(), settings=SETTINGS)
        assert torch.equal(before, torch.get_rng_state())
        made.append(student)
    assert same(*made)


def test_hooks_are_removed_when_training_fails() -> None:
    student, teacher = net(0), net(5)

    class Broken(Projected):
        def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
            return super().forward(student, teacher, targets) * float("nan")

    with pytest.raises(TrainingError, match="loss became nan"):
        distill(student, teacher, task(), loss=Broken(), settings=SETTINGS)
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())


def test_resumed_with_its_projectors(tmp_path) -> None:
    settings = TrainSettings(epochs=3, lr=0.01)
    whole = net(0, width=6)
    distill(whole, net(5), task(), loss=Projected(), settings=settings)

    def stop(epoch: int, _: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            net(0, width=6),
            net(5),
            task(),
            loss=Projected(),
            settings=settings,
            folder=tmp_path,
            on_epoch=stop,
        )
    resumed = net(0, width=6)
    distill(resumed, net(5), task(), loss=Projected(), settings=settings, folder=tmp_path)
    assert same(whole, resumed)


def test_a_resized_teacher_sees_the_students_picture() -> None:
    seen = []
    teacher = net(5, size=8)
    handle = teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = task(shuffle=False)
    distill(net(0), teacher, data, teacher_resize=(1, 8, 8), settings=TrainSettings(epochs=1))
    handle.remove()
    wanted = [F.interpolate(x, size=(8, 8), mode="bilinear", antialias=True) for x, _ in data.train]
    assert torch.equal(torch.cat(seen[1:]), torch.cat(wanted))  # the first one is the probe


def test_outputs_without_classes_are_matched() -> None:
    made = MatchOutputs(lambda z, y: z.square().mean(), alpha=0.5)
    report = distill(net(0), net(5), task(None), loss=made, settings=SETTINGS)
    assert report.loss == "MatchOutputs"


class Gone(nn.Module):
    """A teacher that says NaN, from the second time on if asked to."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.net, self.after = net(5), after

    def forward(self, inputs: Tensor) -> Tensor:
        self.after -= 1
        return self.net(inputs) * (float("nan") if self.after < 0 else 1.0)


@pytest.mark.parametrize("after", [0, 3])
def test_nan_teachers_are_refused(after: int) -> None:
    with pytest.raises(TrainingError, match="teacher gives outputs that are not finite"):
        distill(net(0), Gone(after), task(), settings=SETTINGS)


def test_pairs_that_do_not_match_are_refused() -> None:
    cases = [
        ((net(0), net(5, classes=4)), {}, r"shape \(3,\) and the teacher's \(4,\).*new head"),
        ((net(0, classes=4), net(5, classes=4)), {}, "have 4 classes and 'custom' has 3"),
        ((net(0), net(5, size=8)), {}, r"teacher does not take.*\(1, 4, 4\).*teacher_resize="),
        ((net(0), net(5, size=8)), {"teacher_resize": (1, 6, 6)}, r"take inputs.*\(1, 6, 6\)"),
        ((net(0), net(5)), {"teacher_resize": (8, 8)}, r"width\), got \(8, 8\)"),
        ((net(0), net(5)), {"teacher_resize": (1, 0, 8)}, r"got \(1, 0, 8\)"),
        ((net(0, size=8), net(5)), {}, r"student does not take inputs of shape \(1, 4, 4\)"),
        ((net(0), None), {}, "needs a teacher or a cache"),
        ((net(0), net(5)), {"loss": "vanila"}, "no distiller 'vanila'"),
    ]
    for models, more, message in cases:
        with pytest.raises(TrainingError, match=message):
            distill(*models, task(), settings=SETTINGS, **more)
    with pytest.raises(TrainingError, match="own teacher; give a copy"):
        student = net(0)
        distill(student, student, task())
    with pytest.raises(TrainingError, match="no classes, for which 'vanilla' is made"):
        distill(net(0), net(5), task(None))


def test_a_cached_teacher_teaches_what_the_live_one_does(tmp_path) -> None:
    data, teacher = task(), net(5)
    cache = cache_teacher(teacher, data.train, tmp_path, dtype="float32", batch_size=8)
    live, cached, alone = net(0), net(0), net(0)
    distill(live, teacher, data, settings=SETTINGS)
    report = distill(cached, teacher, data, settings=SETTINGS, cache=cache)
    distill(alone, None, data, settings=SETTINGS, cache=cache)
    assert report.cached and same(cached, alone)
    for a, b in zip(live.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_cached_teacher_is_not_asked_again(tmp_path) -> None:
    data, teacher = task(count=64), net(5)
    cache = cache_teacher(teacher, data.train, tmp_path)
    asked = []
    handle = teacher.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    distill(net(0), teacher, data, settings=SETTINGS, cache=cache)
    handle.remove()
    assert sum(asked) <= 32 + 2  # the check, and the probe of shapes


def test_caches_that_do_not_fit_are_refused(tmp_path) -> None:
    data, teacher = task(), net(5)
    cache = cache_teacher(teacher, data.train, tmp_path)
    with pytest.raises(ArtifactError, match="of another teacher"):
        distill(net(0), net(6), data, cache=cache)
    with pytest.raises(ArtifactError, match="of other data"):
        distill(net(0), teacher, task(count=32), cache=cache)
    with pytest.raises(ArtifactError, match=r"resized to None, asked for is \(1, 8, 8\)"):
        distill(net(0), teacher, data, cache=cache, teacher_resize=(1, 8, 8))
    with pytest.raises(TrainingError, match=r"needs the teacher's features \(1\)"):
        distill(net(0), teacher, data, cache=cache, loss=Projected())
    with pytest.raises(TrainingError, match=r"shape \(4,\) and the teacher's \(3,\)"):
        distill(net(0, classes=4), None, data, cache=cache)


def test_vanilla_is_the_default() -> None:
    one, other = net(0), net(0)
    distill(one, net(5), task(), settings=SETTINGS)
    distill(other, net(5), task(), loss=VanillaKD(), settings=SETTINGS)
    assert same(one, other)
