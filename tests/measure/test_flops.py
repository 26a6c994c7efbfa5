import pytest
import timm
import torch
from torch import nn

from sartor.measure import count_flops, count_params

TOKENS = 197


def deit_macs(width: int) -> int:
    """Multiply-accumulates of a DeiT at 224 without norms: 12 blocks, patch embedding, head."""
    block = 12 * TOKENS * width**2 + 2 * TOKENS**2 * width
    return 12 * block + 196 * 768 * width + 1000 * width


@pytest.mark.parametrize(
    ("name", "width", "params", "published"),
    [
        ("deit_tiny_patch16_224", 192, 5_717_416, 1_258_411_200),
        ("deit_small_patch16_224", 384, 22_050_664, 4_608_338_304),
        ("deit_base_patch16_224", 768, 86_567_656, 17_582_740_224),
    ],
)
def test_deit(name: str, width: int, params: int, published: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
        flops = count_flops(model, torch.empty(1, 3, 224, 224))
    assert flops == 2 * deit_macs(width)
    # SN-Net's result files add 5 for each element of the 25 norms
    assert flops // 2 + 25 * 5 * TOKENS * width == published
    assert count_params(model) == params


def test_resnet18() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet18")
        assert count_flops(model, torch.empty(4, 3, 224, 224)) == 3_628_146_688  # of one input
    assert model.training


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fused_attention_is_counted(device: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, device=device)
    before = torch.backends.mha.get_fastpath_enabled()
    tokens, width, hidden = 5, 8, 16
    macs = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    for mode in (True, False):  # in eval mode torch takes a fused path that its counter cannot see
        flops = count_flops(layer.train(mode), torch.empty(1, tokens, width, device=device))
        assert flops == 2 * macs and layer.training is mode
    assert torch.backends.mha.get_fastpath_enabled() is before


def test_generator_is_left_as_found() -> None:
    state = torch.get_rng_state()
    count_flops(nn.RReLU(), torch.randn(1, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    assert count_params(nn.Sequential(layer, layer)) == 16
