"""Which nodes of an ONNX graph are worth 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor.core.errors import ArtifactError, NoEffectError
from sartor.core.packages import require

__all__ = ["FOLLOWERS", "WEIGHTED", "Plan", "input_shape", "load", "plan_nodes"]

#: operators with a weight that can be quantised
WEIGHTED = ("MatMul", "Gemm", "Conv")
#: operators that can run on the integers which quantised operators before them put out
FOLLOWERS = ("Add", "AveragePool", "GlobalAveragePool", "MaxPool", "Relu")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Names of nodes.

    Attributes:
        nodes: with a constant weight, to be quantised.
        followers: all of whose inputs are integers once ``nodes`` are quantised statically.
        skipped: with a constant weight, to be left in float, with the reason.
    """

    nodes: tuple[str, ...]
    followers: tuple[str, ...]
    skipped: tuple[str, ...]


def load(source: Path) -> Any:
    """Read an ONNX file as a ModelProto in which every node has a name and no intermediate shape is
    noted, as the quantiser needs it.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    onnx = require("onnx")
    try:
        proto = onnx.load(str(source))
    except FileNotFoundError as error:
        raise ArtifactError(f"{source} does not exist; export the model first.") from error
    except Exception as error:  # protobuf's own error classes differ between its versions
        raise ArtifactError(f"{source} is not an ONNX file; export the model again.") from error
    del proto.graph.value_info[:]
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return proto


def input_shape(proto: Any) -> tuple[int, ...]:
    """Return the shape of the first input, without the batch."""
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    return tuple(size.dim_value for size in sizes[1:])


def plan_nodes(proto: Any, op_types: tuple[str, ...]) -> Plan:
    """Choose the nodes of ``op_types`` with a constant weight, and those that can follow them.

    Products of two activations, as in attention, stay in float: they are small, and quantising them
    costs more than it saves. So do products with a stack of constant matrices, one a head, which
    ONNX Runtime does not run on integers with a scale for each column. Only convolutions put out
    integers; after matrix products come norms and activations, which take floats.

    Raises:
        NoEffectError: no node of these types has a constant weight.
    """
    constants = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    nodes: list[str] = []
    followers: list[str] = []
    skipped: list[str] = []
    integers: set[str] = set()
    for node in proto.graph.node:  # sorted, so that inputs come first
        if node.op_type in WEIGHTED and node.input[1] in constants:
            if node.op_type not in op_types:
                skipped.append(f"{node.name}: {node.op_type} is not among op_types")
                continue
            if node.op_type == "MatMul" and constants[node.input[1]] > 2:
                skipped.append(f"{node.name}: its weight is a stack of matrices")
                continue
            nodes.append(node.name)
            if node.op_type == "Conv":
                integers.update(node.output)
        elif node.op_type in FOLLOWERS and integers.issuperset(node.input):
            followers.append(node.name)
            integers.update(node.output)
    if not nodes:
        raise NoEffectError(
            f"The ONNX file has no {', '.join(op_types)} with a constant weight, so nothing can be "
            "quantised; leave this move out."
        )
    return Plan(nodes=tuple(nodes), followers=tuple(followers), skipped=tuple(skipped))
