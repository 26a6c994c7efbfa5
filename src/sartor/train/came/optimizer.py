"""CAME: an optimiser like Adam with about half of its state.

Each matrix keeps its momentum whole and, instead of squared gradients, their means over rows and
columns. A second pair of such means tells how far updates lie from their momentum, and steps are
shorter where that is far.

Source: Yang Luo et al., "CAME: Confidence-guided Adaptive Memory Efficient Optimization", ACL 2023,
arXiv 2307.02047; the maths is in :mod:`sartor.train.came.update`. Deviations from the released
code: kernels of convolutions are factored as matrices (``factor_conv``), a correction of the first
steps can be chosen (``warmup_safe``), illegal settings raise instead of failing an assertion.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.core.errors import TrainingError
from sartor.train.came.batch import Batch, take_each, take_lists
from sartor.train.came.checks import check_group, check_param
from sartor.train.came.foreach import came_matrices_, came_vectors_
from sartor.train.came.fused import FusedMatrices
from sartor.train.came.state import (
    MATRIX_STATE,
    VECTOR_STATE,
    empty_state,
    saved_states,
)
from sartor.train.came.update import CAMESettings, came_matrix_, came_vector_, factored_shape

__all__ = ["CAME"]

#: a rate that has not risen by this step is taken for one without warm-up
_WARMUP_BY = 10


class CAME(torch.optim.Optimizer):
    """Adam-like optimiser whose second moments are kept as rows and columns.

    Warm the rate up over the first steps: the averages start at zero and are not corrected, so that
    early steps with matrices are up to 1 / sqrt(1 - betas[2]^t) times too long. Its best rate was
    a tenth of AdamW's in small trainings here; the authors recommend 0.5 to 0.9 of it for large
    language models.

    Args:
        params: parameters or parameter groups; dense, real, and whole (not sharded).
        lr: above 0; there is no default that works everywhere.
        betas: decay of the momentum, of the squared gradients and of the instability, each in
            [0, 1); the authors take the first two from AdamW and the third larger than the second.
        eps: added to the squared gradients and to the instability; above 0.
        clip_threshold: largest root mean square of an update before momentum; above 0.
        weight_decay: decoupled, as AdamW's; at least 0.
        warmup_safe: shorten early steps with matrices by sqrt(1 - betas[2]^t), which corrects the
            averages of the instability for their start at zero.
        factor_conv: treat kernels of convolutions as matrices (outputs, everything else); False is
            the released code's way, which takes more memory than AdamW for small kernels.
        maximize: ascend.
        foreach: work on lists of tensors; default unless ``fused``.
        fused: compile the update of every shape of matrix at its first step, which takes seconds
            for each.

    Raises:
        RecipeError: a setting is illegal, or a parameter is complex or sharded.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = CAME(model.parameters(), lr=1e-3)
        >>> model(torch.ones(4, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        *,
        warmup_safe: bool = False,
        factor_conv: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool = False,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "clip_threshold": clip_threshold}
        switches = {"warmup_safe": warmup_safe, "factor_conv": factor_conv, "maximize": maximize}
        paths = {"foreach": foreach, "fused": fused}
        defaults = {"lr": lr, **settings, "weight_decay": weight_decay, **switches, **paths}
        check_group(defaults)
        super().__init__(params, defaults)
        self._prepare()

    def _prepare(self) -> None:
        """What no state dict holds: compiled code, and the rates of the first steps."""
        self._fused = FusedMatrices()
        self._rates: list[float] | None = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose settings come before those of the optimiser.

        Raises:
            RecipeError: a setting is illegal, or a parameter is complex or sharded.
        """
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
            for param in self.param_groups[-1]["params"]:
                check_param(param)
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back a state that :meth:`state_dict` gave, or the released code's if ``factor_conv``
        is off.

        Raises:
            ArtifactError: it belongs to other parameters, another factoring or another optimiser.
        """
        states = list(saved_states(self.param_groups, state_dict))
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, settings, strict=True):
            group.update({key: own[key] for key in own.keys() - group.keys()})
        for param, kept in states:  # the base class rounds what belongs to half precision
            self.state[param] = kept
        self._rates = None  # whether there was a warm-up cannot be known

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: computes the loss and its gradients anew.

        Returns:
            What the closure returned, or ``None``.

        Raises:
            TrainingError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        self._look_for_warmup()
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        matrices, vectors = Batch(), Batch()
        copies: list[tuple[Tensor, Tensor]] = []
        factor_conv, maximize = group["factor_conv"], group["maximize"]
        for param in group["params"]:
            if param.grad is None or not param.numel():
                continue
            state = self.state[param]
            if not state:
                state.update(step=0, **empty_state(param, factor_conv=factor_conv))
            state["step"] += 1
            weights = param
            if not param.is_contiguous():  # such as kernels in channels_last
                weights = param.contiguous()
                copies.append((param, weights))
            gradient = _gradient(param, maximize=maximize)
            if param.ndim < 2:
                averages = [state[name] for name in VECTOR_STATE]
                vectors.add((weights, gradient, *averages), group["lr"])
                continue
            tensors = (weights, gradient, *[state[name] for name in MATRIX_STATE])
            if factor_conv and param.ndim > 3:
                tensors = _viewed(tensors, factored_shape(param.shape))
            matrices.add(tensors, _rate(group, state["step"]))
        self._update(group, matrices, vectors)
        for param, weights in copies:
            param.copy_(weights)

    def _update(self, group: dict[str, Any], matrices: Batch, vectors: Batch) -> None:
        shared: dict[str, Any] = {
            "decay": 1 - group["lr"] * group["weight_decay"],
            "settings": CAMESettings(
                tuple(group["betas"]), tuple(group["eps"]), group["clip_threshold"]
            ),
        }
        if group["foreach"] is False and not group["fused"]:
            take_each(came_matrix_, matrices, **shared)
            take_each(came_vector_, vectors, **shared)
            return
        if group["fused"]:
            take_each(self._fused, matrices, **shared)
        else:
            take_lists(came_matrices_, matrices, **shared)
        take_lists(came_vectors_, vectors, **shared)

    def _look_for_warmup(self) -> None:
        if self._rates is None:
            return
        group = self.param_groups[0]
        self._rates.append(group["lr"])
        if len(self._rates) < _WARMUP_BY:
            return
        if not group["warmup_safe"] and max(self._rates) == self._rates[0]:
            warnings.warn(
                f"CAME took {_WARMUP_BY} steps at a rate that did not rise, and its first steps "
                "are up to 100 times too long; let the rate rise over the first tenth of the "
                "training, or give warmup_safe=True.",
                stacklevel=5,
            )
        self._rates = None


def _gradient(param: Tensor, *, maximize: bool) -> Tensor:
    """The gradient in the state's precision."""
    gradient = param.grad
    assert gradient is not None
    if gradient.layout != torch.strided:
        raise TrainingError(
            "CAME takes dense gradients, got a sparse one; give embeddings sparse=False, or an "
            "optimiser of their own such as torch.optim.SparseAdam."
        )
    if gradient.dtype.itemsize < 4:
        gradient = gradient.float()
    return gradient.neg() if maximize else gradient


def _viewed(tensors: tuple[Tensor, ...], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Weights, gradient and momentum as matrices of this shape; the other averages as they are."""
    return (*(t.reshape(shape) for t in tensors[:3]), *tensors[3:])


def _rate(group: Mapping[str, Any], step: int) -> float:
    """Length of a step with a matrix; dividing the averages of the instability by 1 - beta3^t
    shortens it.
    """
    lr: float = group["lr"]
    if group["warmup_safe"]:
        return lr * math.sqrt(1 - group["betas"][2] ** step)
    return lr
