"""InfoBatch: epochs that skip a random part of what the network has learned already.

Samples whose last loss lies below the mean are trained on every other epoch or so, with a weight
that makes up for it; the last epochs take all. Nothing is sorted, no second pass is made, and the
learning rate stays as it is if its schedule goes by epochs.

Source: Qin et al., InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning, ICLR
    2024, arXiv 2303.04947. Deviations: a group of n samples of which k are kept gets the weight
    n / k instead of 1 / (1 - r), which is the same where (1 - r) n is an integer and keeps the
    expected sum of gradients exact where not; at least one sample of a group is kept. Against the
    official code: pruning ends as the paper says, in the first epoch t with t >= delta C, and all
    weights are 1 from there on; a ratio above 0.9 is taken as given; what is drawn follows from
    seed, epoch and scores alone, and the global random states are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from sartor.core.errors import TrainingError
from sartor.train.infobatch.draw import Draw, InfoBatchSettings, draw_epoch, grouped
from sartor.train.infobatch.scores import CHUNK, SampleScores

__all__ = ["LossPruningSampler"]


class LossPruningSampler(Sampler[int]):
    """Gives out the samples of an epoch and keeps the last loss of each sample.

    Call :meth:`set_epoch` before each epoch and hand the loss of each batch to :meth:`update`, once
    (:func:`~sartor.train.pruned_mean` does that). Several processes that see the same losses draw
    the same: either each of them goes through all indices and a launcher splits the batches
    (accelerate), or each gives ``rank`` and ``world_size`` and goes through its own stripe.

    Args:
        num_samples: N, at least 1.
        epochs: of the whole training, at least 2.
        settings: see :class:`InfoBatchSettings`.
        variants: the dataset holds sample ``i`` in variant ``v`` at ``i + N * v``; an epoch takes
            one variant, at random, and a sample has one score.
        rank: of this process, from 0.
        world_size: number of processes that have a stripe each.

    Raises:
        TrainingError: a number is out of its range.

    Example:
        >>> sampler = LossPruningSampler(16, epochs=8)
        >>> sampler.update(torch.arange(16), torch.arange(16) / 16)  # what the first epoch gave
        >>> sampler.set_epoch(1)
        >>> sampler.num_kept, sampler.weights(torch.tensor([0, 15])).tolist()
        (12, [2.0, 1.0])
    """

    def __init__(
        self,
        num_samples: int,
        *,
        epochs: int,
        settings: InfoBatchSettings | None = None,
        variants: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1 or epochs < 2 or variants < 1 or not 0 <= rank < world_size:
            raise TrainingError(
                "InfoBatch needs num_samples >= 1, variants >= 1, 0 <= rank < world_size and "
                "epochs >= 2, as the first epoch always takes all samples, got "
                f"num_samples={num_samples}, variants={variants}, rank={rank}, "
                f"world_size={world_size}, epochs={epochs}."
            )
        self.num_samples, self.epochs, self.variants = num_samples, epochs, variants
        self.settings = settings or InfoBatchSettings()
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.num_trained = 0
        self._scores = SampleScores(num_samples, variants)
        self._visits = self._skipped = 0
        self._begin(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw an epoch from the scores; the epoch in progress is left as it is and goes on.

        Args:
            epoch: from 0.

        Raises:
            TrainingError: the training has no such epoch.
        """
        if not 0 <= epoch < self.epochs:
            raise TrainingError(
                f"The training has epochs 0 to {self.epochs - 1}, got {epoch}; give the sampler "
                "the number of epochs that you train."
            )
        if epoch != self.epoch:
            self._begin(epoch)
        elif self.num_trained < self.num_kept:
            self._begun = False

    def __iter__(self) -> Iterator[int]:
        """The samples of this epoch that are still to come; of a stripe, filled up to the length
        of the longest stripe.
        """
        if self._begun:
            raise TrainingError(
                f"Epoch {self.epoch} was trained on already; call set_epoch before each pass."
            )
        left = self._draw.order[self.num_trained :]
        mine = left[self.rank :: self.world_size]
        return _integers(mine, left[: len(self) - len(mine)])

    def __len__(self) -> int:
        return math.ceil((self.num_kept - self.num_trained) / self.world_size)

    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Keep the losses of one batch, of all processes; call it once for each batch.

        Scores move to the device of the losses, where they stay. A loss that is not finite leaves
        the score as it was.

        Args:
            indices: as the sampler gave them, (B,), each once.
            losses: unweighted, (B,).

        Raises:
            TrainingError: the shapes differ, an index is out of range, or the epoch has not so
                many samples left.
        """
        if indices.ndim != 1 or indices.shape != losses.shape:
            raise TrainingError(
                "InfoBatch keeps one loss a sample: indices (B,) and losses (B,), got "
                f"{tuple(indices.shape)} and {tuple(losses.shape)}."
            )
        if self.num_trained + len(indices) > self.num_kept:
            raise TrainingError(
                f"Epoch {self.epoch} keeps {self.num_kept} samples, of which {self.num_trained} "
                f"are trained, and {len(indices)} more losses came; hand the losses of each batch "
                "over once, and call set_epoch before each epoch."
            )
        self._scores.write(indices, losses, self._ahead(indices))
        self.num_trained += len(indices)
        self._begun = True

    def weights(self, indices: Tensor) -> Tensor:
        """Loss weights of samples in this epoch: (B,) -> (B,), float64, on the same device."""
        place = self._ahead(indices)
        if place is not None:
            groups = self._groups[place]  # (B,)
        else:
            chosen = self._scores.samples(indices)
            self._move(chosen.device)
            groups = self._draw.groups.index_select(0, chosen)
        weights = self._draw.weights.to(groups.device)
        return weights.index_select(0, groups.int()).to(indices.device)

    @property
    def num_kept(self) -> int:
        """Samples of this epoch, over all processes."""
        return self._kept

    @property
    def saved_fraction(self) -> float:
        """Share of the samples of all epochs so far that was left out."""
        return self._skipped / self._visits

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]: what a learning-rate schedule goes by."""
        return (self.epoch + self.num_trained / self.num_kept) / self.epochs

    @property
    def scores(self) -> Tensor:
        """Last loss of each sample, (N,). Their mean is an honest training loss; that of the
        weighted losses of an epoch is not, as easy samples are missing in it.
        """
        return self._scores.read().clone()

    def state_dict(self) -> dict[str, Any]:
        """Flat, of tensors and numbers; in the midst of an epoch as well."""
        return {
            "num_samples": self.num_samples,
            "epochs": self.epochs,
            "epoch": self.epoch,
            "kept": self._kept,
            "trained": self.num_trained,
            "visits": self._visits,
            "skipped": self._skipped,
            "scores": self.scores,
            "to_come": self._draw.order[self.num_trained :].clone(),
            "groups": self._draw.groups.clone(),
            "weights": self._draw.weights.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch that was handed to :meth:`update`.

        Raises:
            TrainingError: the state is of other data or of another number of epochs.
        """
        found, wanted = (
            {name: value[name] for name in ("num_samples", "epochs")}
            for value in (state, vars(self))
        )
        if found != wanted:
            raise TrainingError(
                f"The sampler's state is of {found} and this sampler of {wanted}; go on with the "
                "same data and schedule, or start anew."
            )
        self.epoch, self.num_trained = int(state["epoch"]), int(state["trained"])
        self._kept, self._begun = int(state["kept"]), False
        self._visits, self._skipped = int(state["visits"]), int(state["skipped"])
        to_come = state["to_come"].cpu()
        done = torch.zeros(self.num_trained, dtype=to_come.dtype)
        self._draw = Draw(
            order=torch.cat([done, to_come]),
            groups=state["groups"].to("cpu", copy=True),
            weights=state["weights"].to("cpu", copy=True),
        )
        self._scores.replace(state["scores"])
        self._lay_out()

    def _begin(self, epoch: int) -> None:
        self.epoch, self.num_trained, self._begun = epoch, 0, False
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        self._forget()
        if self.settings.prunes(epoch, self.epochs):
            groups = grouped(self._scores.read(), self.settings).cpu()
            shares = self.settings.shares
        else:
            groups, shares = torch.zeros(self.num_samples, dtype=torch.uint8), (1.0,)
        self._draw = draw_epoch(groups, shares, generator)
        self._kept = len(self._draw.order)
        if self.variants > 1:
            variant = torch.randint(self.variants, (self._kept,), generator=generator)
            order = self._draw.order + self.num_samples * variant
            self._draw = replace(self._draw, order=order)
        self._lay_out()
        self._visits += self.num_samples
        self._skipped += self.num_samples - self._kept

    def _forget(self) -> None:
        """A draw takes the memory of the one before."""
        self._scores.read()
        nothing = torch.empty(0, dtype=torch.int32)
        self._scores.begin(nothing)
        self._draw, self._groups = Draw(order=nothing, groups=nothing, weights=nothing), nothing

    def _lay_out(self) -> None:
        """Groups of the samples in the order of the epoch, as going along costs a fifth of reading
        here and there.
        """
        order = self._draw.order % self.num_samples if self.variants > 1 else self._draw.order
        self._groups = self._draw.groups.index_select(0, order)  # (K,)
        self._scores.begin(self._draw.order)

    def _ahead(self, indices: Tensor) -> slice | None:
        """Where these samples lie in the epoch, if they are the next ones of it."""
        if indices.device.type != "cpu":
            return None
        place = slice(self.num_trained, self.num_trained + len(indices))
        expected = self._draw.order[place]
        return place if torch.equal(expected, indices.to(expected.dtype)) else None

    def _move(self, device: torch.device) -> None:
        """The table of groups goes where the scores lie."""
        if self._draw.groups.device != device:
            groups, weights = self._draw.groups.to(device), self._draw.weights.to(device)
            self._draw = replace(self._draw, groups=groups, weights=weights)


def _integers(*orders: Tensor) -> Iterator[int]:
    for order in orders:
        for part in order.split(CHUNK):
            yield from part.tolist()
