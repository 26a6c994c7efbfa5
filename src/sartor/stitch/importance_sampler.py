"""Sampling by importance: promising configurations are trained more often, none is starved.

Source: He, Pan, Liu, Cai, Zhuang, Efficient Stitchable Task Adaptation, CVPR 2024, arXiv
2311.17352, which gives the idea and no formula. Decided here: a softmax of normalised scores within
intervals of FLOPs, mixed with the uniform distribution; rounds of a seeded permutation until every
configuration has a score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sartor.core.errors import RecipeError
from sartor.stitch.importance import StitchImportance, flops_intervals

__all__ = ["ImportanceSampler"]


class ImportanceSampler:
    """Draws important configurations more often, and none less than a floor.

    Until every configuration has a score, all are drawn equally often, in rounds. A draw is a
    function of seed, step and importance alone, so that every process and every resumed run draws
    the same.

    Args:
        importance: is read, never changed.
        flops: of each configuration.
        temperature: of the softmax over normalised scores, above 0.
        uniform_mix: share e of uniform draws, in [0, 1]; each configuration keeps e / S.
        num_intervals: equally wide intervals of FLOPs within which scores are compared, at least 1.
        seed: of the draws.

    Raises:
        RecipeError: a number is illegal.
    """

    def __init__(
        self,
        importance: StitchImportance,
        flops: Sequence[int],
        temperature: float = 1.0,
        uniform_mix: float = 0.3,
        *,
        num_intervals: int = 3,
        seed: int = 0,
    ) -> None:
        if temperature <= 0 or not 0 <= uniform_mix <= 1:
            raise RecipeError(
                "Sampling takes a temperature above 0 and a uniform_mix in [0, 1], got "
                f"{temperature} and {uniform_mix}."
            )
        if len(flops) != len(importance.average):
            raise RecipeError(
                f"There are {len(importance.average)} configurations and the FLOPs of "
                f"{len(flops)}; give those of each."
            )
        self.importance, self.seed = importance, seed
        self.temperature, self.uniform_mix = temperature, uniform_mix
        self._groups = flops_intervals(flops, num_intervals)

    def probabilities(self) -> Tensor:
        """Probability of each configuration (S,), in float64; uniform until all have a score."""
        scores = torch.tensor(self.importance.scores(), dtype=torch.float64)
        count = len(scores)
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        if not self.importance.complete:
            return uniform
        sharp = torch.zeros_like(uniform)
        for members in self._groups:  # each interval keeps its share of the draws
            z = _normalised(scores[members])
            sharp[members] = torch.softmax(z / self.temperature, 0) * len(members) / count
        return (1 - self.uniform_mix) * sharp + self.uniform_mix * uniform

    def draw(self, step: int) -> int:
        """The configuration of a training step."""
        count = len(self.importance.average)
        if not self.importance.complete:
            generator = torch.Generator().manual_seed(_hashed(self.seed, step // count) >> 1)
            return int(torch.randperm(count, generator=generator)[step % count])
        drawn = _hashed(self.seed, step) / 2**64  # in [0, 1)
        edges = self.probabilities().cumsum(0)
        return min(int(torch.searchsorted(edges, drawn, right=True)), count - 1)


def _normalised(scores: Tensor) -> Tensor:
    """Scores (n,) with mean 0 and deviation 1; zeros where they are all equal."""
    spread = scores.std(correction=0)
    equal = spread <= 1e-12 * scores.abs().max()
    return torch.zeros_like(scores) if equal else (scores - scores.mean()) / spread


def _hashed(seed: int, number: int) -> int:
    """64 bits that follow seed and number alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8], "big")
