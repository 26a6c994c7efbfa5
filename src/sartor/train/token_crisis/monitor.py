"""The diagnostic of repetition: from which step on it hurts a run, and from which size of data on.

Validation loss of a run that repeats its data falls, turns and rises, while the training loss falls
all the way. What is watched here is how far it rose, D = last - lowest validation loss, and how far
training runs ahead, G = last validation loss - mean training loss of the last steps; both in nats
for a cross entropy.

Source: Xue et al., To Repeat or Not To Repeat, NeurIPS 2023, arXiv 2305.13230. D and G are defined
    here; the paper reads them off its curves.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.core.errors import DataError, RecipeError, TrainingError

__all__ = ["OverfitMonitor", "OverfitReport", "RepetitionRow", "repetition_sweep"]


@dataclass(frozen=True, kw_only=True)
class OverfitReport:
    """How far a run overfitted.

    Attributes:
        best_step: where validation loss was lowest, the first if there are several.
        best_loss: validation loss there.
        last_loss: the last one.
        degradation: D, last minus lowest validation loss, at least 0.
        gap: G, last validation loss minus mean training loss of the last steps; NaN if no training
            loss was given.
    """

    best_step: int
    best_loss: float
    last_loss: float
    degradation: float
    gap: float

    def useful_epochs(self, tokens_per_step: int, unique_tokens: int) -> float:
        """Passes over the data after which repetition hurt: those done at the best step.

        Example:
            >>> report = OverfitReport(
            ...     best_step=100, best_loss=2.0, last_loss=2.5, degradation=0.5, gap=1.0
            ... )
            >>> report.useful_epochs(1024, 12_800)
            8.0
        """
        return self.best_step * tokens_per_step / unique_tokens


class OverfitMonitor:
    """Follows validation and training loss, and says when to stop.

    Args:
        patience: validations in a row that are not better than the best by ``min_delta``, after
            which ``update`` asks to stop; at least 1.
        min_delta: what counts as better, at least 0.
        window: training losses that G averages, at least 1.

    Raises:
        RecipeError: a setting is out of range.

    Example:
        >>> monitor = OverfitMonitor(patience=2)
        >>> [monitor.update(step, loss) for step, loss in enumerate([3.0, 2.0, 2.1, 2.25])]
        [False, False, False, True]
        >>> monitor.report().best_step, monitor.report().degradation
        (1, 0.25)
    """

    def __init__(self, patience: int = 3, min_delta: float = 0.0, *, window: int = 20) -> None:
        if patience < 1 or window < 1 or not min_delta >= 0:
            raise RecipeError(
                "An OverfitMonitor takes patience >= 1, min_delta >= 0 and window >= 1, got "
                f"{patience}, {min_delta} and {window}."
            )
        self.patience, self.min_delta, self.window = patience, min_delta, window
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._train: deque[float] = deque(maxlen=window)

    def observe(self, train_loss: float) -> None:
        """Take the training loss of a step."""
        self._train.append(float(train_loss))

    def update(self, step: int, validation_loss: float) -> bool:
        """Take a validation loss; return whether to stop.

        Raises:
            TrainingError: the loss is not finite, or the step is not after the last one.
        """
        value = float(validation_loss)
        if not math.isfinite(value) or (self._steps and step <= self._steps[-1]):
            raise TrainingError(
                f"Validation at step {step} gave {value}; give finite losses at rising steps."
            )
        self._steps.append(step)
        self._losses.append(value)
        return self._stale() >= self.patience

    def _stale(self) -> int:
        """Validations since the last that was better than all before it by ``min_delta``."""
        best, stale = math.inf, 0
        for loss in self._losses:
            better = loss < best - self.min_delta
            best, stale = (loss, 0) if better else (best, stale + 1)
        return stale

    def report(self) -> OverfitReport:
        """D, G and the best step so far.

        Raises:
            TrainingError: there was no validation.
        """
        if not self._losses:
            raise TrainingError("There is nothing to report; call update(step, validation_loss).")
        best, last = min(self._losses), self._losses[-1]
        return OverfitReport(
            best_step=self._steps[self._losses.index(best)],
            best_loss=best,
            last_loss=last,
            degradation=last - best,
            gap=last - statistics.fmean(self._train) if self._train else math.nan,
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {
            "steps": list(self._steps),
            "losses": list(self._losses),
            "train": list(self._train),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._steps, self._losses = list(state["steps"]), list(state["losses"])
        self._train = deque(state["train"], maxlen=self.window)


@dataclass(frozen=True, kw_only=True)
class RepetitionRow:
    """One size of data in a :func:`repetition_sweep`; losses are means over seeds.

    Attributes:
        fraction: share of the data.
        count: items of it.
        last_loss: last validation loss.
        degradation: D.
        gap: G.
        cost: last validation loss minus that of the largest fraction.
        hurts: whether D or the cost is above the tolerance.
    """

    fraction: float
    count: int
    last_loss: float
    degradation: float
    gap: float
    cost: float
    hurts: bool


def repetition_sweep(
    train_fn: Callable[[Any, int], OverfitReport],
    data: Sequence[Any],
    *,
    fractions: Iterable[float] = (1.0, 0.25, 0.05),
    seeds: Iterable[int] = (0,),
    tolerance: float = 0.05,
) -> tuple[RepetitionRow, ...]:
    """Train on nested subsets, to see where data begin to be too few before the big run is paid.

    Args:
        train_fn: (subset, seed) -> report of a fresh model; it must take equally many steps on
            equal batches for each subset, and validate on the same held-out data.
        data: anything that can be sliced: a tensor (N, ...), a list; each subset is its beginning.
        fractions: shares in (0, 1], each once.
        seeds: at least one.
        tolerance: rise of the validation loss that counts as hurting; set it above its noise.

    Returns:
        A row for each fraction, largest first.

    Raises:
        RecipeError: fractions or seeds are missing, repeated or out of range.
        DataError: a fraction leaves nothing.

    Example:
        >>> def train_fn(subset, seed):
        ...     monitor = OverfitMonitor()
        ...     monitor.update(1, 2.0)
        ...     monitor.update(2, 2.0 + 1 / len(subset))
        ...     return monitor.report()
        >>> [row.hurts for row in repetition_sweep(train_fn, range(100), fractions=(1, 0.1))]
        [False, True]
    """
    shares = sorted(set(given := [float(f) for f in fractions]), reverse=True)
    drawn = list(seeds)
    if not shares or len(shares) < len(given) or not 0 < shares[-1] <= shares[0] <= 1 or not drawn:
        raise RecipeError(
            "A repetition sweep takes different fractions in (0, 1] and at least one seed, got "
            f"{given} and {drawn}."
        )
    if round(shares[-1] * len(data)) < 1:
        raise DataError(
            f"A share of {shares[-1]:g} of {len(data)} items is none; take larger fractions."
        )
    rows: list[RepetitionRow] = []
    for share in shares:
        count = round(share * len(data))
        reports = [train_fn(data[:count], seed) for seed in drawn]
        last, degradation, gap = (
            statistics.fmean(getattr(report, name) for report in reports)
            for name in ("last_loss", "degradation", "gap")
        )
        cost = last - rows[0].last_loss if rows else 0.0
        rows.append(
            RepetitionRow(
                fraction=share,
                count=count,
                last_loss=last,
                degradation=degradation,
                gap=gap,
                cost=cost,
                hurts=max(degradation, cost) > tolerance,
            )
        )
    return tuple(rows)
