import pytest
import torch
import torch.nn.functional as F

from sartor.core import TrainingError
from sartor.losses.distillation import kd_loss
from sartor.losses.distiller import Outputs
from sartor.losses.manifold_kd import (
    ManifoldKD,
    full_manifold_loss,
    manifold_loss,
    pair_layers,
)

S = torch.tensor([[[1.0, 0], [0, 1], [1, 1]], [[2, 0], [1, -1], [0, 3]]])
T = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1], [1, 0, 1]]])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the function -------------------------------------------------------------------------------


def test_the_cards_numbers() -> None:
    terms = manifold_loss(S, T, num_random=6)
    assert abs(terms.intra.item() - 0.305556) < 1e-6
    assert abs(terms.inter.item() - 0.347631) < 1e-6
    assert abs(terms.random.item() - 0.463099) < 1e-6


def relations(tokens: torch.Tensor) -> torch.Tensor:
    """(B N, B N) cosines, one by one."""
    rows = tokens.reshape(-1, tokens.shape[2])
    return torch.stack([F.cosine_similarity(row[None], rows) for row in rows])


def test_the_parts_are_entries_of_the_full_matrix() -> None:
    """With nothing sampled, the random term is the full matrix, and the others are parts of it."""
    student, teacher = noise(4, 9, 5), noise(4, 9, 8, seed=1)
    gaps = (relations(student) - relations(teacher)).square().reshape(4, 9, 4, 9)
    terms = manifold_loss(student, teacher, num_random=36)
    torch.testing.assert_close(terms.random, gaps.mean())
    torch.testing.assert_close(full_manifold_loss(student, teacher), gaps.mean())
    within = torch.stack([gaps[b, :, b] for b in range(4)])
    across = torch.stack([gaps[:, n, :, n] for n in range(9)])
    torch.testing.assert_close(terms.intra, within.mean())
    torch.testing.assert_close(terms.inter, across.mean())


def test_more_random_patches_than_there_are_take_all() -> None:
    student, teacher = noise(2, 4, 5), noise(2, 4, 8, seed=1)
    all_of_them = full_manifold_loss(student, teacher)
    for num_random in (8, 9, 1000):
        terms = manifold_loss(student, teacher, num_random=num_random)
        torch.testing.assert_close(terms.random, all_of_them)


def test_rotations_and_lengths_do_not_matter() -> None:
    student = noise(4, 9, 8)
    turn = torch.linalg.qr(noise(8, 8, seed=1))[0]
    scale = 0.1 + noise(4, 9, 1, seed=2).abs()
    assert max(manifold_loss(student, (student @ turn) * scale)) < 1e-14


def test_it_is_symmetric_bounded_and_0_for_the_same() -> None:
    student, teacher = noise(3, 4, 2), noise(3, 4, 3, seed=1)

    def terms(a: torch.Tensor, b: torch.Tensor) -> list[float]:
        draw = torch.Generator().manual_seed(0)
        return [t.item() for t in manifold_loss(a, b, num_random=5, generator=draw)]

    assert terms(student, teacher) == pytest.approx(terms(teacher, student))
    assert terms(student, student) == [0.0, 0.0, 0.0]
    same, opposite = torch.ones(1, 2, 1), torch.tensor([[[1.0], [-1.0]]])
    with pytest.warns(UserWarning, match="batch of 1"):
        worst = manifold_loss(same, opposite)
    assert worst.intra.item() == 2.0  # cosines 1 and -1: half of the entries differ by 2
    assert worst.inter.item() == 0.0


def test_the_draw_is_reproducible_and_the_same_on_both_sides() -> None:
    student, teacher = noise(8, 16, 5), noise(8, 16, 7, seed=1)

    def random_term(seed: int) -> float:
        draw = torch.Generator().manual_seed(seed)
        return manifold_loss(student, teacher, num_random=10, generator=draw).random.item()

    assert random_term(0) == random_term(0) != random_term(1)
    for seed in range(5):  # other rows on the two sides would differ
        draw = torch.Generator().manual_seed(seed)
        same = manifold_loss(student, student.flip(2), num_random=10, generator=draw)
        assert same.random.item() < 1e-14


def test_zero_tokens_and_half_precision_are_finite() -> None:
    student = noise(2, 4, 3).float()
    student[0, 0] = 0
    student.requires_grad_()
    sum(manifold_loss(student, noise(2, 4, 5, seed=1).float())).backward()
    assert student.grad.isfinite().all()
    given, wanted = student.detach(), T[:, :1].repeat(1, 4, 1)
    exact = manifold_loss(given.double(), wanted.double(), num_random=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = manifold_loss(given, wanted, num_random=8)
    assert [t.dtype for t in under] == [torch.float32] * 3
    # bfloat16 would be off by 1e-2
    torch.testing.assert_close(torch.stack(under).double(), torch.stack(exact), rtol=1e-6, atol=0)


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = S.clone().requires_grad_(), T.clone().requires_grad_()
    for loss in (sum(manifold_loss(student, teacher)), full_manifold_loss(student, teacher)):
        loss.backward()
        assert teacher.grad is None and student.grad.abs().sum() > 0


def saved_elements(student: torch.Tensor, teacher: torch.Tensor, full: bool) -> int:
    """Numbers that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if full:
            full_manifold_loss(student, teacher)
        else:
            sum(manifold_loss(student, teacher, num_random=20))
    return sum(kept.values())


def test_what_is_kept_for_the_backward_pass_is_what_the_entries_say() -> None:
    batch, count, width, drawn = 16, 25, 4, 20
    student = torch.randn(batch, count, width, requires_grad=True)
    teacher = torch.randn(batch, count, width)
    entries = batch * count**2 + count * batch**2 + drawn**2
    full = saved_elements(student, teacher, full=True)
    parts = saved_elements(student, teacher, full=False)
    tokens = batch * count * width
    # both matrices are kept for the squared difference; tokens and norms besides
    assert 2 * (batch * count) ** 2 <= full <= 2 * (batch * count) ** 2 + 10 * tokens
    assert 2 * entries <= parts <= 2 * entries + 20 * tokens


def test_the_cards_entries() -> None:
    batch, count, drawn = 128, 196, 192
    intra, inter, random = batch * count**2, count * batch**2, drawn**2
    assert (intra, inter, random) == (4_917_248, 3_211_264, 36_864)
    assert (batch * count) ** 2 == 629_407_744
    assert abs((intra + inter + random) / (batch * count) ** 2 - 0.01297) < 1e-5


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        (S, T[:, :2], {}, r"\(2, 3, 2\).*\(2, 2, 3\).*max_tokens"),
        (S, T[:1], {}, r"\(1, 3, 3\)"),
        (S[0], T[0], {}, r"\(3, 2\)"),
        (S, T, {"num_random": 0}, "num_random=0"),
    ],
)
def test_refusals(
    student: torch.Tensor, teacher: torch.Tensor, settings: dict, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        manifold_loss(student, teacher, **settings)


# --- pairs of layers ----------------------------------------------------------------------------


def test_the_published_pairs() -> None:
    student, teacher = zip(*pair_layers(12, 24), strict=True)
    assert student == (0, 1, 2, 3, 8, 9, 10, 11)
    assert teacher == (0, 1, 2, 3, 20, 21, 22, 23)


@pytest.mark.parametrize(("depths", "n"), [((7, 24), 4), ((12, 6), 4), ((12, 12), 0)])
def test_pairs_that_overlap_are_refused(depths: tuple[int, int], n: int) -> None:
    with pytest.raises(TrainingError, match=f"got {depths[0]} and {depths[1]}"):
        pair_layers(*depths, n=n)


# --- the module ---------------------------------------------------------------------------------

Z, W, Y = noise(4, 3).float(), noise(4, 3, seed=1).float(), torch.tensor([0, 1, 2, 0])


def outputs(seed: int, shape: tuple[int, ...]) -> Outputs:
    return Outputs(Z if seed == 0 else W, {"a": noise(*shape, seed=seed).float()})


def test_the_loss_is_the_weighted_sum() -> None:
    student, teacher = outputs(0, (4, 9, 5)), outputs(1, (4, 9, 8))
    loss = ManifoldKD(
        ["a"], ["a"], weights=(3.0, 0.5, 0.25), alpha=0.7, beta=2.0, temperature=4.0, num_random=36
    )
    terms = manifold_loss(student.features["a"], teacher.features["a"], num_random=36)
    wanted = 0.3 * F.cross_entropy(Z, Y) + 0.7 * kd_loss(Z, W, 4.0)
    wanted += 2 * (3 * terms.intra + 0.5 * terms.inter + 0.25 * terms.random)
    torch.testing.assert_close(loss(student, teacher, Y), wanted)
    assert loss.prepare(student, teacher) == () and not list(loss.parameters())


def test_the_terms_are_means_over_pairs_of_layers() -> None:
    shapes = {"a": (4, 9, 5), "b": (4, 4, 6)}
    student = Outputs(Z, {k: noise(*s) for k, s in shapes.items()})
    teacher = Outputs(W, {k: noise(*s, seed=1) for k, s in shapes.items()})
    got = ManifoldKD(["a", "b"], ["a", "b"], num_random=36).relations(student, teacher)
    both = [manifold_loss(student.features[k], teacher.features[k], num_random=36) for k in "ab"]
    for term in range(3):
        torch.testing.assert_close(got[term], (both[0][term] + both[1][term]) / 2)


def test_a_student_that_equals_its_teacher_costs_nothing() -> None:
    student = outputs(0, (4, 9, 5))
    assert abs(ManifoldKD(["a"], ["a"])(student, student, Y).item()) < 1e-7


def test_prefix_tokens_are_left_out_on_both_sides() -> None:
    student, teacher = outputs(0, (4, 11, 5)), outputs(1, (4, 10, 8))
    loss = ManifoldKD(["a"], ["a"], student_prefix=2, teacher_prefix=1, num_random=36)
    got = loss.relations(student, teacher)
    wanted = manifold_loss(
        student.features["a"][:, 2:], teacher.features["a"][:, 1:], num_random=36
    )
    torch.testing.assert_close(torch.stack(got), torch.stack(wanted))


def test_channels_last_is_said_for_each_side() -> None:
    student, teacher = outputs(0, (4, 3, 3, 5)), outputs(1, (4, 8, 3, 3))  # (B, H, W, D), NCHW
    loss = ManifoldKD(["a"], ["a"], channels_last=(True, False), num_random=36)
    wanted = manifold_loss(
        student.features["a"].flatten(1, 2),
        teacher.features["a"].flatten(2).transpose(1, 2),
        num_random=36,
    )
    got = loss.relations(student, teacher)
    torch.testing.assert_close(torch.stack(got), torch.stack(wanted))


def test_larger_grids_merge_if_asked_to() -> None:
    student, teacher = outputs(0, (4, 4, 5)), outputs(1, (4, 3, 4, 4))  # maps of 4 x 4
    with pytest.raises(TrainingError, match="merge the larger grid"):
        ManifoldKD(["a"], ["a"]).prepare(student, teacher)
    terms = ManifoldKD(["a"], ["a"], max_tokens=4).relations(student, teacher)
    assert all(term.isfinite() for term in terms)


@pytest.mark.parametrize(
    ("taps", "settings", "message"),
    [
        ((["a"], []), {}, "got 1 and 0"),
        (([], []), {}, "at least one pair"),
        ((["a"], ["a"]), {"alpha": 1.5}, "alpha in .0, 1.*1.5"),
        ((["a"], ["a"]), {"beta": -1.0}, "-1.0"),
        ((["a"], ["a"]), {"weights": (1.0, 1.0)}, "3 weights"),
        ((["a"], ["a"]), {"weights": (1.0, 1.0, -2.0)}, "-2.0"),
    ],
)
def test_settings_that_are_refused(taps: tuple, settings: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        ManifoldKD(*taps, **settings)
