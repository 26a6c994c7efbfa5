"""CDFKD-MFS as a whole: no image is read, runs repeat and resume, what does not fit is refused."""

import copy

import pytest
import torch
from torch import nn

from sartor.core import DataError, Task, TrainingError
from sartor.losses.batch_norm_statistics import tracking_norms
from sartor.nn.cdfkd_mfs.image_generators import ImageGenerator
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent
from sartor.reproduce.cdfkd_mfs_nets import conv_student, conv_teacher, sealed
from sartor.train import load_tensors, save_tensors
from sartor.train.cdfkd_mfs.distiller import DataFreeDistiller, distill_data_free
from sartor.train.cdfkd_mfs.settings import DataFreeSettings, DataFreeWeights

SHORT = DataFreeSettings(iterations=3, batch_size=8, student_steps=2)


def make_generator(seed: int = 0, **kwargs: int) -> ImageGenerator:
    torch.manual_seed(seed)
    return ImageGenerator(**{"latent_dim": 4, "image_size": 8, "channels": 1, "width": 8, **kwargs})


def make_teachers(count: int = 3) -> list[nn.Module]:
    return [conv_teacher(seed).eval() for seed in range(count)]


def digits_like() -> Task:
    example = torch.zeros(1, 1, 8, 8)
    return Task(name="t", train=[], selection=[], validation=[], example=example, num_classes=10)


def distiller(settings: DataFreeSettings = SHORT, **more) -> DataFreeDistiller:
    return DataFreeDistiller(
        more.pop("student", None) or conv_student(3, seed=0),
        more.pop("teachers", None) or make_teachers(),
        more.pop("generator", None) or make_generator(),
        settings,
        **more,
    )


def test_not_one_real_image_is_read() -> None:
    task, data = sealed(digits_like())
    for loader in (task.train, task.selection, task.validation):
        with pytest.raises(DataError, match="sealed"):
            next(iter(loader))
    assert data.reads == 3
    student = conv_student(3, seed=0)
    before = copy.deepcopy(student.state_dict())
    history = distill_data_free(student, make_teachers(), task, settings=SHORT)
    assert data.reads == 3  # none more
    assert len(history.student) == len(history.distance) == len(history.prior) == 3
    assert not student.training
    changed = [not torch.equal(before[k], v) for k, v in student.state_dict().items()]
    assert all(changed)


def test_the_task_gives_the_generator_its_shape_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = conv_student(1, seed=0), conv_student(1, seed=0)
    for student in (first, second):
        distill_data_free(student, make_teachers(1), digits_like(), settings=SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_the_student_comes_closer_to_its_teacher_and_the_images_to_its_norms() -> None:
    (teacher,) = make_teachers(1)
    seen = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    with torch.no_grad():
        teacher[-1].weight.mul_(20)  # so that there is something to learn
        for norm in tracking_norms(teacher):
            norm.momentum = 1.0
        teacher.train()(seen)  # so that its norms remember images that there are
    settings = DataFreeSettings(
        iterations=20,
        batch_size=16,
        student_steps=2,
        generator_lr=0.02,
        weights=DataFreeWeights(adversarial=0.0),
    )
    history = distiller(settings, student=conv_student(1, seed=0), teachers=[teacher]).fit()
    assert max(history.student[-5:]) < 0.5 * history.student[0]
    assert max(history.prior[-5:]) < 0.8 * history.prior[0]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not() -> None:
    whole = distiller()
    whole.fit()
    stopped = distiller()
    stopped.fit(deadline=0.0)
    assert stopped.history.stopped == "deadline" and stopped.iteration == 1
    state = copy.deepcopy(stopped.state_dict())
    resumed = distiller(student=conv_student(3, seed=5), generator=make_generator(7))
    resumed.load_state_dict(state)
    resumed.fit()
    assert resumed.history == whole.history
    for ours, theirs in ((resumed.student, whole.student), (resumed.generator, whole.generator)):
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_the_state_is_a_copy_of_the_history() -> None:
    one = distiller()
    one.step()
    state = one.state_dict()
    one.step()
    assert len(state["history"]["student"]) == 1


def test_the_student_is_saved_and_loaded_without_pickle(tmp_path) -> None:
    one = distiller()
    one.fit()
    save_tensors(one.student.state_dict(), tmp_path / "student.safetensors")
    again = conv_student(3, seed=9).eval()
    again.load_state_dict(load_tensors(tmp_path / "student.safetensors"))
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(images), one.student(images))


def test_teachers_are_run_in_eval_mode_and_given_back_as_they_were() -> None:
    teachers = [teacher.train() for teacher in make_teachers()]
    kept = [b.clone() for t in teachers for b in t.buffers()]
    trained, quiet = conv_student(3, seed=0), conv_student(3, seed=0)
    distiller(teachers=teachers, student=trained).fit()
    distiller(teachers=make_teachers(), student=quiet).fit()
    assert all(map(torch.equal, kept, (b for t in teachers for b in t.buffers())))
    assert all(module.training for teacher in teachers for module in teacher.modules())
    assert all(map(torch.equal, trained.state_dict().values(), quiet.state_dict().values()))
    assert all(p.grad is None and p.requires_grad for t in teachers for p in t.parameters())


def test_a_check_changes_nothing() -> None:
    student, generator, teachers = conv_student(3, seed=0), make_generator(), make_teachers()
    models = (student, generator, *teachers)
    before = [v.clone() for m in models for v in m.state_dict().values()]
    distiller(student=student, generator=generator, teachers=teachers)
    assert all(map(torch.equal, before, (v for m in models for v in m.state_dict().values())))


def test_both_rates_fall_to_a_tenth_at_a_third_and_at_two_thirds() -> None:
    settings = DataFreeSettings()  # 300 epochs of 50 iterations: milestones 100 and 200
    factors = [settings.rate_factor(i) for i in (0, 4_999, 5_000, 9_999, 10_000, 14_999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    digits = DataFreeSettings(iterations=120)
    assert [digits.rate_factor(i) for i in (39, 40, 79, 80)] == pytest.approx([1, 0.1, 0.1, 0.01])
    one = distiller(DataFreeSettings(iterations=2, batch_size=4, milestones=(0.5,)))
    one.step()
    one.step()
    assert one.student_optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert one.generator_optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_defaults_are_those_of_the_paper() -> None:
    s = DataFreeSettings()
    assert (s.iterations, s.batch_size, s.student_steps) == (300 * 50, 256, 5)
    assert (s.student_lr, s.momentum, s.weight_decay, s.generator_lr) == (0.1, 0.9, 5e-4, 1e-3)
    w = s.weights
    assert (w.head, w.feature, w.ensemble, w.statistics, w.first_norm) == (1, 0.2, 5, 0.1, 5)


def test_callbacks_see_every_iteration() -> None:
    seen = []
    distiller().fit(on_iteration=lambda done, history: seen.append((done, len(history.student))))
    assert seen == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"student_steps": 0}, "student_steps >= 1"),
        ({"student_lr": 0}, "rates must be above 0"),
        ({"generator_lr": -1}, "rates must be above 0"),
        ({"momentum": 1}, "momentum must lie in"),
        ({"weight_decay": -1}, "weight_decay be at least 0"),
        ({"milestones": (0.5, 0.2)}, "increasing shares"),
        ({"milestones": (40,)}, "increasing shares"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        DataFreeSettings(**settings)


def test_a_task_of_other_classes_is_refused() -> None:
    task, _ = sealed(digits_like())
    student = conv_student(1, seed=0)
    narrow = MultiHeadStudent(student.trunk, student.heads, num_features=32, num_classes=7)
    with pytest.raises(TrainingError, match="task has 10 classes and the student 7"):
        distill_data_free(narrow, make_teachers(1), task, settings=SHORT)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    one = distiller(DataFreeSettings(iterations=30, batch_size=8, student_lr=1e6))
    with pytest.raises(TrainingError, match=r"became (nan|inf) in iteration \d+; lower student_lr"):
        one.fit()
