"""AdamW whose two moments are held in 8 bits, 4 bits or FP8, by torchao.

Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2021, arXiv 2110.02861; Li et
    al., Memory Efficient Optimizers with 4-bit States, 2023, arXiv 2309.01507. torchao does the
work. Added here: rates may be plain floats, as schedules write them; the state can be saved without
pickle; without compilation unless asked for, as that takes a minute on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sartor.core.errors import ArtifactError, RecipeError
from sartor.core.packages import require

__all__ = ["low_bit_adamw", "state_bytes"]

_CLASSES = {"8": "AdamW8bit", "4": "AdamW4bit", "fp8": "AdamWFp8"}
_STATES = {
    "OptimState8bit": "torchao.optim.subclass_8bit",
    "OptimState4bit": "torchao.optim.subclass_4bit",
    "OptimStateFp8": "torchao.optim.subclass_fp8",
}


def low_bit_adamw(
    params: Iterable[Any],
    bits: int | str = 8,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    compiled: bool = False,
) -> torch.optim.Optimizer:
    """Make torchao's AdamW with moments of few bits.

    Tensors of fewer than 4096 values, or whose number is no multiple of the block, keep float32
    moments.

    Args:
        params: tensors or groups, as for any optimiser.
        bits: 8, 4 or ``fp8``.
        lr: as in ``torch.optim.AdamW``.
        betas: likewise.
        eps: likewise; with FP8 moments take 1e-6: second moments that round to 0 leave it alone
            below a first moment that does not, and at 1e-8 a training can break.
        weight_decay: likewise.
        compiled: let torchao compile the update: faster on a GPU, a minute before the first step on
            a CPU.

    Raises:
        RecipeError: ``bits`` is something else.
        MissingPackageError: torchao is not installed.

    Example:
        >>> optimizer = low_bit_adamw(model.parameters(), 8, lr=1e-3)  # doctest: +SKIP
    """
    if str(bits) not in _CLASSES:
        raise RecipeError(f"The moments take bits=8, 4 or 'fp8', got {bits!r}.")
    base = getattr(require("torchao.optim"), _CLASSES[str(bits)])

    def step(self: Any, closure: Any = None) -> Any:
        for group in self.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] = torch.tensor(float(group["lr"]))
        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            return base.step(self, closure)

    def state_dict(self: Any) -> dict[str, Any]:
        return _plain(base.state_dict(self))

    def load_state_dict(self: Any, state: dict[str, Any]) -> None:
        base.load_state_dict(self, _with_subclasses(state))

    methods = {"step": step, "state_dict": state_dict, "load_state_dict": load_state_dict}
    made: torch.optim.Optimizer = type(_CLASSES[str(bits)], (base,), methods)(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
    )
    return made


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Each quantised tensor as its plain parts, what describes it, and its class."""
    entries: dict[int, dict[str, Any]] = {}
    for index, values in state["state"].items():
        kept: dict[str, Any] = {}
        for name, value in values.items():
            kind = type(value).__name__
            if kind not in _STATES:
                kept[name] = value
                continue
            parts, about = value.__tensor_flatten__()
            kept |= {f"{name}:{part}": getattr(value, part) for part in parts}
            kept[f"{name}:about"] = [kind, *(_listed(entry) for entry in about)]
        entries[index] = kept
    groups = [{**g, "lr": float(g["lr"])} for g in state["param_groups"]]
    return {**state, "state": entries, "param_groups": groups}


def _listed(value: Any) -> Any:
    """JSON-ready: a shape as a list, a dtype by its name."""
    if isinstance(value, torch.dtype):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _unlisted(value: Any) -> Any:
    if isinstance(value, str):
        return getattr(torch, value.removeprefix("torch."))
    return tuple(value) if isinstance(value, list) else value


def _with_subclasses(state: dict[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`_plain`.

    Raises:
        ArtifactError: the state names a class that torchao's optimisers do not have.
    """
    entries: dict[int, dict[str, Any]] = {}
    for index, values in state["state"].items():
        kept = {name: value for name, value in values.items() if ":" not in name}
        for name in {name.split(":")[0] for name in values if ":" in name}:
            kind, *about = values[f"{name}:about"]
            if kind not in _STATES:
                raise ArtifactError(
                    f"The state of the optimiser has a {kind!r}; it was not made by low_bit_adamw."
                )
            parts = {
                key.split(":")[1]: value
                for key, value in values.items()
                if key.startswith(f"{name}:") and isinstance(value, Tensor)
            }
            cls = getattr(require(_STATES[kind]), kind)
            kept[name] = cls.__tensor_unflatten__(parts, [_unlisted(entry) for entry in about])
        entries[index] = kept
    return {**state, "state": entries}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimiser's state, the parts of quantised tensors counted each.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(8))
        >>> weight.sum().backward()
        >>> (optimizer := torch.optim.AdamW([weight])).step()
        >>> state_bytes(optimizer)
        68
    """
    return sum(
        _bytes(value)
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    )


def _bytes(value: Tensor) -> int:
    if type(value).__name__ in _STATES:
        parts, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
        return sum(_bytes(getattr(value, part)) for part in parts if part != "qmap")
    return value.numel() * value.element_size()
