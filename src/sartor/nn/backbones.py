"""sartor's backbones in timm's registry: importing this module puts them there.

``timm.create_model``, ``timm.list_models(module="backbones")``, ``sartor fit --models`` and
:func:`sartor.nn.load_family` then know their names. Each entry point is also a function of this
module.

Example:
    >>> import sartor.nn.backbones  # doctest: +SKIP
    >>> timm.create_model("litv2_small", num_classes=10)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require
from sartor.core.registry import attribute
from sartor.nn.backbone import Backbone, official_state

__all__ = ["BACKBONES", "default_cfgs"]

#: where the records are, in the order in which they are listed
_TABLES = (
    "sartor.nn.bamboo.backbone:BACKBONES",
    "sartor.nn.ecoformer.backbone:BACKBONES",
    "sartor.nn.hvt.backbone:BACKBONES",
    "sartor.nn.lit.backbone:BACKBONES",
    "sartor.nn.litv2.backbone:BACKBONES",
    "sartor.nn.meta_pooling.layer:BACKBONES",
    "sartor.nn.autorf.resnet:BACKBONES",
    "sartor.nn.sparse_mlp.backbone:BACKBONES",
    "sartor.nn.spvit.backbone:BACKBONES",
)

#: every backbone of sartor's, by its name in timm
BACKBONES: Mapping[str, Backbone] = {
    backbone.name: backbone for table in _TABLES for backbone in attribute(table)
}


def _description(backbone: Backbone) -> dict[str, Any]:
    """What timm calls the pretrained configuration; there are no weights to download."""
    return {
        "num_classes": 1000,
        "input_size": backbone.input_size,
        "fixed_input_size": backbone.fixed_input_size,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": backbone.first_conv,
        "classifier": backbone.classifier,
    }


def _entry_point(backbone: Backbone) -> Callable[..., nn.Module]:
    """What timm calls to make the model; it finds its description in this module."""

    def renamed(state: Mapping[str, Any], model: nn.Module) -> Mapping[str, Tensor]:
        key, adapt = backbone.official_key, getattr(model, "adapt_state", dict)
        adapted: dict[str, Tensor] = adapt(state if key is None else official_state(state, key))
        return adapted

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if kwargs.get("features_only") and backbone.features is None:
            raise FamilyError(
                f"{backbone.name} has no maps to give; leave features_only out, or take another "
                "model."
            )
        model: nn.Module = require("timm.models").build_model_with_cfg(
            backbone.model,
            backbone.name,
            pretrained,
            feature_cfg=dict(backbone.features or {}),
            pretrained_filter_fn=renamed,
            **{**backbone.kwargs, **kwargs},
        )
        return model

    build.__name__ = build.__qualname__ = backbone.name
    build.__doc__ = f"Make a {backbone.name}; arguments are those of timm and of its class."
    return build


#: what timm's ``get_pretrained_cfg`` says of each
default_cfgs = require("timm.models").generate_default_cfgs(
    {name: _description(backbone) for name, backbone in BACKBONES.items()}
)
globals().update(
    {
        name: require("timm.models").register_model(_entry_point(backbone))
        for name, backbone in BACKBONES.items()
    }
)
