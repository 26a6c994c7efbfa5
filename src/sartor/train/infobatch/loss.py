"""The loss of InfoBatch: the weighted mean over the joined batch, and what the sampler is told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.train.infobatch.sampler import LossPruningSampler

__all__ = ["PruningLoss", "pruned_mean"]


def pruned_mean(
    sampler: LossPruningSampler,
    losses: Tensor,
    indices: Tensor,
    *,
    scores: Tensor | None = None,
) -> Tensor:
    """Mean of the weighted losses of a batch; the sampler keeps the unweighted ones as scores.

    With several processes each calls it for its part of the batch. The parts must have equal
    lengths; what fills them up at the end of an epoch counts for nothing. The mean over processes
    of what is returned, and so of the gradients, is that of one process with the joined batch.

    Args:
        sampler: that the batch comes from.
        losses: of each sample, (B,), unweighted.
        indices: as they came with the batch, (B,).
        scores: what to keep instead of the losses, (B,), such as the part of a mixed-label loss
            that belongs to the sample's own label.

    Returns:
        A scalar with the gradient of the losses.

    Raises:
        TrainingError: the losses are not one for each sample.

    Example:
        >>> sampler = LossPruningSampler(4, epochs=2)
        >>> pruned_mean(sampler, torch.tensor([1.0, 3.0]), torch.tensor([2, 0]))
        tensor(2.)
        >>> sampler.scores
        tensor([3., 1., 1., 1.])
    """
    kept = losses if scores is None else scores
    for given in (losses, kept):
        if given.ndim != 1 or given.shape != indices.shape:
            raise TrainingError(
                f"InfoBatch needs per-sample losses of shape (batch,), here ({len(indices)},), got "
                f"{tuple(given.shape)}; compute the loss with reduction='none' and take the mean "
                "of what belongs to one sample, such as its tokens."
            )
    indices = indices.to(losses.device)
    weighted = sampler.weights(indices).to(losses.dtype) * losses  # (B,)
    world = _world_size(sampler)
    if world == 1:
        sampler.update(indices, kept)
        return weighted.mean()
    joined, values, places = _joined(indices, kept.detach(), world, sampler.world_size > 1)
    left = sampler.num_kept - sampler.num_trained
    count = min(len(joined), left) if left else len(joined)  # too many are refused
    sampler.update(joined[:count], values[:count])
    return (weighted * (places < count)).sum() * (world / count)


class PruningLoss:
    """A loss for :func:`~sartor.train.train` over a loader of :func:`~sartor.train.prune_data`.

    Args:
        sampler: of that loader.
        losses: (model, inputs, targets, ...) -> unweighted loss of each sample, (B,).

    Example:
        >>> import torch.nn.functional as F
        >>> def losses(model, inputs, targets):
        ...     return F.cross_entropy(model(inputs), targets, reduction="none")
        >>> loss = PruningLoss(LossPruningSampler(2, epochs=2), losses)
        >>> model, inputs, targets = torch.nn.Linear(1, 2), torch.zeros(2, 1), torch.tensor([0, 1])
        >>> value = loss(model, inputs, targets, torch.arange(2))
    """

    def __init__(self, sampler: LossPruningSampler, losses: Callable[..., Tensor]) -> None:
        self.sampler, self.losses = sampler, losses

    def __call__(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Scalar loss of a batch whose last tensor is the indices."""
        *parts, indices = batch
        return pruned_mean(self.sampler, self.losses(model, *parts), indices)


def _world_size(sampler: LossPruningSampler) -> int:
    distributed = torch.distributed
    started = distributed.is_available() and distributed.is_initialized()
    world = distributed.get_world_size() if started else 1
    if sampler.world_size not in (1, world):
        raise TrainingError(
            f"The sampler has stripes for {sampler.world_size} processes, and {world} train; give "
            "it the world size of the process group."
        )
    return world


def _joined(
    indices: Tensor, values: Tensor, world: int, striped: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices and values of all processes in the order of one process, (W * B,) each, and where
    this process's own stand in it, (B,).
    """
    # both in one message; double precision holds either exactly
    mine = torch.stack([indices.double(), values.double()], dim=1)  # (B, 2)
    parts = [torch.empty_like(mine) for _ in range(world)]
    torch.distributed.all_gather(parts, mine)
    dim = 1 if striped else 0
    joined = torch.stack(parts, dim=dim).reshape(-1, 2)  # (W * B, 2)
    places = torch.arange(len(joined), device=indices.device)
    shape = (len(mine), world) if striped else (world, len(mine))
    own = places.view(shape).select(dim, torch.distributed.get_rank())  # (B,)
    return joined[:, 0].long(), joined[:, 1].to(values.dtype), own
