"""Families of a few thousand random parameters, one for each kind of architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sartor.core import Family, Member, Split, Task
from sartor.core.packages import require
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded

__all__ = [
    "TINY_CONV_SPLIT",
    "TinyConvNet",
    "tiny_conv_family",
    "tiny_resnet_family",
    "tiny_swin_family",
    "tiny_task",
    "tiny_vit_family",
]

#: where a :class:`TinyConvNet` is cut
TINY_CONV_SPLIT = Split(blocks=("body",), embed="stem", head=("pool", "classifier"))


def tiny_vit_family(*, depth: int = 2, seed: int = 0) -> Family:
    """Three ViTs, widths 8, 16 and 32, for inputs (B, 1, 8, 8) and 10 classes.

    Their sources say how to build them, so recipes that start from them can be replayed alone.
    """
    members = []
    for width, heads in ((8, 2), (16, 2), (32, 4)):
        kwargs = {"embed_dim": width, "depth": depth, "num_heads": heads}
        model = _seeded(lambda kwargs=kwargs: tiny_vit(**kwargs), seed)  # type: ignore[misc]
        source = {"kind": "tiny_vit", "kwargs": kwargs}
        members.append(Member(name=f"vit-{width}", model=model, source=source))
    return Family(tuple(members))


def tiny_resnet_family(*, seed: int = 0) -> Family:
    """A ResNet of basic blocks, depths 2, 2, 2, 2, and one of bottlenecks, depths 3, 4, 6, 3.

    For inputs (B, 1, 32, 32) and 4 classes. Batch-norm statistics are random, as if trained.
    """
    resnet = require("timm.models.resnet")
    shape = {"channels": (4, 8, 8, 16), "stem_width": 4, "in_chans": 1, "num_classes": 4}
    models = {
        "resnet-basic": _seeded(
            lambda: resnet.ResNet(resnet.BasicBlock, (2, 2, 2, 2), **shape), seed
        ),
        "resnet-bottleneck": _seeded(
            lambda: resnet.ResNet(resnet.Bottleneck, (3, 4, 6, 3), **shape), seed
        ),
    }
    return Family.of(models)


def tiny_swin_family(*, seed: int = 0) -> Family:
    """Three Swins, third stages of 2, 4 and 4 blocks, for inputs (B, 1, 16, 16) and 4 classes."""
    swin = require("timm.models.swin_transformer").SwinTransformer
    shape = {"img_size": 16, "patch_size": 1, "in_chans": 1, "num_classes": 4, "window_size": 4}
    models = {
        f"swin-{width}": _seeded(
            lambda width=width, blocks=blocks: swin(  # type: ignore[misc]
                embed_dim=width, depths=(2, 2, blocks, 2), num_heads=(1, 2, 2, 4), **shape
            ),
            seed,
        )
        for width, blocks in ((8, 2), (12, 4), (16, 4))
    }
    return Family.of(models)


class TinyConvNet(nn.Module):
    """A convolutional net of which timm knows nothing, for inputs (B, 1, 8, 8).

    Args:
        width: channels of every feature.
        depth: number of blocks.
        num_classes: width of the logits.
    """

    def __init__(self, width: int, depth: int, num_classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, kernel_size=3, stride=2, padding=1)
        self.body = nn.ModuleList(_block(width) for _ in range(depth))
        self.classifier = nn.Linear(width, num_classes)

    def pool(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) -> (B, C)."""
        return features.mean(dim=(2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, 1, H, W) -> logits (B, K)."""
        features = self.stem(inputs)  # (B, C, H / 2, W / 2)
        for block in self.body:
            features = block(features)
        logits: Tensor = self.classifier(self.pool(features))
        return logits


def tiny_conv_family(*, seed: int = 0) -> Family:
    """Two :class:`TinyConvNet`, widths 8 and 16, with the split that finds their blocks."""
    models = {f"conv-{w}": _seeded(lambda w=w: TinyConvNet(w, depth=3), seed) for w in (8, 16)}  # type: ignore[misc]
    return Family.of(models, split=TINY_CONV_SPLIT)


def tiny_task(
    input_shape: tuple[int, ...] = (1, 8, 8), *, num_classes: int = 10, seed: int = 0
) -> Task:
    """Random inputs with random labels: 2 batches of 16 to train on, 1 to select, 1 to validate."""
    generator = torch.Generator().manual_seed(seed)
    batches = [
        (
            torch.randn(16, *input_shape, generator=generator),
            torch.randint(num_classes, (16,), generator=generator),
        )
        for _ in range(4)
    ]
    return Task(
        name="tiny",
        train=batches[:2],
        selection=batches[2:3],
        validation=batches[3:],
        example=torch.zeros(1, *input_shape),
        num_classes=num_classes,
    )


def _block(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, 2 * width, kernel_size=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, width, kernel_size=3, padding=1),
    )


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a model with random weights, biases and batch-norm statistics, in eval mode."""
    with seeded(seed), torch.no_grad():
        model = make().eval()
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model
