import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core import DataError, FamilyError, TrainingError
from sartor.nn.ecoformer.hash_fit import fit_projections, pair_targets
from sartor.nn.ecoformer.hash_function import KernelHash, kernel_features, sign_code


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Of norm 1, in loose groups, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    *front, count, dim = shape
    groups = torch.randn(*front, 4, dim, generator=generator)
    noise = 0.5 * torch.randn(shape, generator=generator)
    return F.normalize(
        groups.repeat_interleave(-(-count // 4), dim=-2)[..., :count, :] + noise, dim=-1
    )


def fitted(z: Tensor, **kwargs: float) -> KernelHash:
    torch.manual_seed(0)
    hashes = KernelHash(z.shape[1], z.shape[3], 8, 12)
    hashes.fit(z, **{"topk": 5, "steps": 20, **kwargs})
    return hashes


Z = tokens(3, 2, 24, 6)


def test_features_are_the_cards_formula() -> None:
    anchors = Z[0, :, :5]
    expected = torch.empty(3, 2, 24, 5)
    for image in range(3):
        for head in range(2):
            d = torch.cdist(Z[image, head], anchors[head]).square()
            expected[image, head] = torch.exp(-d / (2 * d.mean()))
    assert torch.allclose(kernel_features(Z, anchors), expected, atol=1e-5)


def test_codes_are_hamming_distances() -> None:
    """<h, h'> = b - 2 popcount(xor)."""
    codes = fitted(Z)(Z)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    differing = (codes.unsqueeze(-2) != codes.unsqueeze(-3)).sum(dim=-1)
    assert torch.equal(codes @ codes.transpose(-2, -1), 8.0 - 2 * differing)


def test_no_bit_gets_worse() -> None:
    torch.manual_seed(0)
    hashes = KernelHash(2, 6, 8, 12)
    losses = hashes.fit(Z, topk=5, steps=20)
    assert losses.shape == (8, 2, 2)
    assert (losses[:, 1] <= losses[:, 0]).all() and (losses[:, 1] < losses[:, 0]).any()


def test_the_loss_is_what_the_affinity_error_says() -> None:
    """With one bit and one head, -y R y / N falls exactly as the squared error does."""
    z = tokens(2, 1, 20, 6)
    torch.manual_seed(0)
    hashes = KernelHash(1, 6, 1, 10)
    (before, after), errors = hashes.fit(z, topk=4, lr=1.0)[0], []
    errors.append(hashes.affinity_error(z, topk=4))
    targets = pair_targets(z, 4)
    count = (targets != 0).sum() / 2  # pairs an image
    assert float(after) * 20 == pytest.approx(float(count * (errors[0] - 2) / 2), abs=1e-4)
    assert after <= before


def test_gradients_are_those_of_autograd() -> None:
    """One step without momentum against torch's SGD on the relaxed loss."""
    z = tokens(2, 2, 20, 6)
    features = kernel_features(z, z[0, :, :7])
    features = features - features.mean(dim=(0, 2)).unsqueeze(1)
    targets, a = (
        pair_targets(z, 4),
        torch.randn(2, 1, 7, generator=torch.Generator().manual_seed(1)),
    )
    parameter = a[:, 0].clone().requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=5.0, momentum=0.9, nesterov=True)
    for _ in range(3):
        y = torch.tanh(torch.einsum("bhnm,hm->bhn", features, parameter) / 2)
        loss = -torch.einsum("bhi,bhij,bhj->bh", y, targets, y).mean() / 20
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made, losses = fit_projections(features, targets, a, steps=3, lr=5.0)
    kept = losses[0, 1] < losses[0, 0]
    assert kept.any()
    assert torch.allclose(made[kept, 0], parameter.detach()[kept], atol=1e-5)


def test_fitting_brings_codes_nearer_to_the_pairs() -> None:
    random, learned = (fitted(Z, lr=lr, steps=60).affinity_error(Z, topk=5) for lr in (0.0, 1.0))
    assert learned < 0.95 * random


def test_anchors_are_tokens_of_the_first_image() -> None:
    hashes = fitted(Z)
    for head in range(2):
        distance = torch.cdist(hashes.anchors[head], Z[0, head])
        assert distance.min(dim=1).values.max() < 1e-3
    assert torch.allclose(kernel_features(Z, hashes.anchors).mean((0, 2)), hashes.mean, atol=1e-6)


def test_gradient_passes_where_the_value_is_small() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.9, 1.0], requires_grad=True)
    (sign_code(x) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_it_is_saved_that_it_is_fitted() -> None:
    one, two = fitted(Z), KernelHash(2, 6, 8, 12)
    with pytest.raises(TrainingError, match="not fitted; call fit_hashes_"):
        two(Z)
    with pytest.raises(RuntimeError):
        two(Z)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(Z), two(Z))
    assert not list(one.parameters())


@pytest.mark.parametrize(
    ("z", "kwargs", "words"),
    [
        (tokens(2, 2, 11, 6), {}, "11 tokens are too few for 12 anchors"),
        (tokens(2, 2, 13, 6), {"topk": 7}, "14 are needed"),
        (tokens(2, 3, 24, 6), {}, "takes tokens"),
        (Z, {"topk": 0}, "topk and steps"),
        (Z, {"steps": 0}, "topk and steps"),
        (Z, {"lr": -1.0}, "learning rate"),
        (Z, {"lr": float("nan")}, "learning rate"),
    ],
)
def test_what_cannot_be_fitted(z: Tensor, kwargs: dict[str, float], words: str) -> None:
    hashes = KernelHash(2, 6, 8, 12)
    with pytest.raises(DataError, match=words):
        hashes.fit(z, **{"topk": 5, **kwargs})
    assert not hashes.is_fitted


def test_one_image_warns() -> None:
    with pytest.warns(UserWarning, match="on one image"):
        KernelHash(2, 6, 2, 12).fit(Z[:1], topk=5, steps=1)


def test_tokens_that_are_no_numbers() -> None:
    with pytest.raises(TrainingError, match="ran away"):
        KernelHash(2, 6, 2, 12).fit(torch.full_like(Z, float("nan")), topk=5, steps=1)


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(FamilyError, match="at least 1"):
        KernelHash(2, 6, 0, 12)
