"""Folding: layers that know of configurations become plain ones when a route is taken out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

__all__ = ["Foldable", "folded"]


class Foldable(nn.Module, ABC):
    """A layer whose parts, or whose behaviour in one configuration, fit into a plain layer."""

    @abstractmethod
    def fold(self, index: int) -> nn.Module:
        """Make the plain layer with the same outputs.

        Args:
            index: the configuration of the network that is taken out.

        Returns:
            A layer that shares nothing with this one.
        """


def folded(module: nn.Module, index: int) -> nn.Module:
    """Replace every foldable layer of a module, in place.

    Args:
        module: may itself be foldable.
        index: the configuration that is taken out.

    Returns:
        The module, or what replaced it.
    """
    if isinstance(module, Foldable):
        return module.fold(index)
    for name, child in module.named_children():
        setattr(module, name, folded(child, index))
    return module
