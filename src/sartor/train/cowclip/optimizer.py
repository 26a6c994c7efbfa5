"""CowClip around any optimiser: counts, penalty and clip between the backward pass and the step.

Source: Zheng et al., AAAI 2023, arXiv 2204.06240, see :mod:`sartor.train.cowclip.clip`.

Deviations: the published code writes the penalty into the loss; here its gradient is added before
the clip, which is the same sum without a pass over every table in autograd. Tables that no input of
a batch used get the penalty too, as they do there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from sartor.core.errors import RecipeError, TrainingError
from sartor.train.cowclip.clip import check_clip, clip_rows_, norm_bound
from sartor.train.cowclip.counts import IdCounts
from sartor.train.cowclip.scaling import ScaledRates

__all__ = ["CowClip", "cowclip_adam"]

Embeddings = nn.Module | Iterable[nn.Module]


class CowClip(Optimizer):
    """An optimiser that clips embedding tables by the ids of the batch before each step.

    It shares groups, state and state dict with the optimiser that it wraps, so that schedules,
    gradient scalers (which unscale before the clip) and checkpoints of either serve both. Clear
    gradients with its ``zero_grad``, as the counts go with them; several backward passes before a
    step add up. Under DistributedDataParallel counts are summed over the processes, and every one
    of them must step.

    Args:
        optimizer: steps every table; its groups with tables have no weight decay of their own.
        embeddings: a model, of which every ``nn.Embedding`` and ``nn.EmbeddingBag`` is taken, or
            these modules; the model must call them, as ``F.embedding`` on their weight is not seen.
            Tables of width 1 are penalised and not clipped.
        r: ratio of gradient to weight, above 0.
        zeta: bound of one entry, at least 0: rows count with a norm of at least
            ``norm_bound(width, r=r, zeta=zeta)``.
        l2: penalty ``l2 * sum(w^2)`` on all rows of all tables, present or not, except padding
            rows; from 0 to r / 2, above which the rule would clip the penalty itself. The penalty
            makes sparse gradients dense, as it moves every row.
        group: of the processes whose batches make one step; ``None`` for all of them.

    Attributes:
        optimizer: the wrapped one.

    Raises:
        RecipeError: a number is out of range, a table cannot be clipped (``max_norm``,
            ``scale_grad_by_freq``, not in the optimiser), or it would be penalised twice or by
            half.

    Example:
        >>> table = nn.Embedding(1000, 8)
        >>> optimizer = CowClip(torch.optim.Adam(table.parameters()), table, l2=1e-5)
        >>> table(torch.tensor([3, 3, 7])).mean().backward()
        >>> optimizer.step()
        >>> optimizer.clipped_share
        0.0
        >>> optimizer.zero_grad()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        embeddings: Embeddings,
        *,
        r: float = 1.0,
        zeta: float = 1e-5,
        l2: float = 0.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        check_clip(r, zeta)
        if not 0 <= 2 * l2 <= r:
            raise RecipeError(f"The penalty l2 must lie in 0..r / 2 = {r / 2:g}, got {l2:g}.")
        tables = _tables(embeddings)
        _check_tables(tables, optimizer, l2)
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self.r, self.zeta, self.l2, self.group = r, zeta, l2, group
        self._weights = list({id(m.weight): m.weight for m in tables}.values())
        self._counts = IdCounts(m for m in tables if m.weight.shape[1] > 1)
        self._padding = {id(m.weight): m.padding_idx for m in tables if m.padding_idx is not None}
        self._clipped = self._seen = torch.zeros((), dtype=torch.int64)
        self._share()
        reference = weakref.ref(self)
        optimizer.register_load_state_dict_post_hook(lambda _: _shared_again(reference))

    def __repr__(self) -> str:
        return f"CowClip(r={self.r:g}, zeta={self.zeta:g}, l2={self.l2:g}) of {self.optimizer!r}"

    @property
    def clipped_share(self) -> float:
        """Share of the rows, of those in batches, that were shortened since the beginning; 0
        before the first step. Reading it waits for the device.
        """
        return int(self._clipped) / max(int(self._seen), 1)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Penalise, clip, step.

        Args:
            closure: computes the loss and its gradients again, if given.

        Returns:
            What ``closure`` returned, if given.

        Raises:
            TrainingError: there are gradients, and no embedding was called for them.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._prepare()
        self.optimizer.step()
        self._counts.clear()
        return loss

    def _prepare(self) -> None:
        """Penalise and clip the gradients that the tables hold."""
        counted = self._counts.take(self.group)
        if not any(len(ids) for ids, _ in counted) and any(
            weight.grad is not None for weight in self._counts.weights
        ):
            raise TrainingError(
                "The tables hold gradients and none of the embeddings was called since the last "
                "step; call the modules that CowClip was given, and step once for each gradient."
            )
        for weight in self._weights:
            if weight.requires_grad:
                self._penalise(weight)
        for weight, (ids, counts) in zip(self._counts.weights, counted, strict=True):
            if weight.grad is not None:
                self._clip_table(weight, weight.grad, ids, counts)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients, and the counts that belong to them."""
        self._counts.clear()
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimiser's."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave, or the wrapped optimiser."""
        self.optimizer.load_state_dict(state_dict)

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def _penalise(self, weight: Tensor) -> None:
        """Add the gradient of the penalty, 2 * l2 * w, to every row but the padding."""
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
        if not self.l2:
            return
        if weight.grad is None or weight.grad.is_sparse:
            dense = weight.detach() * (2 * self.l2)  # (V, D)
            weight.grad = dense if weight.grad is None else dense.add_(weight.grad)
        else:
            weight.grad.add_(weight, alpha=2 * self.l2)
        if (row := self._padding.get(id(weight))) is not None:
            weight.grad[row].sub_(weight[row], alpha=2 * self.l2)

    def _clip_table(self, weight: Tensor, grad: Tensor, ids: Tensor, counts: Tensor) -> None:
        bound = norm_bound(weight.shape[1], r=self.r, zeta=self.zeta)
        factors = clip_rows_(weight, grad, ids, counts, r=self.r, bound=bound)
        self._clipped = self._clipped.to(factors.device) + (factors < 1).sum()
        self._seen = self._seen.to(factors.device) + len(factors)


def cowclip_adam(
    model: nn.Module, rates: ScaledRates, *, r: float = 1.0, zeta: float = 1e-5
) -> CowClip:
    """Make the published optimiser: Adam with a rate for the tables, the first group, and a rate
    for all else, the second, within CowClip.

    Args:
        model: its embeddings are the tables.
        rates: from :func:`~sartor.train.cowclip.scaling.cowclip_scaling`; warming the second
            group's rate up is left to the loop.
        r: as in :class:`CowClip`.
        zeta: as in :class:`CowClip`.

    Raises:
        RecipeError: as :class:`CowClip`.

    Example:
        >>> model = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 1))
        >>> rates = ScaledRates(lr_dense=1e-3, lr_embedding=1e-4, l2=1e-5)
        >>> [group["lr"] for group in cowclip_adam(model, rates).param_groups]
        [0.0001, 0.001]
    """
    tables = {id(table.weight) for table in _tables(model)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in tables], "lr": rates.lr_embedding},
        {"params": [p for p in trained if id(p) not in tables], "lr": rates.lr_dense},
    ]
    adam = torch.optim.Adam([group for group in groups if group["params"]])
    return CowClip(adam, model, r=r, zeta=zeta, l2=rates.l2)


def _shared_again(reference: Callable[[], CowClip | None]) -> None:
    wrapper = reference()
    if wrapper is not None:
        wrapper._share()


def _tables(embeddings: Embeddings) -> list[Any]:
    modules = embeddings.modules() if isinstance(embeddings, nn.Module) else embeddings
    given = list(modules)
    found = [m for m in given if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    if not found or (len(found) < len(given) and not isinstance(embeddings, nn.Module)):
        raise RecipeError(
            "CowClip takes a model with embeddings, or nn.Embedding and nn.EmbeddingBag modules; "
            f"got {', '.join(sorted({type(m).__name__ for m in given})) or 'none'}."
        )
    return found


def _check_tables(tables: list[Any], optimizer: Optimizer, l2: float) -> None:
    decays = {
        id(p): group.get("weight_decay", 0)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for table in tables:
        if table.max_norm is not None or table.scale_grad_by_freq:
            raise RecipeError(
                f"{table} changes its rows or gradients by a rule of its own; make it without "
                "max_norm and scale_grad_by_freq."
            )
        if not table.weight.requires_grad:
            continue
        if id(table.weight) not in decays:
            raise RecipeError(f"{table} is not trained by the optimiser; add it or freeze it.")
        if decays[id(table.weight)]:
            raise RecipeError(
                f"The group of {table} has weight_decay {decays[id(table.weight)]:g}, which comes "
                "after the clip; set it to 0 and give CowClip l2."
            )
    if l2 and isinstance(optimizer, torch.optim.SparseAdam):
        raise RecipeError(
            "SparseAdam moves rows of the batch alone, and the penalty moves all of them; wrap "
            "Adam, or clip alone with l2=0."
        )
