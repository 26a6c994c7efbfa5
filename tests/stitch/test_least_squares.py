import pytest
import torch

from sartor.stitch import least_squares_affine


def test_the_cards_numbers() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    weight, bias = least_squares_affine(x, y)
    torch.testing.assert_close(
        weight[0], torch.tensor([-0.662438, 0.504098, -0.197604]), atol=1e-6, rtol=0
    )
    wanted = torch.tensor([0.498150, 0.571323, -0.197373, 0.471184])
    torch.testing.assert_close(bias, wanted, atol=1e-6, rtol=0)
    residual = (x @ weight.T + bias - y).square().sum()
    assert abs(residual.item() - 24.692429) < 1e-5
    # second way: the pseudo-inverse of [X 1]
    rows = torch.cat([x.reshape(-1, 3), torch.ones(10, 1)], dim=1)
    solution = torch.linalg.pinv(rows) @ y.reshape(-1, 4)
    torch.testing.assert_close(weight, solution[:-1].T, atol=1e-5, rtol=1e-5)


def test_an_affine_relation_is_found() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 6, generator=generator)
    weight, bias = torch.randn(3, 6, generator=generator), torch.randn(3, generator=generator)
    found = least_squares_affine(x, x @ weight.T + bias)
    torch.testing.assert_close(found[0], weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], bias, atol=1e-4, rtol=0)


def test_rank_deficient_features_still_predict() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    y = x @ torch.randn(8, 3, generator=generator) + 1
    weight, bias = least_squares_affine(x, y)
    torch.testing.assert_close(x @ weight.T + bias, y, atol=1e-4, rtol=0)
    with pytest.warns(UserWarning, match="4 features of width 8 do not determine a map"):
        few = least_squares_affine(x[:4], y[:4])
    torch.testing.assert_close(x[:4] @ few[0].T + few[1], y[:4], atol=1e-4, rtol=0)


def test_ridge_shrinks_the_weight_and_leaves_the_bias_free() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(50, 4, generator=generator), torch.randn(50, 2, generator=generator) + 7
    norms = [least_squares_affine(x, y, ridge)[0].norm().item() for ridge in (0.0, 1.0, 100.0)]
    assert norms[0] > norms[1] > norms[2]
    weight, bias = least_squares_affine(x, y, 1e12)
    torch.testing.assert_close(weight, torch.zeros(2, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(bias, y.mean(0), atol=1e-4, rtol=0)
    # second way: the normal equations of centred data
    centred, wanted = x - x.mean(0), y - y.mean(0)
    normal = torch.linalg.solve(centred.T @ centred + torch.eye(4), centred.T @ wanted).T
    torch.testing.assert_close(least_squares_affine(x, y, 1.0)[0], normal, atol=1e-5, rtol=0)


def test_precision_follows_the_features() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(4))
    weight, bias = least_squares_affine(x.bfloat16(), x.bfloat16())
    assert weight.dtype == bias.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), torch.eye(3), atol=1e-2, rtol=0)
