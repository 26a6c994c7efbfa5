import torch

from sartor.losses import OfaKD
from sartor.reproduce.distillation_nets import KINDS, STAGES, made, mixer
from sartor.reproduce.distillation_training import (
    BATCH,
    Shifted,
    accuracy,
    digits,
    distilled,
    outputs,
    taught,
)


def test_the_splits_do_not_overlap() -> None:
    data = digits(0)
    counts = [len(data.teachers.labels), len(data.students.labels)]
    assert counts == [897, 448]
    assert [len(data.selection[1]), len(data.test[1])] == [300, 600]
    parts = {
        "teachers": data.teachers.images,
        "students": data.students.images,
        "selection": data.selection[0],
        "test": data.test[0],
    }
    keys = {name: {i.numpy().tobytes() for i in images} for name, images in parts.items()}
    assert keys["students"] <= keys["teachers"]
    assert not keys["teachers"] & keys["test"] and not keys["selection"] & keys["test"]
    assert not keys["teachers"] & keys["selection"]
    assert torch.equal(digits(0).test[0], data.test[0])
    assert not torch.equal(digits(1).test[0], data.test[0])


def test_images_shift_by_up_to_a_pixel() -> None:
    image = torch.zeros(BATCH, 1, 8, 8)
    image[:, 0, 3, 4] = 1
    labels = torch.arange(BATCH)
    batches = Shifted(image, labels, background=-1.0)
    assert len(batches) == 1
    ((shifted, order),) = batches
    assert sorted(order.tolist()) == labels.tolist()
    places = {tuple((one[0] == 1).nonzero()[0].tolist()) for one in shifted}
    assert places <= {(y, x) for y in (2, 3, 4) for x in (3, 4, 5)} and len(places) > 3
    assert all(-1 in one for one in shifted if (one[0] == 1).nonzero()[0].tolist() != [3, 4])
    torch.manual_seed(0)
    (first,) = batches
    torch.manual_seed(0)
    (again,) = batches
    assert torch.equal(first[0], again[0])


def test_a_smaller_part_keeps_the_classes() -> None:
    students = digits(0).students
    few = students.some(128, 0)
    assert len(few.labels) == 128 and few.shifts.shape == (9, 128, 1, 8, 8)
    counts = torch.bincount(few.labels, minlength=10)
    assert counts.min() >= 11 and counts.max() <= 15
    assert len(students.labels) == 448


def test_every_kind_has_four_stages_of_which_some_are_grids() -> None:
    images = torch.zeros(2, 1, 8, 8)
    for teacher, student in KINDS.values():
        for make in (teacher, student):
            net = made(make, 0)
            found = outputs(net.model.eval(), net.stages, images)
            assert found.logits.shape == (2, 10) and len(found.features) == STAGES
            for path in net.grid:
                shape = found.features[path].shape
                assert (shape[2:] if len(shape) == 4 else (4, 4)) == (4, 4)
                assert len(shape) == 4 or shape[1] == 16


def test_weights_follow_the_seed() -> None:
    first, again, other = (made(lambda: mixer(8, 4), seed).model for seed in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.stem.proj.weight, other.stem.proj.weight)


def test_distilling_trains_the_student_and_its_branches_and_leaves_the_teacher() -> None:
    data = digits(0)
    batches = data.students.some(128, 0)
    teacher = taught(made(lambda: mixer(8, 4), 1), batches, epochs=1, lr=1e-3, seed=0)
    kept = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    results = []
    for _ in range(2):
        net = made(lambda: mixer(8, 4), 0)
        loss = OfaKD(net.stages, final_grid=2)
        fresh = made(lambda: mixer(8, 4), 0).model.state_dict()
        distilled(net, teacher, loss, batches, epochs=1, lr=1e-3, seed=0)
        assert not net.model.training and len(loss.branches) == STAGES
        assert any(not torch.equal(v, fresh[k]) for k, v in net.model.state_dict().items())
        results.append((net.model.state_dict(), loss.state_dict()))
    (student, branches), (other, others) = results
    assert all(torch.equal(student[k], other[k]) for k in student)
    assert all(torch.equal(branches[k], others[k]) for k in branches)
    assert all(torch.equal(v, kept[k]) for k, v in teacher.model.state_dict().items())
    assert 0 <= accuracy(teacher.model, data.test) <= 1
