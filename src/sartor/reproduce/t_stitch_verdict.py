"""T-Stitch's evidence, second half: what was measured, held against the card's rules, in words."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sartor.reproduce.evidence import Check, Row
from sartor.reproduce.scores import r_squared
from sartor.reproduce.t_stitch_training import STEPS

__all__ = ["CLAIMED", "SHARES", "PairScores", "checks", "losses", "notes", "rows", "time_rows"]

SHARES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
#: the share that the claim is about
CLAIMED = 0.4
#: the card's pass rules
LOSS, FACTOR, LINEAR = 0.02, 5.0, 0.98


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """One trained pair: share of the small model -> energy distance to the held-out digits.

    Attributes:
        first: the small model takes the first steps.
        last: it takes the last ones.
        fewer: the large model alone, with as many steps as cost the same.
        steps: how many these are.
        changed: samples of the pure schedules that are not the single model's bit for bit.
        flops: of a sample of the small, the large and the stitched model at :data:`CLAIMED`.
        real: distance of the training digits.
    """

    first: Mapping[float, float]
    last: Mapping[float, float]
    fewer: Mapping[float, float]
    steps: Mapping[float, int]
    changed: int
    flops: Mapping[str, int]
    real: float


def checks(results: Sequence[PairScores], times: Mapping[float, float]) -> tuple[Check, ...]:
    """The card's pass rules on the worst seed, then the sceptic's question."""
    later = [share for share in SHARES if share >= CLAIMED]
    rises = [r.first[b] - r.first[a] for r in results for a, b in itertools.pairwise(later)]
    expected = [CLAIMED * r.flops["small"] + (1 - CLAIMED) * r.flops["large"] for r in results]
    off = [abs(r.flops["stitched"] - e) for r, e in zip(results, expected, strict=True)]
    return (
        Check(
            asked=f"distance that the small model's first {CLAIMED:g} of the steps adds, worst "
            "seed",
            measured=max(r.first[CLAIMED] - r.first[0.0] for r in results),
            limit=LOSS,
            relation="<=",
        ),
        Check(
            asked=f"distance with the small model last over that with it first, at {CLAIMED:g}, "
            "worst seed",
            measured=min(r.last[CLAIMED] / r.first[CLAIMED] for r in results),
            limit=FACTOR,
        ),
        Check(
            asked=f"least rise of the distance between neighbouring shares from {CLAIMED:g} on",
            measured=min(rises),
            limit=0.0,
        ),
        Check(
            asked=f"FLOPs at {CLAIMED:g} away from {CLAIMED:g} small + {1 - CLAIMED:g} large",
            measured=max(off),
            limit=0.5,
            relation="<=",
        ),
        Check(
            asked="samples of the pure schedules that are not the single model's bit for bit",
            measured=sum(r.changed for r in results),
            limit=0,
            relation="<=",
        ),
        Check(
            asked="R^2 of CPU time as a line in the share",
            measured=r_squared(list(times), list(times.values())),
            limit=LINEAR,
        ),
        Check(
            asked="distance of the large model alone with steps that cost the same, minus that "
            f"of stitching, at {CLAIMED:g}, mean over seeds",
            measured=statistics.mean(r.fewer[CLAIMED] - r.first[CLAIMED] for r in results),
            limit=0.0,
            decides=False,
        ),
    )


def rows(results: Sequence[PairScores]) -> list[Row]:
    """One line a share."""

    def spread(values: Sequence[float]) -> str:
        low, high = min(values), max(values)
        return f"{statistics.mean(values):.3f} ({low:.3f}-{high:.3f})"

    return [
        {
            "share of small steps": share,
            "small first": spread([r.first[share] for r in results]),
            "small last": spread([r.last[share] for r in results]),
            "large alone, equal cost": spread([r.fewer[share] for r in results]),
            "its steps": results[0].steps[share],
            "FLOPs": f"{_cost(results[0], share):.3f}",
        }
        for share in SHARES
    ]


def _cost(result: PairScores, share: float) -> float:
    """Relative to the large model alone."""
    return share * result.flops["small"] / result.flops["large"] + 1 - share


def time_rows(times: Mapping[float, float]) -> list[Row]:
    """One line a share, with what the two ends predict."""
    ends = times[0.0], times[1.0]
    return [
        {
            "share of small steps": share,
            "ms a sample": round(1e3 * taken, 4),
            "predicted from the ends": round(1e3 * (share * ends[1] + (1 - share) * ends[0]), 4),
        }
        for share, taken in times.items()
    ]


def losses(results: Sequence[PairScores]) -> tuple[str, ...]:
    """Where stitching loses to the large model, or does not win, in words and numbers."""
    lost = []
    for share in SHARES:
        worse = statistics.mean(r.first[share] - r.first[0.0] for r in results)
        if worse > LOSS:
            lost.append(
                f"With the small model for {share:.0%} of the steps the distance is {worse:.3f} "
                "larger than that of the large model alone."
            )
    behind = {
        share: statistics.mean(r.first[share] - r.fewer[share] for r in results)
        for share in SHARES[1:-1]
    }
    values = [r.first[0.0] for r in results]
    noise = max(max(values) - min(values), 0.005)  # one seed has no range
    named = ", ".join(f"{gap:.3f} at {share:.0%}" for share, gap in behind.items() if gap > noise)
    if named:
        lost.append(
            f"At equal cost the large model alone with fewer steps is nearer to the digits: {named}"
            "."
        )
    even = ", ".join(f"{share:.0%}" for share, gap in behind.items() if abs(gap) <= noise)
    if even:
        lost.append(
            f"At {even}, stitching and the large model alone with fewer steps differ by less than "
            f"the seeds do ({noise:.3f}): at this scale fewer steps are as good a way to save."
        )
    return tuple(lost)


def notes(results: Sequence[PairScores], training: int, samples: int) -> tuple[str, ...]:
    """What a reader must know to judge."""
    real = statistics.mean(r.real for r in results)
    return (
        f"8 x 8 digits of scikit-learn; residual MLPs of width 16 and depth 1, and 128 and 3, "
        f"{training} steps of AdamW on 1000 digits; DDIM with {STEPS} steps, {samples} samples "
        "against 597 digits that no training saw.",
        f"The training digits themselves are {real:.3f} away from the held-out ones.",
        "Settings are usual ones; learning rate and sampler were looked at on the selection split "
        "of one seed, nothing on the held-out digits.",
        "CPU time is that of the thread, so that other programs on the machine do not count.",
        "FID, Inception Score, prompts and GPUs are not shown here.",
    )
