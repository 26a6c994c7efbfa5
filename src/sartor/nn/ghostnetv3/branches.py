"""GhostNetV3's re-parameterisation for any convolutional network: branches for training that fold
away.

The networks themselves are timm's (``ghostnetv3_050``, ``_100``, ``_130``, ``_160``); the training
recipe is :class:`sartor.train.CompactRecipe`.

Source: Liu, Hao, Han, Tang, Wang, GhostNetV3: Exploring the Training Strategies for Compact Models,
    2024, arXiv 2404.11202. Deviations: pairs of convolution and batch norm are found by running the
    model, so that any model can have branches; a trained model keeps its function when it gets
    them; folding is done in double precision and checked on an input. A folded model is an
    ordinary network, which can be trained on like one; nothing forbids it.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, NoEffectError, TrainingError
from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.nn.ghostnetv3.rep_conv import RepConvBN

__all__ = ["conv_bn_pairs", "expand_for_training", "fold", "official_key"]

#: largest accepted change of an output, relative to the largest output
_TOLERANCE = 1e-4


def conv_bn_pairs(model: nn.Module, example: Tensor) -> dict[str, str]:
    """Find convolutions without bias whose outputs a batch norm reads, by running the model.

    Args:
        model: left as it is found.
        example: inputs (B, ...).

    Returns:
        Dotted name of the convolution -> that of its norm, in order of execution.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        >>> conv_bn_pairs(net, torch.zeros(1, 3, 2, 2))
        {'0': '1'}
    """
    written: dict[int, tuple[str, Tensor]] = {}  # tensors are kept so that an id is used once
    pairs: dict[str, str] = {}
    hooks = []

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            written[id(output)] = (name, output)

        return hook

    def look(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            conv, _ = written.get(id(inputs[0]), ("", None))
            if conv:
                pairs[conv] = name

        return hook

    for name, module in model.named_modules():
        if type(module) is nn.Conv2d and module.bias is None:
            hooks.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(look(name)))
    try:
        with eval_mode(model), torch.no_grad():
            model(example)
    finally:
        for handle in hooks:
            handle.remove()
    return pairs


def expand_for_training(
    model: nn.Module,
    example: Tensor,
    *,
    match: str = "*",
    num_branches: int = 3,
    scale_branch: bool = True,
    identity_branch: bool = True,
    keep_function: bool = True,
) -> nn.Module:
    """Give a copy of a model parallel branches at its convolutions; :func:`fold` takes them away.

    Args:
        model: any; left as it is.
        example: inputs (B, ...), on which pairs are found and the function is compared.
        match: wildcard that the dotted name of a convolution must match.
        num_branches: convolutions of the original shape, at least 1.
        scale_branch: a 1 x 1 convolution beside kernels that are larger.
        identity_branch: a batch norm of the input where channels and resolution stay.
        keep_function: whether added branches start with a gain of 0, as for a trained model; if
            not, with 1, as GhostNetV3 starts.

    Raises:
        NoEffectError: no convolution with a batch norm of its own matches.
        FamilyError: the function would change, as when something else reads a convolution too, or
            a number is out of range.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        >>> inputs = torch.randn(2, 4, 5, 5)
        >>> wide = expand_for_training(net, inputs)
        >>> sum(p.numel() for p in wide.parameters()), len(fold(wide.eval(), inputs)[0].weight)
        (488, 4)
    """
    pairs = conv_bn_pairs(model, example)
    chosen = {conv: norm for conv, norm in pairs.items() if fnmatch.fnmatch(conv, match)}
    if not chosen:
        raise NoEffectError(
            f"No convolution that matches {match!r} is followed by a batch norm; there are "
            f"{', '.join(list(pairs)[:3]) or 'none'}."
        )
    made = copy.deepcopy(model)
    for conv_name, norm_name in chosen.items():
        conv, norm = made.get_submodule(conv_name), made.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        layer = RepConvBN(conv, norm, num_branches, scale_branch, identity_branch)
        made.set_submodule(conv_name, layer.train(conv.training))
        made.set_submodule(norm_name, _after(norm))
    _check_same(model, made, example, "The branches changed")
    if not keep_function:
        for layer in made.modules():
            if isinstance(layer, RepConvBN):
                for added in layer.added_norms:
                    nn.init.ones_(added.weight)
    return made


def fold(model: nn.Module, example: Tensor) -> nn.Module:
    """Fold the branches of a copy of a model into plain convolutions: ours, and those of timm's
    GhostNetV3, RepVGG, MobileOne and others.

    Args:
        model: in eval mode; left as it is.
        example: inputs (B, ...), on which both are compared.

    Raises:
        TrainingError: the model is in training mode.
        NoEffectError: there is nothing to fold, as after folding.
        FamilyError: the outputs differ, relative to the largest, by more than 1e-4.
    """
    if model.training:
        raise TrainingError(
            "A model in training mode cannot be folded, as its statistics are the batch's; call "
            "eval() first."
        )
    dtype = next(model.parameters()).dtype
    double = copy.deepcopy(model).double()
    made: nn.Module = require("timm.utils").reparameterize_model(double, inplace=True)
    if made.state_dict().keys() == model.state_dict().keys():
        raise NoEffectError("The model has no branches to fold; fold it once, after training.")
    made = made.to(dtype).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(True)
    _check_same(model, made, example, "Folding changed")
    return made


def official_key(key: str) -> str | None:
    """Name in timm of a weight in the authors' GhostNetV3 checkpoints; ``None`` for counters that
    a profiler left there.

    Example:
        >>> official_key("blocks.0.0.ghost1.primary_rpr_conv.0.bn.weight")
        'blocks.0.0.ghost1.primary_rpr_conv.0.bn1.weight'
        >>> official_key("total_ops") is None
        True
    """
    parts = key.split(".")
    if parts[-1] in ("total_ops", "total_params"):
        return None
    branch = any(part.endswith(("_rpr_conv", "_rpr_scale")) for part in parts)
    return ".".join("bn1" if part == "bn" and branch else part for part in parts)


def _after(norm: nn.BatchNorm2d) -> nn.Module:
    """What is left where the norm was: the activation that timm keeps inside it."""
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part]
    kept = [part for part in rest if not isinstance(part, nn.Identity)]
    return nn.Sequential(*kept) if kept else nn.Identity()


def _check_same(before: nn.Module, after: nn.Module, example: Tensor, what: str) -> None:
    with eval_mode(before, after), torch.no_grad():
        expected, found = _tensors(before(example)), _tensors(after(example))
    for one, other in zip(expected, found, strict=True):
        gap = float((one - other).abs().max())
        if not gap <= _TOLERANCE * max(float(one.abs().max()), 1e-6):
            raise FamilyError(
                f"{what} the outputs by up to {gap:.3g}; leave out, with match, convolutions whose "
                "outputs something else reads too, or check the model for infinite values."
            )


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for value in values for tensor in _tensors(value)]
