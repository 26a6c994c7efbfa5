"""Models of timm's registry, in which sartor's own backbones are too, made to fit a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sartor.core.errors import FamilyError, nearest
from sartor.core.packages import require
from sartor.core.registry import attribute

__all__ = ["check_timm_name", "create_timm", "default_config", "fitting_kwargs", "registry"]

#: arguments of timm that read files or change more than the architecture
_NOT_ARCHITECTURE = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "device",
        "dtype",
        "exportable",
        "feature_cfg",
        "feature_cls",
        "features_only",
        "model_name",
        "no_jit",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_model_args",
        "pretrained_strict",
        "scriptable",
    }
)


def registry() -> Any:
    """timm, once its registry also has sartor's backbones.

    Raises:
        MissingPackageError: timm is not installed.
    """
    timm = require("timm")
    attribute("sartor.nn.backbones:BACKBONES")
    return timm


def check_timm_name(name: str) -> None:
    """Make sure that timm or sartor has an architecture of this name; nothing is downloaded.

    Raises:
        FamilyError: it has none; the nearest names are given.
    """
    timm = registry()
    if not timm.is_model(name):
        raise FamilyError(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")


def create_timm(name: str, kwargs: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Make a model of timm's registry.

    Args:
        name: of the architecture, with or without the tag of its weights.
        kwargs: arguments of the architecture: numbers, texts and lists of them.
        pretrained: whether to load the published weights, from the Hub if they are not cached.

    Raises:
        FamilyError: the name is unknown, an argument is not one of the architecture, the model
            cannot be built or its weights cannot be had.
    """
    check_timm_name(name)
    for key in kwargs:
        if key in _NOT_ARCHITECTURE:
            raise FamilyError(
                f"The argument {key!r} of {name!r} does not describe its architecture; leave it "
                "out of kwargs."
            )
    try:
        model: nn.Module = require("timm").create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:  # timm and the Hub raise many kinds
        what = "could not be loaded with its published weights" if pretrained else "cannot be built"
        hint = (
            "check the network and the cache, or give the weights as name@file.safetensors"
            if pretrained
            else "choose another model or another input size"
        )
        raise FamilyError(
            f"The timm model {name!r} {what} with {dict(kwargs)} ({first_line(error)}); {hint}."
        ) from error
    return model


def default_config(name: str) -> Any:
    """Description of a model in timm: ``input_size``, ``fixed_input_size``, ``mean``, ``std``.

    Raises:
        FamilyError: the name is unknown.
    """
    check_timm_name(name)
    try:
        config = require("timm").get_pretrained_cfg(name)
    except RuntimeError as error:
        raise FamilyError(
            f"timm has no weights {name!r} ({first_line(error)}); leave the tag after the dot out."
        ) from error
    return config or require("timm.models").PretrainedCfg()


def fitting_kwargs(
    name: str, input_shape: tuple[int, ...] | None, num_classes: int | None
) -> dict[str, Any]:
    """Arguments with which a model takes a task's inputs and gives its classes.

    ``img_size`` is only given to models that are built for one size, and only if theirs differs.

    Args:
        name: in timm's registry.
        input_shape: (C, H, W) of one input; ``None`` for the model's own.
        num_classes: width of the logits; ``None`` for the model's own.
    """
    config = default_config(name)
    kwargs: dict[str, Any] = {}
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if input_shape is None or len(input_shape) != 3:
        return kwargs
    channels, height, width = input_shape
    if channels != config.input_size[0]:
        kwargs["in_chans"] = channels
    if config.fixed_input_size and (height, width) != tuple(config.input_size[1:]):
        kwargs["img_size"] = height if height == width else [height, width]
    return kwargs


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
