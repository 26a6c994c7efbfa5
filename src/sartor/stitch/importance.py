"""Importance of configurations, gathered while they train: what one-stage deployment chooses by.

Source: He, Pan, Liu, Cai, Zhuang, Efficient Stitchable Task Adaptation, CVPR 2024, arXiv
2311.17352; the score is the connection sensitivity of Lee, Ajanthan, Torr, SNIP, 2019, arXiv
1810.02340. The paper gives the idea and no formula; decided here: the score is a sum and not a
mean; scores of the warm-up, when updates and biases are still zero, do not count; scores are
compared within an interval of FLOPs only, as they grow with the length of a route.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import RecipeError, TrainingError

__all__ = ["StitchImportance", "connection_sensitivity", "flops_intervals"]


def connection_sensitivity(parameters: Iterable[Tensor], *, grad_scale: float = 1.0) -> float:
    """Sum of ``|w * dL/dw|`` over the parameters that have a gradient.

    Args:
        parameters: after backward, before clipping and before the optimiser's step.
        grad_scale: factor that the gradients carry, such as that of an fp16 gradient scaler.

    Raises:
        TrainingError: the sum is not finite, or no parameter has a gradient.

    Example:
        >>> weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
        >>> inputs = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
        >>> targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> ((inputs @ weight.T - targets) ** 2).mean().backward()
        >>> connection_sensitivity([weight])
        25.875
    """
    parts = [(p.detach() * p.grad).abs().sum() for p in parameters if p.grad is not None]
    if not parts:
        raise TrainingError(
            "No parameter has a gradient; score a configuration after backward and before the "
            "gradients are set to None."
        )
    score = float(torch.stack([part.float() for part in parts]).sum()) / grad_scale
    if not math.isfinite(score):
        raise TrainingError(
            f"The importance of the configuration is {score}; lower the learning rate, or look "
            "for bad inputs."
        )
    return score


def flops_intervals(flops: Sequence[int], num_intervals: int) -> list[list[int]]:
    """Configurations by equally wide intervals of FLOPs, cheapest first; empty intervals are left
    out.

    Args:
        flops: of each configuration.
        num_intervals: at least 1.

    Raises:
        RecipeError: there would be no interval.

    Example:
        >>> flops_intervals([10, 40, 19, 20], 3)
        [[0, 2], [3], [1]]
    """
    if num_intervals < 1:
        raise RecipeError(f"There must be at least 1 interval of FLOPs, got {num_intervals}.")
    low, span = min(flops), max(flops) - min(flops)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, cost in enumerate(flops):
        interval = (cost - low) * num_intervals // max(span, 1)
        groups[min(interval, num_intervals - 1)].append(index)
    return [groups[interval] for interval in sorted(groups)]


class StitchImportance(nn.Module):
    """Moving average of each configuration's score; its buffers are saved with the network.

    Args:
        num_stitches: number S of configurations.
        momentum: weight of the past, in [0, 1).
        warmup_visits: how often each configuration must have been seen before scores count, at
            least 0.
    """

    average: Tensor
    seen: Tensor
    scored: Tensor

    def __init__(self, num_stitches: int, momentum: float = 0.9, *, warmup_visits: int = 2) -> None:
        super().__init__()
        if num_stitches < 1 or not 0 <= momentum < 1 or warmup_visits < 0:
            raise RecipeError(
                "Importance takes num_stitches >= 1, momentum in [0, 1) and warmup_visits >= 0, "
                f"got {num_stitches}, {momentum} and {warmup_visits}."
            )
        self.momentum, self.warmup_visits = momentum, warmup_visits
        self.register_buffer("average", torch.zeros(num_stitches))
        self.register_buffer("seen", torch.zeros(num_stitches, dtype=torch.int64))
        self.register_buffer("scored", torch.zeros(num_stitches, dtype=torch.bool))

    @property
    def warm(self) -> bool:
        """Whether warm-up is over, so that scores count."""
        return int(self.seen.min()) >= self.warmup_visits

    @property
    def complete(self) -> bool:
        """Whether every configuration has a score."""
        return bool(self.scored.all())

    def update(self, index: int, parameters: Iterable[Tensor], *, grad_scale: float = 1.0) -> None:
        """Add the score of the configuration that just ran; the first one counts in full.

        Args:
            index: of the configuration.
            parameters: of the network, after backward, before clipping and the optimiser's step.
            grad_scale: see :func:`connection_sensitivity`.

        Raises:
            RecipeError: there is no such configuration.
            TrainingError: the score is not finite.
        """
        if not 0 <= index < len(self.average):
            raise RecipeError(
                f"There is no configuration {index}; choose among 0 to {len(self.average) - 1}."
            )
        if self.warm:
            score = connection_sensitivity(parameters, grad_scale=grad_scale)
            past = float(self.average[index]) if self.scored[index] else score
            self.average[index] = self.momentum * past + (1 - self.momentum) * score
            self.scored[index] = True
        self.seen[index] += 1

    def scores(self) -> list[float]:
        """The average score of each configuration; 0 where there is none yet."""
        return [float(score) for score in self.average.tolist()]

    def select(
        self,
        flops: Sequence[int],
        num_intervals: int,
        top_k: int = 1,
        *,
        keep: Iterable[int] = (),
    ) -> list[int]:
        """Choose what to deploy: in each interval of FLOPs, the configurations of highest score.

        Args:
            flops: of each configuration.
            num_intervals: number of equally wide intervals of FLOPs, at least 1.
            top_k: configurations of each interval, at least 1.
            keep: configurations that are chosen besides, such as the anchors; they take no place.

        Returns:
            Indices, from the cheapest to the costliest.

        Raises:
            RecipeError: some configuration has no score yet, or a number is illegal.
        """
        missing = [i for i, scored in enumerate(self.scored.tolist()) if not scored]
        if missing:
            raise RecipeError(
                f"The configurations {', '.join(map(str, missing[:8]))} have no score yet; train "
                f"on until each was drawn more than {self.warmup_visits} times."
            )
        if top_k < 1:
            raise RecipeError(f"At least 1 configuration of an interval is kept, got {top_k}.")
        if len(flops) != len(self.average):
            raise RecipeError(
                f"There are {len(self.average)} configurations and the FLOPs of {len(flops)}; give "
                "those of each."
            )
        kept, scores = set(keep), self.scores()
        for members in flops_intervals(flops, num_intervals):
            rest = [i for i in members if i not in kept]
            kept |= set(sorted(rest, key=lambda i: -scores[i])[:top_k])
        return sorted(kept, key=lambda i: (flops[i], i))
