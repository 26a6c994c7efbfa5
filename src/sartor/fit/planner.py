"""The planner: pure functions that propose what to make and judge what was made; the executor does
the work.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from sartor.core import Point, non_dominated
from sartor.core.registry import attribute, moves

__all__ = ["Scored", "Variant", "helps", "judge", "promising", "twins", "variants"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A configuration with its cheap score: FLOPs and accuracy on the selection data."""

    index: int
    name: str
    flops: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One more move on one model: the id of the result, the move and its setting, if it has one."""

    id: str
    parent: str
    move: str
    ratio: float = 0.0


def promising(scored: Sequence[Scored], limit: int) -> list[Scored]:
    """Choose which configurations become models.

    The cheapest and the most accurate come first; then, one by one, the non-dominated configuration
    whose logarithm of FLOPs is farthest from all chosen ones; then dominated ones in the same way.

    Args:
        scored: every configuration.
        limit: how many to choose, at least 1.

    Returns:
        At most ``limit`` of them, by FLOPs.
    """
    front, best = [], -math.inf
    for one in sorted(scored, key=lambda s: (s.flops, -s.accuracy)):
        if one.accuracy > best:
            front.append(one)
            best = one.accuracy
    chosen = ([front[-1], front[0]] if len(front) > 1 else list(front))[:limit]
    for pool in (front, list(scored)):
        rest = [one for one in pool if one not in chosen]
        while rest and len(chosen) < limit:
            far = max(rest, key=lambda one: (_distance(one, chosen), one.accuracy, -one.index))
            if _distance(far, chosen) == 0:
                break
            chosen.append(far)
            rest.remove(far)
    return sorted(chosen, key=lambda one: (one.flops, one.index))


def _distance(one: Scored, chosen: Sequence[Scored]) -> float:
    return min(abs(math.log(max(one.flops, 1)) - math.log(max(c.flops, 1))) for c in chosen)


def variants(
    parent: str,
    applied: Sequence[str],
    allowed: Sequence[str],
    runtime: str,
    ratios: Sequence[float],
) -> list[Variant]:
    """The moves that may follow on a model.

    Args:
        parent: id of the model.
        applied: ids of the moves that made it.
        allowed: ids of the moves that the run may use.
        runtime: where the result must run.
        ratios: settings of pruning.
    """
    proposed = []
    for slug, method in moves().items():
        if slug not in allowed or slug in applied:
            continue
        kind = attribute(method.move)
        last = "start" if len(applied) == 1 else applied[-1]
        if last not in kind.after or runtime not in kind.runtimes:
            continue
        if slug == "prune":
            proposed += [
                Variant(id=f"{parent}+prune{round(100 * r)}", parent=parent, move=slug, ratio=r)
                for r in ratios
            ]
        else:
            proposed.append(Variant(id=f"{parent}+{slug}", parent=parent, move=slug))
    return proposed


def twins(shapes: Mapping[str, Hashable]) -> dict[str, str]:
    """Find models of the same shapes: what is cut out of them and trained again comes out alike.

    Args:
        shapes: of each model's tensors, by its id, the preferred model first.

    Returns:
        For each model whose shapes an earlier one has, that one's id.
    """
    first: dict[Hashable, str] = {}
    return {id: first[shape] for id, shape in shapes.items() if first.setdefault(shape, id) != id}


def helps(child: Mapping[str, float], parent: Mapping[str, float]) -> tuple[bool, str]:
    """Whether a move made a model faster or smaller in the target, and the words for it if not.

    Faster means by more than the spread of the two measurements: the sum of their half
    interquartile ranges.
    """
    gain = parent["latency_ms"] - child["latency_ms"]
    noise = (child["latency_iqr_ms"] + parent["latency_iqr_ms"]) / 2
    smaller = child["size_bytes"] < parent["size_bytes"]
    beyond = f" beyond the spread of {noise:.2g} ms" if 0 < gain <= noise else ""
    said = (
        f"neither smaller nor faster{beyond} on this target: "
        f"latency {parent['latency_ms']:.3g} -> {child['latency_ms']:.3g} ms, "
        f"size {parent['size_bytes'] / 1e6:.3g} -> {child['size_bytes'] / 1e6:.3g} MB"
    )
    return gain > noise or smaller, said


def judge(points: Sequence[Point], costs: Sequence[str]) -> list[Point]:
    """Give every measured model its status: on the frontier, dominated (by which), or dropped
    (why).

    Args:
        points: models and anchors with their measurements; anchors keep their status.
        costs: fields that accuracy is weighed against.
    """
    by_id = {point.id: point for point in points}
    alive, judged = [], []
    for point in points:
        parent = by_id.get(point.parent or "")
        useful, said = helps(point.values, parent.values) if parent else (True, "")
        if useful:
            alive.append(point)
        else:
            move = point.recipe.moves[-1]
            reason = f"{move} is {said}"
            judged.append(replace(point, status="dropped", reason=reason))
    front = non_dominated(alive, costs)
    for point in alive:
        if point in front:
            judged.append(replace(point, status="frontier", reason=""))
            continue
        by = next(f for f in front if _beats(f, point, costs))
        judged.append(
            replace(point, status="dominated", reason=f"{by.id} is as accurate and costs no more")
        )
    order = {point.id: number for number, point in enumerate(points)}
    return sorted(judged, key=lambda point: order[point.id])


def _beats(one: Point, other: Point, costs: Sequence[str]) -> bool:
    return one.accuracy >= other.accuracy and all(one.values[c] <= other.values[c] for c in costs)
