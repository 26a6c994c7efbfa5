"""The counter with which the authors of LIT and LITv2 printed their FLOPs, from torch's own
count."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sartor.measure import count_flops


@pytest.fixture
def official_count() -> Callable[[nn.Module, int], int]:
    return _official_count


def _official_count(model: nn.Module, size: int) -> int:
    """Multiply-adds as torch counts them, and what the authors' counter adds.

    It adds one operation an element for every norm, the biases of the convolutions inside stages
    (of offsets for 12 channels, though there are 8), and four times the last norm.
    """
    extras = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            extras.append(output.numel() * (4 if module is model.norm else 1))
        elif isinstance(module, nn.Conv2d) and module is not model.patch_embed.proj:
            extras.append(output.numel())  # biases
            if module.out_channels == 8:
                extras.append(output.numel() // 8 * 4 * (4 * module.in_channels + 1))

    image = torch.zeros(1, 3, size, size, device="meta")
    multiplied = count_flops(model, image) // 2
    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()(image)
    for hook in hooks:
        hook.remove()
    return multiplied + sum(extras)
