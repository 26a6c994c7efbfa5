"""Which operation of torch is saving a tensor, and in which module of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Operation", "Place", "head_counts", "kind_of"]

#: their gradients divide by what they save or ask for its sign: it must not be rounded to 0
_SINGULAR = (
    *("__rtruediv__", "__truediv__", "abs", "cdist", "cosine_similarity", "div", "log", "log10"),
    *("log1p", "log2", "logit", "logsumexp", "normalize", "reciprocal", "rsqrt", "sqrt"),
    "true_divide",
)
_NAMES = {
    "addmm": "linear",
    "linear": "linear",
    "__matmul__": "matmul",
    "__rmatmul__": "matmul",
    "baddbmm": "matmul",
    "bmm": "matmul",
    "einsum": "matmul",
    "matmul": "matmul",
    "multi_head_attention_forward": "attention",
    "scaled_dot_product_attention": "attention",
    "softmax": "softmax",
    "gelu": "gelu",
    "relu": "relu",
    "relu_": "relu",
    "group_norm": "layer_norm",
    "layer_norm": "layer_norm",
    "rms_norm": "layer_norm",
    "batch_norm": "batch_norm",
    "instance_norm": "layer_norm",
    "log_softmax": "loss",
    **dict.fromkeys(_SINGULAR, "singular"),
}


def kind_of(name: str) -> str:
    """The kind of an operation by its name in torch; no name is an autograd function of someone's
    own, as checkpointing's.

    Example:
        >>> kind_of("conv2d"), kind_of("cross_entropy"), kind_of("rsqrt"), kind_of("mul")
        ('conv', 'loss', 'singular', 'other')
    """
    if not name:
        return "custom"
    if name.startswith("conv"):
        return "conv"
    if "loss" in name or "cross_entropy" in name:
        return "loss"
    if "norm" in name and name not in _NAMES:
        return "singular"
    return _NAMES.get(name, "other")


class Operation:
    """One call of a torch function.

    Attributes:
        name: of the function.
        kind: see :func:`kind_of`.
        tensors: its tensor arguments.
    """

    def __init__(self, name: str, arguments: Iterable[Any]) -> None:
        self.name, self.kind = name, kind_of(name)
        self.tensors = [value for value in arguments if isinstance(value, Tensor)]

    def is_statistic(self, saved: Tensor) -> bool:
        """Whether a tensor is one number for many, which must stay exact: means and deviations of
        norms, the logarithms of sums of attention.
        """
        if saved.ndim > 1 and saved.shape[-1] == 1:
            return True
        first = self.tensors[0] if self.tensors else saved
        if self.kind in ("layer_norm", "batch_norm"):
            return saved.numel() != first.numel()
        if self.name == "scaled_dot_product_attention":  # (B, H, N) of queries (B, H, N, D)
            return saved.ndim == first.ndim - 1 and saved.shape[:-1] == first.shape[:-2]
        return False

    def copies_weight(self, saved: Tensor) -> bool:
        """Whether a tensor is a parameter of this call in the lower precision of autocast."""
        for weight in self.tensors:
            if not isinstance(weight, nn.Parameter) or weight.dtype == saved.dtype:
                continue
            views = (saved, saved.mT) if saved.ndim == 2 else (saved,)
            low = weight.detach().to(saved.dtype)
            if any(view.shape == low.shape and torch.equal(view, low) for view in views):
                return True
        return False

    def heads_of(self, saved: Tensor) -> int | None:
        """Heads of an attention that flattened (B, H, N, D) to (B * H, N, D) in a product."""
        if self.kind in ("matmul", "attention") and saved.ndim == 3:
            for given in self.tensors:
                if given.ndim == 4 and len(saved) == given.shape[0] * given.shape[1]:
                    return given.shape[1]
        return None


class Place:
    """While entered, knows the module that runs and the operation that it calls.

    Attributes:
        operation: the running torch function.
        channel_dim: where the last linear or convolution had its channels.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.operation = Operation("", ())
        self.channel_dim = -1
        self._path: list[str] = [""]
        self._counts: list[int] = [0]

    @property
    def module(self) -> str:
        """Dotted name of the module that runs."""
        return self._path[-1]

    def watch(self) -> AbstractContextManager[Any]:
        """Follow the model until the returned context ends; nothing stays on the model then."""
        self._path, self._counts = [""], [0]
        stack = ExitStack()
        for name, module in self.model.named_modules():
            if name:
                enter, leave = self._hooks(name)
                stack.enter_context(module.register_forward_pre_hook(enter))
                stack.enter_context(module.register_forward_hook(leave))
        stack.enter_context(_Watch(self))
        return stack

    def next_key(self) -> str:
        """A name for the next tensor saved here: module, operation, how many came before."""
        self._counts[-1] += 1
        return f"{self.module or 'model'}/{self.operation.name}/{self._counts[-1] - 1}"

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, args: Any) -> None:
            self._path.append(name)
            self._counts.append(0)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if name in self._path:  # also ends modules in it that an exception left
                index = len(self._path) - 1 - self._path[::-1].index(name)
                del self._path[index:], self._counts[index:]

        return enter, leave


class _Watch(TorchFunctionMode):
    """Tells a place every function of torch before it runs."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        place, given = self.place, dict(kwargs or {})
        before = place.operation
        place.operation = now = Operation(getattr(func, "__name__", ""), (*args, *given.values()))
        if now.kind in ("linear", "conv"):
            place.channel_dim = -1 if now.kind == "linear" else 1
        try:
            return func(*args, **given)
        finally:
            place.operation = before


def head_counts(model: nn.Module) -> dict[str, int]:
    """Attention heads by module name: an attention's own, and that of the first attention inside a
    module that holds some.

    Example:
        >>> block = nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> head_counts(block)["self_attn"], head_counts(block)[""]
        (2, 2)
    """
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        for attribute in ("num_heads", "num_attention_heads", "n_head"):
            heads = getattr(module, attribute, None)
            if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0:
                path = name
                while path:
                    found.setdefault(path, heads)
                    path = path.rpartition(".")[0]
                found.setdefault("", heads)
                break
    return found
