"""A classifier with one trunk and several light heads, each of which reads every stage of it.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845.
    Deviations: ``forward`` gives the mean of the heads' logits, so that the student is a classifier
    like any other; the logits of the heads come from ``forward_heads``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["LastBlockHead", "MultiHeadStudent", "MultiLevelHead", "SepConv", "multi_level_student"]


class SepConv(nn.Sequential):
    """Two depthwise separable convolutions that halve height and width, without biases.

    Args:
        in_channels: of the maps given.
        out_channels: of the maps returned.

    Example:
        >>> sum(p.numel() for p in SepConv(64, 128).parameters())
        13824
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            *_separable(in_channels, in_channels, stride=2),
            *_separable(in_channels, out_channels, stride=1),
        )


def _separable(inner: int, outer: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
        nn.Conv2d(inner, outer, 1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    ]


class MultiLevelHead(nn.Module):
    """Fuses the maps of all stages, from the first on, into one feature vector.

    Args:
        stage_channels: channels of the stages' maps, of which each is half as large as the one
            before.
    """

    def __init__(self, stage_channels: Sequence[int]) -> None:
        super().__init__()
        outs = [*stage_channels[1:], stage_channels[-1]]
        self.encoders = nn.ModuleList(
            SepConv(inner * (2 if level else 1), outer)
            for level, (inner, outer) in enumerate(zip(stage_channels, outs, strict=True))
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Maps (B, ch_l, h_l, w_l) of each stage l -> features (B, ch_L)."""
        fused = self.encoders[0](stages[0])
        for level, encoder in enumerate(self.encoders[1:], start=1):
            _check_halved(stages[level - 1], stages[level], level)
            fused = encoder(torch.cat([stages[level], fused], dim=1))  # (B, ch_{l+1}, h_l / 2, ...)
        pooled: Tensor = fused.mean(dim=(2, 3))  # (B, ch_L)
        return pooled


class LastBlockHead(nn.Module):
    """A block of its own on top of the shared trunk: the heads of the method before this one.

    Args:
        block: reads the maps of the last stage.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Maps of the stages -> features (B, d)."""
        pooled: Tensor = self.block(stages[-1]).mean(dim=(2, 3))
        return pooled


class MultiHeadStudent(nn.Module):
    """One trunk, n heads that each learn from a teacher of their own, one prediction.

    Args:
        trunk: images (B, C, H, W) -> maps of its stages, a list.
        heads: maps of the stages -> features (B, d) each.
        num_features: d.
        num_classes: K.

    Raises:
        FamilyError: there is no head, or a number is below 1.
    """

    def __init__(
        self, trunk: nn.Module, heads: Iterable[nn.Module], *, num_features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)
        if not self.heads or min(num_features, num_classes) < 1:
            raise FamilyError(
                "A multi-head student takes at least one head, feature and class, got "
                f"{len(self.heads)}, {num_features} and {num_classes}."
            )
        self.num_features, self.num_classes = num_features, num_classes
        self.classifiers = nn.ModuleList(nn.Linear(num_features, num_classes) for _ in self.heads)

    @property
    def num_heads(self) -> int:
        """How many heads there are, n."""
        return len(self.heads)

    def forward_heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> logits (n, B, K) and features (n, B, d) of each head."""
        stages = list(self.trunk(images))
        features = [head(stages) for head in self.heads]
        logits = [layer(f) for layer, f in zip(self.classifiers, features, strict=True)]
        return torch.stack(logits), torch.stack(features)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> mean logits of the heads (B, K)."""
        return self.forward_heads(images)[0].mean(dim=0)

    def select_heads(self, keep: Sequence[int]) -> MultiHeadStudent:
        """Copy the student with only some of its heads.

        Args:
            keep: numbers of the heads, each once.

        Raises:
            FamilyError: there is no such head, or it is named twice.
        """
        if not keep or len(set(keep)) < len(keep) or not set(keep) <= set(range(self.num_heads)):
            raise FamilyError(
                f"The heads to keep must be some of 0 to {self.num_heads - 1}, each once, got "
                f"{list(keep)}."
            )
        kept = copy.deepcopy(self)
        kept.heads = nn.ModuleList(kept.heads[head] for head in keep)
        kept.classifiers = nn.ModuleList(kept.classifiers[head] for head in keep)
        return kept


def multi_level_student(
    trunk: nn.Module, stage_channels: Sequence[int], *, num_heads: int, num_classes: int
) -> MultiHeadStudent:
    """Put heads that share the trunk's features at every level on a trunk.

    Args:
        trunk: images (B, C, H, W) -> maps of its stages; any timm model made with
            ``features_only=True`` is one.
        stage_channels: channels of those maps; timm: ``trunk.feature_info.channels()``.
        num_heads: n, one for each teacher.
        num_classes: K.

    Raises:
        FamilyError: a number is below 1.

    Example:
        >>> trunk = nn.ModuleList()  # never called here
        >>> student = multi_level_student(trunk, (8, 16, 32), num_heads=3, num_classes=10)
        >>> sum(p.numel() for p in student.heads[0].parameters())
        10624
    """
    if not stage_channels or min(*stage_channels, num_heads) < 1:
        raise FamilyError(
            "A multi-head student takes at least one stage, channel and head, got stages of "
            f"{list(stage_channels)} channels and {num_heads} heads."
        )
    heads = [MultiLevelHead(stage_channels) for _ in range(num_heads)]
    return MultiHeadStudent(trunk, heads, num_features=stage_channels[-1], num_classes=num_classes)


def _check_halved(larger: Tensor, smaller: Tensor, level: int) -> None:
    halved = tuple(-(-size // 2) for size in larger.shape[-2:])
    if tuple(smaller.shape[-2:]) != halved:
        raise FamilyError(
            f"Stage {level} of the trunk gives maps of {tuple(smaller.shape[-2:])} and the one "
            f"before it of {tuple(larger.shape[-2:])}; choose stages that each halve the size."
        )
