"""What every layer of ``sartor.nn`` promises."""

from __future__ import annotations

import copy
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sartor.core import ExportError
from sartor.core.modes import eval_mode
from sartor.export import FORMATS, export
from sartor.nn.sources import seeded

__all__ = ["LayerContract"]


class LayerContract(ABC):
    """Inherit it in a class called ``Test...`` and say how to make the layer and what it takes.

    Attributes:
        exports: formats that the layer can be written in.
        refused: format that it cannot be written in -> words of the reason, usually the operator
            that prevents it. Together with ``exports`` these are all the formats there are.
        unused: name of a parameter that has no part in the outputs -> why.
    """

    exports: ClassVar[tuple[str, ...]] = FORMATS
    refused: ClassVar[Mapping[str, str]] = {}
    unused: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def layer(self) -> nn.Module:
        """Make the layer, with random weights: from one tensor (B, ...) to one (B, ...)."""

    @abstractmethod
    def inputs(self) -> Tensor:
        """Inputs (B >= 2, ...) that differ from row to row; the same at every call."""

    def output_shape(self) -> tuple[int, ...]:
        """Shape of the outputs: by default that of the inputs, as of a layer that replaces one."""
        return tuple(self.inputs().shape)

    def seeded_layer(self, seed: int) -> nn.Module:
        """The layer, with the weights of a seed."""
        with seeded(seed):
            return self.layer()

    def test_shapes(self) -> None:
        """Outputs have the shape that is promised and are finite, in both modes."""
        layer = self.seeded_layer(0)
        for mode in (True, False):
            with torch.no_grad():
                outputs = layer.train(mode)(self.inputs())
            assert tuple(outputs.shape) == self.output_shape()
            assert outputs.isfinite().all()

    def test_same_seed_same_weights(self) -> None:
        """Weights come from torch's generator alone."""
        one, two = (self.seeded_layer(3).state_dict() for _ in range(2))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_weights_round_trip(self) -> None:
        """The state dict holds all that the outputs depend on."""
        one, two = self.seeded_layer(0), self.seeded_layer(1)
        two.load_state_dict(copy.deepcopy(one.state_dict()))
        with eval_mode(one, two), torch.no_grad():
            assert torch.equal(one(self.inputs()), two(self.inputs()))

    def test_rows_do_not_mix(self) -> None:
        """In eval mode a row of the batch has the outputs that it has alone."""
        layer, inputs = self.seeded_layer(0), self.inputs()
        with eval_mode(layer), torch.no_grad():
            together, alone = layer(inputs), layer(inputs[:1])
        assert torch.allclose(together[:1], alone, rtol=1e-4, atol=1e-5)

    def test_everything_learns(self) -> None:
        """Every parameter gets a finite gradient, and none is left out."""
        layer = self.seeded_layer(0).train()
        outputs = layer(self.inputs())
        weights = torch.linspace(-1, 1, outputs.numel()).view_as(outputs)
        (outputs * weights).sum().backward()
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad and name not in self.unused:
                assert parameter.grad is not None, f"{name} has no part in the outputs"
                assert parameter.grad.isfinite().all(), name

    def test_takes_double_precision(self) -> None:
        """In float64 the outputs are those of float32, but for rounding."""
        layer, inputs = self.seeded_layer(0), self.inputs()
        if not inputs.is_floating_point():
            return
        with eval_mode(layer), torch.no_grad():
            single = layer(inputs)
            double = copy.deepcopy(layer).double()(inputs.double())
        assert double.dtype == torch.float64
        assert torch.allclose(single.double(), double, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        "format",
        # writing ONNX goes through torch.export too
        [pytest.param(f, marks=pytest.mark.slow) if f == "torch_export" else f for f in FORMATS],
    )
    def test_exports_with_equal_numbers(self, format: str) -> None:
        """The written file gives the eager outputs, or the format is listed with the reason."""
        assert {*self.exports, *self.refused} == {*FORMATS}
        layer = self.seeded_layer(0).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"layer.{format}"
            if format in self.exports:
                report = export(layer, self.inputs(), path, format=format)
                assert report.verified and math.isfinite(report.max_abs_diff)
            else:
                with pytest.raises(ExportError, match=self.refused[format]):
                    export(layer, self.inputs(), path, format=format)
