"""The last loss of each sample, written as fast as memory allows."""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["CHUNK", "SampleScores"]

#: samples that are handled at once where a copy is made
CHUNK = 2**16


class SampleScores:
    """One number for each sample; all are 1 at first.

    On the CPU, losses that come in the order of the epoch are kept in that order and put in place
    all at once: single writes here and there cost five times as much. On a GPU each batch is
    written as it comes, without waiting for it.

    Args:
        count: number of samples, N.
        variants: indices ``i + N * v`` are sample ``i``.
    """

    def __init__(self, count: int, variants: int) -> None:
        self.count, self.variants = count, variants
        self._values = torch.ones(count)
        self.begin(torch.empty(0, dtype=torch.int32))

    @property
    def device(self) -> torch.device:
        """Where the scores lie: where the last losses lay."""
        return self._values.device

    def begin(self, order: Tensor) -> None:
        """Make room for the losses of an epoch; those of the one before must be settled.

        Args:
            order: indices in the order in which their losses will come, (K,), on the CPU.
        """
        self._order, self._recent = order, torch.full((len(order),), torch.nan)

    def write(self, indices: Tensor, losses: Tensor, place: slice | None) -> None:
        """Keep losses (B,); one that is not finite leaves the score as it was.

        Args:
            indices: whose losses these are, (B,).
            losses: unweighted, (B,).
            place: where these indices stand in the order of the epoch, if they do.
        """
        losses = losses.detach().to(self._values.dtype)
        if place is not None and losses.device.type == "cpu":
            self._recent[place] = losses
        else:
            self._put(indices, losses)

    def read(self) -> Tensor:
        """All scores, (N,), not a copy."""
        order, recent = self._order, self._recent
        for indices, losses in zip(order.split(CHUNK), recent.split(CHUNK), strict=True):
            finite = losses.isfinite()  # neither what is to come nor what is in place already
            if not bool(finite.all()):
                indices, losses = indices[finite], losses[finite]
            if len(losses):
                self._values = self._values.to(losses.device)
                self._values.index_copy_(0, self.samples(indices).long(), losses)
        recent.fill_(torch.nan)
        return self._values

    def replace(self, values: Tensor) -> None:
        """Take other scores (N,), and forget what came of this epoch."""
        self._values = values.to(self.device, copy=True)
        self._recent.fill_(torch.nan)

    def samples(self, indices: Tensor) -> Tensor:
        """Numbers of samples for indices, on the device of the scores.

        Raises:
            TrainingError: an index is out of range; those on a GPU are not read here.
        """
        limit = self.count * self.variants
        if indices.device.type == "cpu" and len(indices):
            low, high = (int(end) for end in indices.aminmax())
            if low < 0 or high >= limit:
                raise TrainingError(
                    f"The sampler gives indices 0 to {limit - 1}, got {low if low < 0 else high}; "
                    "hand over those that came with the batch."
                )
        chosen = indices.to(self.device)
        return chosen % self.count if self.variants > 1 else chosen

    def _put(self, indices: Tensor, losses: Tensor) -> None:
        self._values = self._values.to(losses.device)
        chosen = self.samples(indices)
        finite = losses - losses == 0  # inf - inf and nan - nan are not
        kept = torch.where(finite, losses, self._values.index_select(0, chosen))
        self._values.index_copy_(0, chosen, kept)
