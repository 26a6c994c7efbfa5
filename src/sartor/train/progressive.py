"""Progressive training: small inputs first, the full size for the rest.

Source: Mingxing Tan, Quoc Le, "EfficientNetV2", 2021, arXiv 2104.00298 (image sizes); Conglong Li,
    Minjia Zhang, Yuxiong He, "The Stability-Efficiency Dilemma", 2022, arXiv 2108.06084 (lengths).
Deviations: regularisation does not rise with the size; sizes grow linearly in the share of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import DataError, RecipeError, nearest

__all__ = ["ProgressiveSchedule"]

_FIELDS = ("image_size", "seq_len")


@dataclass(frozen=True, kw_only=True)
class ProgressiveSchedule:
    """Size of the inputs as a function of the step alone.

    Attributes:
        start: size at first, at least ``multiple``.
        end: size at last, the inputs' own, at least ``start``.
        until: share of the training in which it grows, in (0, 1].
        field: ``image_size``: images (B, C, H, W) are resized to squares; ``seq_len``: sequences
            (B, T) are cut after their first tokens, targets of the same shape with them.
        multiple: of which every size is a multiple, such as the patch size, at least 1.

    Raises:
        RecipeError: a number is out of range, or ``start`` or ``end`` no multiple of ``multiple``.

    Example:
        >>> schedule = ProgressiveSchedule(start=16, end=64, until=0.5, multiple=16)
        >>> [schedule.size(step, 10) for step in range(10)]
        [16, 16, 32, 32, 48, 64, 64, 64, 64, 64]
    """

    start: int
    end: int
    until: float = 0.4
    field: str = "image_size"
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.field not in _FIELDS:
            raise RecipeError(
                f"A schedule cannot change the {self.field!r}; {nearest(self.field, _FIELDS)}"
            )
        if not 1 <= self.multiple <= self.start <= self.end or not 0 < self.until <= 1:
            raise RecipeError(
                "A progressive schedule takes 1 <= multiple <= start <= end and until in (0, 1], "
                f"got {self.multiple}, {self.start}, {self.end} and {self.until}."
            )
        if self.start % self.multiple or self.end % self.multiple:
            raise RecipeError(
                f"Sizes must be multiples of {self.multiple}, got {self.start} and {self.end}; "
                f"take {self.start // self.multiple * self.multiple} and "
                f"{self.end // self.multiple * self.multiple}."
            )

    def size(self, step: int, total: int) -> int:
        """Size at ``step`` of ``total``, rounded down to the multiple."""
        share = min(step / (self.until * total), 1.0)
        grown = self.start + share * (self.end - self.start)
        return int(grown) // self.multiple * self.multiple

    def shrink(self, inputs: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """One batch at a size.

        Raises:
            DataError: the inputs have not the size at which the schedule ends.
        """
        if inputs.shape[-1] != self.end:
            raise DataError(
                f"The schedule ends at {self.field} {self.end} and the inputs have "
                f"{inputs.shape[-1]}; give end={inputs.shape[-1]}."
            )
        if size == self.end:
            return inputs, targets
        if self.field == "seq_len":  # (B, T) -> (B, size)
            return inputs[:, :size], targets[:, :size] if targets.ndim > 1 else targets
        small = F.interpolate(inputs, size=(size, size), mode="bilinear", antialias=True)
        return small, targets  # (B, C, size, size)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ProgressiveSchedule:
        """Inverse of :meth:`to_dict`.

        Raises:
            RecipeError: a key is unknown or missing.
        """
        legal = [field.name for field in fields(cls)]
        for key in value:
            if key not in legal:
                raise RecipeError(f"A schedule has no setting {key!r}; {nearest(key, legal)}")
        if "start" not in value or "end" not in value:
            raise RecipeError("A progressive schedule needs start and end; give both.")
        return cls(**value)
