import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.hvt.token_pool import TokenPool1d, pooled_length, resize_sequence
from sartor.testing import LayerContract


class TestTokenPool(LayerContract):
    def layer(self) -> nn.Module:
        return TokenPool1d(8, 12, num_prefix_tokens=1)

    def inputs(self) -> Tensor:
        return torch.randn(2, 13, 8, generator=torch.Generator().manual_seed(0))

    def output_shape(self) -> tuple[int, ...]:
        return (2, 6, 8)


def pooled(values: list[float], **kwargs: object) -> list[float]:
    layer = TokenPool1d(1, len(values), zero_init=True, **kwargs)
    with torch.no_grad():
        return layer(torch.tensor(values).float().view(1, -1, 1)).flatten().tolist()


def test_the_hand_case_of_the_card() -> None:
    assert pooled([1, 5, 2, 0, 7, 3, 4]) == [5, 7, 7]


def test_a_rising_sequence_gives_the_last_of_each_window() -> None:
    assert pooled([float(i) for i in range(12)]) == [2, 4, 6, 8, 10]


def test_means() -> None:
    assert pooled([0, 3, 6, 9, 0], mode="avg") == [3, 5]


def test_lengths_of_the_card() -> None:
    lengths = [196]
    while lengths[-1] > 11:
        lengths.append(pooled_length(lengths[-1], 3, 2))
    assert lengths == [196, 97, 48, 23, 11]


def test_one_token_a_window_changes_nothing() -> None:
    x = torch.randn(2, 9, 4)
    assert torch.equal(TokenPool1d(4, 9, kernel_size=1, stride=1, zero_init=True)(x), x)


def test_tokens_in_front_stay() -> None:
    x = torch.randn(2, 11, 4)
    layer = TokenPool1d(4, 9, num_prefix_tokens=2)
    assert torch.equal(layer(x)[:, :2], x[:, :2])


def test_stretched_positions_of_a_line_stay_on_it() -> None:
    line = torch.arange(5.0).view(1, 5, 1)
    assert resize_sequence(line, 9)[0, 1:-1, 0].diff().std() < 1e-5


@pytest.mark.parametrize(
    "kwargs", [{"kernel_size": 10}, {"kernel_size": 0}, {"stride": 0}, {"mode": "min"}]
)
def test_settings_that_cannot_be(kwargs: dict[str, object]) -> None:
    with pytest.raises(FamilyError):
        TokenPool1d(4, 9, **kwargs)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="positions for 9 tokens and 1 in front, and was given 9"):
        TokenPool1d(4, 9, num_prefix_tokens=1)(torch.zeros(1, 9, 4))
