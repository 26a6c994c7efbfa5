"""Families: models of one task, ordered from small to large, that know how to be built again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sartor.core.errors import FamilyError
from sartor.core.schema import check_keys

__all__ = ["Family", "Member", "Split"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where a model is cut into embedding, blocks and head, by dotted names inside the model.

    Attributes:
        blocks: module lists (one a stage) whose entries run in order.
        embed: module or method that maps inputs to what the first block takes; empty: the model's
            own forward with the blocks and the head taken out.
        head: modules or methods, run in order, that map the last block's output to the logits.
    """

    blocks: tuple[str, ...]
    embed: str = ""
    head: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {"blocks": list(self.blocks), "embed": self.embed, "head": list(self.head)}

    @classmethod
    def from_dict(cls, value: Any) -> Split:
        """Inverse of :meth:`to_dict`."""
        check_keys(value, "The recipe's split", {"blocks": list, "embed": str, "head": list}, {})
        return cls(blocks=tuple(value["blocks"]), embed=value["embed"], head=tuple(value["head"]))


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of a family.

    Attributes:
        name: unique within the family.
        model: the trained model.
        source: JSON-ready description from which the architecture is built again (``kind`` is
            ``timm``, ``factory``, ``recipe`` or, for a module that only Python holds, ``module``).
        split: how to find its blocks; ``None`` for models with timm's accessors.
    """

    name: str
    model: nn.Module
    source: Mapping[str, Any] = field(default_factory=lambda: {"kind": "module"})
    split: Split | None = None


@dataclass(frozen=True)
class Family:
    """An ordered tuple of models, small to large.

    Example:
        >>> family = Family.of({"small": nn.Linear(4, 2), "large": nn.Linear(4, 2)})
        >>> family.names
        ('small', 'large')
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise FamilyError("The family is empty; give at least one model.")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise FamilyError(
                f"The family names {repeated[0]!r} twice; give each model a name of its own."
            )

    @classmethod
    def of(cls, models: Mapping[str, nn.Module], *, split: Split | None = None) -> Family:
        """Make a family of modules that only Python holds, given small to large."""
        return cls(
            tuple(Member(name=name, model=model, split=split) for name, model in models.items())
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names, small to large."""
        return tuple(member.name for member in self.members)

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """Models, small to large."""
        return tuple(member.model for member in self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)
