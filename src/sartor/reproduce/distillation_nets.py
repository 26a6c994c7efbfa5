"""Small networks of three kinds for 8 x 8 images, with four places in each where features are
read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sartor.core.packages import require
from sartor.nn.sources import seeded

__all__ = ["KINDS", "STAGES", "Net", "cnn", "made", "mixer", "vit"]

#: where the features of every network are read
STAGES = 4


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network and the paths of its stages.

    Attributes:
        model: from (B, 1, 8, 8) to logits (B, 10).
        stages: paths of :data:`STAGES` modules, in order.
        grid: the stages whose patches are a grid of 4 x 4.
    """

    model: nn.Module
    stages: tuple[str, ...]
    grid: tuple[str, ...]


def cnn(width: int) -> Net:
    """Four 3 x 3 convolutions with batch norm; maps of 8, 4, 4 and 2."""
    widths = (1, width, 2 * width, 2 * width, 4 * width)
    layers = [_conv(widths[i], widths[i + 1], stride=(1, 2, 1, 2)[i]) for i in range(STAGES)]
    model = nn.Sequential(
        OrderedDict(
            stages=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(widths[-1], 10),
        )
    )
    names = tuple(f"stages.{i}" for i in range(STAGES))
    return Net(model=model, stages=names, grid=names[1:3])


def vit(width: int, depth: int, *, stem: int = 16) -> Net:
    """A ViT on 16 patches behind a 3 x 3 convolution with batch norm; mean pooling, MLP ratio 2.

    Args:
        width: a multiple of its 4 heads.
        depth: number of blocks, at least :data:`STAGES`.
        stem: channels of the convolution; small ViTs need thousands of steps without it.
    """
    blocks = require("timm.models.vision_transformer").VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=stem,
        num_classes=10,
        embed_dim=width,
        depth=depth,
        num_heads=4,
        mlp_ratio=2.0,
        class_token=False,
        global_pool="avg",
    )
    names = tuple(f"vit.blocks.{i}" for i in _spread(depth))
    model = nn.Sequential(OrderedDict(stem=_conv(1, stem), vit=blocks))
    return Net(model=model, stages=names, grid=names)


def mixer(width: int, depth: int, *, torch_init: bool = False) -> Net:
    """An MLP-Mixer on 16 patches of 2 x 2.

    Args:
        width: of the tokens.
        depth: number of blocks, at least :data:`STAGES`.
        torch_init: start all layers as torch does, which learns in fewer steps here than what timm
            starts Mixers with.
    """
    model = require("timm.models.mlp_mixer").MlpMixer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, num_blocks=depth, embed_dim=width
    )
    if torch_init:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
    names = tuple(f"blocks.{i}" for i in _spread(depth))
    return Net(model=model, stages=names, grid=names)


#: kind -> teacher and student
KINDS: Mapping[str, tuple[Callable[[], Net], Callable[[], Net]]] = {
    "CNN": (lambda: cnn(32), lambda: cnn(6)),
    "ViT": (lambda: vit(48, 6), lambda: vit(24, 4)),
    "MLP": (lambda: mixer(64, 6), lambda: mixer(32, 4)),
}


def made(make: Callable[[], Net], seed: int) -> Net:
    """Make a network whose weights follow the seed alone."""
    with seeded(seed):
        return make()


def _conv(channels: int, width: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def _spread(depth: int) -> Sequence[int]:
    """The first two and the last two blocks."""
    return (0, 1, depth - 2, depth - 1)
