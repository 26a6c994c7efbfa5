"""Elastic modules: one set of weights, many configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["Elastic"]


class Elastic(nn.Module, ABC):
    """A module with a finite space of configurations that share weights.

    The contract, tested by ``sartor.testing.ElasticContract``: ``set_config`` copies nothing and is
    instant; ``forward`` runs only what the chosen configuration uses; ``extract`` returns a plain
    module with weights of its own and equal outputs.
    """

    @property
    @abstractmethod
    def configs(self) -> Sequence[Any]:
        """Every configuration, in a fixed order."""

    @abstractmethod
    def set_config(self, index: int) -> None:
        """Choose configuration ``index`` for the next forward passes."""

    @abstractmethod
    def flops(self, index: int) -> int:
        """FLOPs of configuration ``index`` for one input, multiply and add counted apart."""

    @abstractmethod
    def extract(self, index: int) -> nn.Module:
        """Copy configuration ``index`` out as a plain, exportable module."""

    def no_weight_decay(self) -> frozenset[str]:
        """Names of the parameters that training must not decay; none, unless a method says so."""
        return frozenset()
