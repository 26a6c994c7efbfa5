"""Genotypes of AutoRF's cells: which operation reads which state.

Source: Dong, Niu, Wei, Pan, Li, Huang, AutoRF: Auto Learning Receptive Fields with Spatial Pooling,
    MultiMedia Modeling 2023; the published genotypes are those of its repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.core.errors import RecipeError, nearest
from sartor.core.schema import check_keys
from sartor.nn.autorf.ops import OPERATIONS

__all__ = ["GENOTYPES", "Edge", "Genotype", "genotype_named"]

#: operation and the state that it reads: 0 is the cell's input, i the output of node i
Edge = tuple[str, int]


@dataclass(frozen=True)
class Genotype:
    """One cell: the edges into each of its nodes.

    Attributes:
        nodes: of node 1, 2 and so on, each with edges from earlier states.

    Raises:
        RecipeError: an operation is unknown, or a node reads a state that is not there yet.

    Example:
        >>> Genotype(((("max3", 0),), (("noise", 1), ("avg5", 0)))).windows
        (3, 5)
    """

    nodes: tuple[tuple[Edge, ...], ...]

    def __post_init__(self) -> None:
        if not self.nodes or not all(self.nodes):
            raise RecipeError(
                f"A genotype has nodes, each with at least one edge, got {self.nodes}."
            )
        for number, edges in enumerate(self.nodes, start=1):
            for name, source in edges:
                if name not in OPERATIONS or name == "none":
                    raise RecipeError(
                        f"A genotype has no operation {name!r}; {nearest(name, OPERATIONS)}"
                    )
                if not 0 <= source < number:
                    raise RecipeError(
                        f"Node {number} of a genotype reads states 0 to {number - 1}, got {source}."
                    )

    @property
    def windows(self) -> tuple[int, ...]:
        """Sides of all pooling windows."""
        names = [name for edges in self.nodes for name, _ in edges]
        return tuple(int(name[3:]) for name in names if name[:3] in ("max", "avg"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"nodes": [[list(edge) for edge in edges] for edges in self.nodes]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Genotype:
        """Inverse of :meth:`to_dict`.

        Raises:
            RecipeError: the value is no genotype.
        """
        check_keys(value, "The genotype", {"nodes": list}, {})
        try:
            return cls(tuple(tuple((str(n), int(s)) for n, s in e) for e in value["nodes"]))
        except (TypeError, ValueError) as error:
            raise RecipeError(
                "A genotype's nodes are lists of [operation, state]; restore the file."
            ) from error


def _of(*nodes: Sequence[Edge]) -> Genotype:
    return Genotype(tuple(map(tuple, nodes)))


#: as published: P1 for CIFAR-10, Q1 and M3 for CIFAR-100, M1 for MobileNetV2, M2 for ImageNet-mini
GENOTYPES: Mapping[str, Genotype] = {
    "P1": _of([("max3", 0)], [("max3", 0), ("max5", 1)], [("max3", 0), ("noise", 2), ("noise", 1)]),
    "Q1": _of(
        [("max3", 0)], [("avg5", 0), ("max7", 1)], [("noise", 1), ("noise", 2), ("noise", 0)]
    ),
    "M1": _of(
        [("strip", 0)], [("avg3", 0), ("avg5", 1)], [("avg7", 0), ("strip", 2), ("noise", 1)]
    ),
    "M2": _of(
        [("avg7", 0)], [("noise", 0), ("noise", 1)], [("noise", 1), ("noise", 2), ("noise", 0)]
    ),
    "M3": _of([("max3", 0)], [("max7", 1), ("avg7", 0)], [("max5", 1), ("max3", 0), ("max5", 2)]),
}


def genotype_named(name: str) -> Genotype:
    """A published genotype.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in GENOTYPES:
        raise RecipeError(f"There is no genotype {name!r}; {nearest(name, GENOTYPES)}")
    return GENOTYPES[name]
