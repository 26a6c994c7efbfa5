"""What every backbone that sartor registers with timm promises."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sartor.core import Member
from sartor.core.modes import eval_mode
from sartor.export import FORMATS
from sartor.nn.from_timm import create_timm, registry
from sartor.nn.sources import seeded
from sartor.stitch.discovery import find_anchor
from sartor.testing.layer import LayerContract

__all__ = ["BackboneContract"]

_CLASSES = 5


class BackboneContract(LayerContract, ABC):
    """Inherit it in a class called ``Test...`` and name an architecture, made small.

    Attributes:
        name: in timm's registry.
        kwargs: arguments that make it small enough for a test of a second.
        input_shape: (C, H, W).
        has_maps: whether ``features_only=True`` gives maps.
    """

    name: ClassVar[str]
    kwargs: ClassVar[Mapping[str, Any]] = {}
    input_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    has_maps: ClassVar[bool] = True

    def layer(self) -> nn.Module:
        """Make the model, with 5 classes."""
        return self.made()

    def made(self, **kwargs: Any) -> Any:
        """Make the model with other arguments, through timm."""
        given = {"num_classes": _CLASSES, "in_chans": self.input_shape[0]}
        return create_timm(self.name, {**given, **self.kwargs, **kwargs})

    def inputs(self) -> Tensor:
        """Two images of noise."""
        return torch.randn(2, *self.input_shape, generator=torch.Generator().manual_seed(0))

    def output_shape(self) -> tuple[int, ...]:
        """Logits (B, K)."""
        return (2, _CLASSES)

    @pytest.mark.slow  # the suites of its layers export each operator in a second
    @pytest.mark.parametrize("format", FORMATS)
    def test_exports_with_equal_numbers(self, format: str) -> None:
        """The written file gives the eager outputs, or the format is listed with the reason."""
        super().test_exports_with_equal_numbers(format)

    def test_timm_lists_it(self) -> None:
        """The name is found by wildcard, and described."""
        timm = registry()
        assert self.name in timm.list_models(self.name[:-1] + "*")
        assert self.name in timm.list_models(module="backbones")
        assert timm.get_pretrained_cfg(self.name).input_size[0] == 3
        assert self.made().default_cfg["architecture"] == self.name

    def test_features_then_head(self) -> None:
        """The model is its head after its features; before the logits there are
        ``head_hidden_size`` numbers.
        """
        model: Any = self.seeded_layer(0)
        with eval_mode(model), torch.no_grad():
            features = model.forward_features(self.inputs())
            assert torch.equal(model(self.inputs()), model.forward_head(features))
            hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (2, model.head_hidden_size)
        assert isinstance(model.num_features, int)

    def test_the_classifier_can_be_replaced(self) -> None:
        """``reset_classifier`` gives other classes, or none, and leaves the rest alone."""
        model: Any = self.seeded_layer(0)
        with eval_mode(model), torch.no_grad():
            features = model.forward_features(self.inputs())
            hidden = model.forward_head(features, pre_logits=True)
            model.reset_classifier(7)
            assert model.num_classes == 7 and model.get_classifier().out_features == 7
            assert model(self.inputs()).shape == (2, 7)
            model.reset_classifier(0)
            assert isinstance(model.get_classifier(), nn.Identity) and model.num_classes == 0
            assert torch.equal(model(self.inputs()), hidden)

    def test_other_channels(self) -> None:
        """``in_chans`` changes what it reads."""
        model = self.made(in_chans=1).eval()
        with torch.no_grad():
            assert model(self.inputs()[:, :1]).shape == (2, _CLASSES)

    def test_maps_of_the_stages(self) -> None:
        """``features_only=True`` gives maps (B, C, H / s, W / s) as ``feature_info`` says."""
        if not self.has_maps:
            return
        kwargs = {"in_chans": self.input_shape[0], **self.kwargs, "features_only": True}
        model = registry().create_model(self.name, **kwargs).eval()
        with torch.no_grad():
            maps = model(self.inputs())
        channels, strides = model.feature_info.channels(), model.feature_info.reduction()
        assert len(maps) == len(channels) == len(strides)
        _, height, width = self.input_shape
        for found, c, s in zip(maps, channels, strides, strict=True):
            assert tuple(found.shape) == (2, c, height // s, width // s)

    def test_gradient_checkpointing_changes_no_gradient(self) -> None:
        """Blocks that run again in the backward pass give the gradients that they gave."""
        found = []
        for enabled in (False, True):
            model: Any = self.seeded_layer(0).train()
            model.set_grad_checkpointing(enabled)
            calls: list[None] = []
            for module in model.modules():
                module.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
            with seeded(1):
                model(self.inputs()).square().mean().backward()
            found.append((len(calls), {n: p.grad for n, p in model.named_parameters()}))
        (once, plain), (again, checkpointed) = found
        assert again > once, "no block runs again"
        for name, gradient in plain.items():
            torch.testing.assert_close(checkpointed[name], gradient, msg=name)

    def test_no_decay_names_exist(self) -> None:
        """What ``no_weight_decay`` names are parameters."""
        model: Any = self.made()
        listed = getattr(model, "no_weight_decay", dict)()
        assert {*listed} <= {name for name, _ in model.named_parameters()}

    def test_its_blocks_are_found(self) -> None:
        """It can be cut into blocks that, run one by one, give the same outputs bit for bit."""
        member = Member(name=self.name, model=self.seeded_layer(0).eval())
        assert sum(find_anchor(member, self.inputs()).depths) > 1
