"""ResNets with AutoRF's cells: three stages for images of 32 pixels, and ResNet-18.

Source: as in :mod:`sartor.nn.autorf.cell`; the ResNets for small images have 1 x 1 shortcuts where
    a stage begins, as the released code.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require
from sartor.nn.autorf.cell import insert_rf_cells
from sartor.nn.autorf.genotype import Genotype
from sartor.nn.backbone import Backbone

__all__ = ["BACKBONES", "cifar_resnet", "rf_resnet"]


def cifar_resnet(depth: int = 20, *, width: int = 16, **kwargs: Any) -> nn.Module:
    """Make an untrained ResNet of three stages for small images, from timm's parts.

    Args:
        depth: layers, 6 n + 2.
        width: channels of the first stage, at least 1; they double twice.
        **kwargs: of timm's ``ResNet``: ``num_classes``, ``in_chans`` and so on.

    Raises:
        FamilyError: the depth is not 6 n + 2, or the width is below 1.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(20, num_classes=10).parameters())
        272474
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1 or width < 1:
        raise FamilyError(
            f"A ResNet of three stages has 6 n + 2 layers and a width of at least 1, got {depth} "
            f"and {width}."
        )
    resnet = require("timm.models.resnet")
    kwargs.setdefault("zero_init_last", False)
    model: Any = resnet.ResNet(
        resnet.BasicBlock, (blocks,) * 3, channels=(width, 2 * width, 4 * width), **kwargs
    )
    model.conv1 = nn.Conv2d(model.conv1.in_channels, width, 3, padding=1, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    model.layer1[0] = resnet.BasicBlock(width, width)  # timm's reads 64 channels
    model.maxpool, model.layer4 = nn.Identity(), nn.Sequential()
    for info, stride in zip(model.feature_info, (1, 1, 2, 4), strict=True):
        info["reduction"] = stride
    model.feature_info[0]["num_chs"] = width
    model.init_weights(zero_init_last=kwargs["zero_init_last"])
    return model


def rf_resnet(
    depth: int = 20,
    *,
    genotype: Genotype | str | None = "P1",
    width: int = 16,
    semantics: str = "node-sum",
    **kwargs: Any,
) -> nn.Module:
    """Make an untrained ResNet with a cell in each block.

    Args:
        depth: 18 for timm's ``resnet18``, or 6 n + 2 for small images.
        genotype: of the cells, or the name of a published one; ``None`` for no cells.
        width: of the first stage, a multiple of 16; not for ``depth=18``.
        semantics: see :class:`~sartor.nn.autorf.cell.RFCell`.
        **kwargs: of timm's ``ResNet``.

    Raises:
        FamilyError: a number is out of range.
    """
    if depth == 18:
        kwargs.setdefault("zero_init_last", False)
        model = require("timm").create_model("resnet18", **kwargs)
    else:
        model = cifar_resnet(depth, width=width, **kwargs)
    return model if genotype is None else insert_rf_cells(model, genotype, semantics=semantics)


def _backbone(depth: int) -> Backbone:
    small = depth != 18
    return Backbone(
        name=f"rf_resnet{depth}",
        model=rf_resnet,
        kwargs={"depth": depth},
        input_size=(3, 32, 32) if small else (3, 224, 224),
        first_conv="conv1",
        classifier="fc",
        features={"feature_cls": "getter", "out_indices": (0, 1, 2, 3)},
    )


BACKBONES = tuple(_backbone(depth) for depth in (20, 32, 56, 18))
