"""The card's numbers of Mesa's quantiser, and its bounds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.train.mesa.quantizer import (
    decode,
    encode,
    pack_codes,
    rounding_noise,
    running,
    unpack_codes,
)


def one_group(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1)


def ranges(alpha: float, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([alpha]), torch.tensor([beta])


@pytest.mark.parametrize(
    ("values", "alpha", "beta", "codes"),
    [
        ((0.0, 1.0, 2.0, 3.0), 3.0, 0.0, [0, 85, 170, 255]),
        ((-1.0, 0.0, 0.5), 1.5, -1.0, [0, 170, 255]),
    ],
)
def test_codes_of_the_card(values, alpha, beta, codes):
    made = encode(one_group(*values), *ranges(alpha, beta))
    assert made.flatten().tolist() == codes and made.dtype == torch.uint8
    back = decode(made, *ranges(alpha, beta)).flatten()
    torch.testing.assert_close(back, torch.tensor(values), rtol=1e-6, atol=1e-6)


def test_running_range_of_the_card_and_a_value_above_it_is_clipped():
    first = running(None, torch.tensor([-1.0]), torch.tensor([9.0]), 0.9)
    assert [float(part) for part in first] == [10.0, -1.0]
    alpha, beta = running(first, torch.tensor([-3.0]), torch.tensor([17.0]), 0.9)
    assert float(alpha) == pytest.approx(11.0) and float(beta) == pytest.approx(-1.2)
    codes = encode(one_group(20.0, -5.0), alpha, beta)
    assert codes.flatten().tolist() == [255, 0]  # modulo 256 it would be 235
    back = decode(codes, alpha, beta).flatten().tolist()
    assert back == pytest.approx([9.8, -1.2])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
)
def test_error_is_within_a_step_or_half_of_it(values, bits, stochastic):
    x = one_group(*values)
    low, high = x.min().view(1), x.max().view(1)
    generator = torch.Generator().manual_seed(0)
    noise = rounding_noise(tuple(x.shape), x.device, generator) if stochastic else None
    back = decode(encode(x, high - low, low, bits=bits, noise=noise), high - low, low, bits=bits)
    step = float(high - low) / (2**bits - 1)
    rounding = 1e-6 * float(x.abs().max()) + 1e-30  # of float32; the least range
    bound = step * (1 if stochastic else 0.5) + rounding
    assert float((back - x).abs().max()) <= bound


def test_stochastic_rounding_is_right_on_average_and_to_nearest_is_not():
    x = one_group(0.0, 0.3, 0.71, 1.9, 2.52, 3.0)
    wide = x.expand(40_000, 1, 6)
    noise = rounding_noise(tuple(wide.shape), x.device, torch.Generator().manual_seed(1))
    alpha, beta = ranges(3.0, 0.0)
    mean = decode(encode(wide, alpha, beta, bits=2, noise=noise), alpha, beta, bits=2).mean(0)
    torch.testing.assert_close(mean, x[0], rtol=0, atol=0.012)  # 5 deviations of the mean
    nearest = decode(encode(x, alpha, beta, bits=2), alpha, beta, bits=2)
    assert float((nearest - x).abs().max()) > 0.4


def test_noise_lies_inside_the_unit_interval_with_mean_one_half():
    noise = rounding_noise((3, 5, 7), torch.device("cpu"), torch.Generator().manual_seed(0))
    assert noise.shape == (3, 5, 7) and float(noise.min()) > 0 and float(noise.max()) < 1
    many = rounding_noise((400_001,), torch.device("cpu"), torch.Generator().manual_seed(0))
    assert float(many.mean()) == pytest.approx(0.5, abs=2e-3)
    assert float(many.var()) == pytest.approx(1 / 12, abs=1e-3)


def test_each_group_has_its_own_range_and_equal_values_are_exact():
    x = torch.stack((torch.linspace(0, 1, 8), torch.full((8,), 5.0))).view(1, 2, 8)
    low, high = x.amin((0, 2)), x.amax((0, 2))
    back = decode(encode(x, high - low, low), high - low, low)
    assert torch.equal(back[0, 1], x[0, 1])
    assert float((back - x).abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 33])
def test_codes_survive_packing(bits, count):
    codes = torch.randint(2**bits, (1, 1, count), generator=torch.Generator().manual_seed(count))
    codes = codes.to(torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack_codes(packed, bits, (1, 1, count)), codes)
