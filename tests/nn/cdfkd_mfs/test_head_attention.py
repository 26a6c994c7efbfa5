import pytest
import torch

from sartor.core import FamilyError
from sartor.nn.cdfkd_mfs.head_attention import AttentiveStudent, HeadAttention, attention_weights
from sartor.reproduce.cdfkd_mfs_nets import conv_student


def test_weights_are_a_softmax_over_heads_for_each_sample() -> None:
    features, keys, query = torch.randn(3, 4, 5), torch.randn(3, 5, 2), torch.randn(2)
    weights = attention_weights(features, keys, query)
    for sample in range(4):
        scores = [float((features[i, sample] @ keys[i]) @ query) / 2**0.5 for i in range(3)]
        expected = torch.tensor(scores).softmax(dim=0)
        torch.testing.assert_close(weights[:, sample], expected)


def test_untrained_it_is_the_mean_of_the_heads() -> None:
    student = conv_student(3, seed=0).eval()
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(AttentiveStudent(student).eval()(images), student(images))


def test_it_trusts_the_head_that_its_query_points_to() -> None:
    attention = HeadAttention(2, 4, width=1)
    with torch.no_grad():
        attention.query.fill_(100.0)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
        attention.keys[0, :, 0], attention.keys[1, :, 0] = signs, -signs
    weights = attention(signs.expand(2, 3, 4))
    torch.testing.assert_close(weights, torch.tensor([[1.0] * 3, [0.0] * 3]))


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(FamilyError, match="at least 1, got 0, 4 and 16"):
        HeadAttention(0, 4)
