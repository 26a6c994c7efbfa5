"""Where a model drops values, and where it could.

What :class:`sartor.train.DropoutSchedule` switches; see there for the source.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from sartor.core.errors import FamilyError, NoEffectError

__all__ = ["DropoutSite", "dropout_sites", "insert_dropout_", "insertable"]

INSERTED = "inserted_dropout"


@dataclass(frozen=True)
class DropoutSite:
    """One number that a module reads as its dropout rate.

    Attributes:
        path: of the module, empty for the model itself.
        module: whose attribute it is.
        attribute: its name.
    """

    path: str
    module: nn.Module
    attribute: str

    @property
    def rate(self) -> float:
        """The present rate."""
        return float(getattr(self.module, self.attribute))

    def set(self, rate: float) -> None:
        """Write the rate."""
        setattr(self.module, self.attribute, rate)


def dropout_sites(
    model: nn.Module,
    *,
    attributes: Iterable[str] = (),
    targets: str | Sequence[str] = "*",
    drop_path: bool = False,
) -> tuple[DropoutSite, ...]:
    """Find what drops values: ``nn.Dropout`` and its kin, attention and recurrent layers of torch,
    and numbers that you name.

    timm's attention passes the ``p`` of its ``attn_drop`` on to the fused kernel, so that it needs
    no name. Modules that keep a number of their own, as transformers' ``attention_dropout``, do.

    Args:
        model: any module.
        attributes: names of numbers that modules pass on as ``dropout_p`` or as ``p``.
        targets: globs of module paths; only these are taken.
        drop_path: also take timm's and torchvision's stochastic depth.
    """
    globs = [targets] if isinstance(targets, str) else list(targets)
    own = tuple(attributes)
    sites = []
    for path, module in model.named_modules():
        if not any(fnmatch.fnmatchcase(path, glob) for glob in globs):
            continue
        names = [name for name in own if isinstance(getattr(module, name, None), float)]
        names += [name for name in _known(module, drop_path) if name not in names]
        sites += [DropoutSite(path, module, name) for name in names]
    return tuple(sites)


def _known(module: nn.Module, drop_path: bool) -> tuple[str, ...]:
    if isinstance(module, _DropoutNd):
        return ("p",)
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return ("dropout",)
    depth = {"DropPath": ("drop_prob",), "StochasticDepth": ("p",)}
    return depth.get(type(module).__name__, ()) if drop_path else ()


def insert_dropout_(model: nn.Module, targets: str | Sequence[str]) -> tuple[str, ...]:
    """Give modules a dropout of rate 0 after their output, where a schedule can switch it on.

    For models that have none, such as the Llama family: ``insert_dropout_(model, ["*.mlp",
    "*.self_attn.o_proj"])``. Weights and their names stay as they are.

    Args:
        model: changed in place.
        targets: globs of paths of modules that return a tensor.

    Returns:
        The paths of the modules that got one.

    Raises:
        NoEffectError: no path matches, or all have one.
        FamilyError: in a forward pass later, a module returns something else than a tensor.
    """
    globs = [targets] if isinstance(targets, str) else list(targets)
    chosen = [
        (path, module)
        for path, module in model.named_modules()
        if path
        and any(fnmatch.fnmatchcase(path, glob) for glob in globs)
        and not hasattr(module, INSERTED)
    ]
    if not chosen:
        raise NoEffectError(
            f"No module without inserted dropout matches {globs}; {insertable(model)}"
        )
    for _, module in chosen:
        module.add_module(INSERTED, nn.Dropout(0.0))
        module.register_forward_hook(_drop_output)
    return tuple(path for path, _ in chosen)


def _drop_output(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise FamilyError(
            f"Dropout was inserted after {type(module).__name__}, which returns "
            f"{type(output).__name__} and not a tensor; insert it after a layer inside."
        )
    dropped: Tensor = getattr(module, INSERTED)(output)
    return dropped


def insertable(model: nn.Module) -> str:
    """A clause that lists where dropout could go."""
    words = ("mlp", "feedforward", "ffn", "attention", "attn")
    named = [
        path
        for path, m in model.named_modules()
        if path and type(m).__name__.lower().endswith(words)
    ]
    linear = [path for path, m in model.named_modules() if path and isinstance(m, nn.Linear)]
    numbers = sorted(
        {key for m in model.modules() for key, v in vars(m).items() if "drop" in key and _rate(v)}
    )
    shown = (named or linear)[:8]
    also = f"; numbers called dropout: {', '.join(numbers)} (name them in attributes)"
    return f"it could go after {', '.join(shown) or 'no layer'}{also if numbers else ''}."


def _rate(value: Any) -> bool:
    return isinstance(value, float) and 0 <= value < 1
