"""Mesa: train with exact forward passes and 8-bit copies of the activations for the backward pass.

What autograd saves is replaced by codes of 8 bits with a range for each attention head or run of
channels; weights, statistics of norms, small tensors and what losses save stay as they are. It
works on every operation, through saved tensors hooks: no layer of the model is exchanged, fused
attention stays fused, and a tensor that several operations save is stored once.

Source: Pan, Chen, He, Liu, Cai, Zhuang, Mesa: A Memory-saving Training Framework for Transformers,
    2021, arXiv 2111.11124. Deviations: hooks instead of one autograd function for each kind of
    layer; softmax keeps its output alone, as autograd does; ReLU's codes keep the sign; masks of
    zeros and one other value take 1 bit and are exact; running ranges are kept beside the model
    and not among its parameters; see ``mesa_quantizer`` for the arithmetic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import ArtifactError, RecipeError, TrainingError
from sartor.train.mesa.compressor import Compressor
from sartor.train.mesa.settings import MesaReport, MesaSettings

__all__ = ["Mesa", "mesa_"]


class Mesa:
    """A context in which a model's forward passes store their activations in few bits.

    Enter it around the forward pass; loss and backward pass may be inside or after it. In eval mode
    and without gradients it does nothing. A pass is counted and its rounding drawn when the context
    is entered.

    Args:
        model: any module in eager mode.
        settings: see :class:`MesaSettings`.

    Raises:
        RecipeError: the settings do not fit the model.
        TrainingError: the model was compiled.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8))
        >>> mesa = Mesa(model, MesaSettings(groups=4))
        >>> with mesa:
        ...     outputs = model(torch.randn(128, 64))
        >>> outputs.sum().backward()
        >>> round(mesa.report().ratio, 1)
        4.0
    """

    def __init__(self, model: nn.Module, settings: MesaSettings | None = None) -> None:
        if hasattr(model, "_orig_mod"):
            raise TrainingError(
                "Mesa works in eager mode and this model is compiled; give it the model that was "
                "given to torch.compile."
            )
        self.model = model
        self.settings = settings or MesaSettings()
        self.step = 0
        self._compressor = Compressor(model, self.settings)
        self._report: MesaReport | None = None
        self._active: ExitStack | None = None
        self._depth = 0

    def __enter__(self) -> Mesa:
        self._depth += 1
        if self._depth == 1 and self.model.training and torch.is_grad_enabled():
            self._compressor.begin(self.step)
            self.step += 1
            with ExitStack() as stack:
                stack.enter_context(self._compressor.place.watch())
                hooks = torch.autograd.graph.saved_tensors_hooks(
                    self._compressor.pack, self._compressor.unpack
                )
                stack.enter_context(hooks)
                self._active = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if not self._depth and self._active:
            active, self._active = self._active, None
            active.close()
            self._report = self._compressor.end()

    def report(self) -> MesaReport:
        """Bytes of the last forward pass in training mode.

        Raises:
            TrainingError: there was none yet.
        """
        if self._report is None:
            raise TrainingError(
                "Mesa has seen no forward pass in training mode; run one in its context, then ask "
                "for the report."
            )
        return self._report

    def remove(self) -> None:
        """Undo :func:`mesa_`: the model's forward passes save what they saved before."""
        forward = self.model.__dict__.get("forward")
        if not isinstance(forward, _Forward):
            raise RecipeError(
                "This model's forward pass is not under Mesa's; remove() undoes mesa_, once."
            )
        del self.model.forward

    def state_dict(self) -> dict[str, Tensor]:
        """Number of passes and running ranges, as tensors with names that files take.

        With it a later run goes on with equal numbers.
        """
        state = {"step": torch.tensor(self.step)}
        for key, (alpha, beta) in self._compressor.ranges.items():
            state |= {f"alpha.{key}": alpha.clone(), f"beta.{key}": beta.clone()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`, for the same model and settings.

        Raises:
            ArtifactError: an entry is missing or unknown, or ranges do not have equal shapes.
        """
        keys = sorted(name.removeprefix("alpha.") for name in state if name.startswith("alpha."))
        expected = {"step", *(f"{part}.{key}" for key in keys for part in ("alpha", "beta"))}
        odd = sorted(expected.symmetric_difference(state))
        if odd:
            raise ArtifactError(
                f"The state of Mesa has an alpha and a beta for each place, and step; {odd[0]!r} "
                "is missing or does not belong there; give what state_dict returned."
            )
        ranges = {
            key: (state[f"alpha.{key}"].clone(), state[f"beta.{key}"].clone()) for key in keys
        }
        for key, (alpha, beta) in ranges.items():
            if alpha.shape != beta.shape or alpha.ndim != 1:
                raise ArtifactError(
                    f"The ranges of {key!r} have shapes {tuple(alpha.shape)} and "
                    f"{tuple(beta.shape)}; both are (groups,); give what state_dict returned."
                )
        self.step, self._compressor.ranges = int(state["step"]), ranges


class _Forward:
    """A model's forward pass inside Mesa; carries the signature of the original."""

    def __init__(self, mesa: Mesa, forward: Callable[..., Any]) -> None:
        self.mesa, self.forward = mesa, forward
        self.__signature__ = inspect.signature(forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.mesa:
            return self.forward(*args, **kwargs)


def mesa_(model: nn.Module, settings: MesaSettings | None = None) -> Mesa:
    """Put every forward pass of a model in training mode into :class:`Mesa`, in place.

    The model keeps its class, parameters and state dict. Wrap it for several processes afterwards.

    Args:
        model: any module in eager mode; its outputs do not change.
        settings: see :class:`MesaSettings`.

    Returns:
        What reports the bytes, has the state, and undoes it with :meth:`Mesa.remove`.

    Raises:
        RecipeError: the settings do not fit the model, or it has Mesa already.
        TrainingError: the model was compiled.

    Example:
        >>> model = nn.TransformerEncoderLayer(64, 4, batch_first=True)
        >>> mesa = mesa_(model)
        >>> model(torch.randn(8, 16, 64)).mean().backward()
        >>> mesa.report().ratio > 3
        True
        >>> mesa.remove()
    """
    mesa = Mesa(model, settings)
    if "forward" in model.__dict__:
        raise RecipeError(
            "This model's forward pass is already replaced; remove what replaced it, then call "
            "mesa_."
        )
    model.forward = _Forward(mesa, model.forward)  # type: ignore[assignment]
    return mesa
