"""The stance: which point is in use, and when that changes.

Nothing here reads a clock; times come in as milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sartor.serve.offer import Offer
from sartor.serve.policy import PolicySettings, Waiting

__all__ = ["Stance", "most_accurate", "settle"]


@dataclass(frozen=True, kw_only=True)
class Stance:
    """What the controller remembers: the offer in use, and how long a better one has been good.

    Attributes:
        point: id of the offer in use.
        at_ms: time of the last decision.
        above: id of the least accurate of the better offers since ``since_ms``, if there is one.
        since_ms: time from which on a better one was good.
    """

    point: str
    at_ms: float = 0.0
    above: str | None = None
    since_ms: float = 0.0


def most_accurate(
    menu: Sequence[Offer],
    queue: Sequence[Waiting],
    *,
    rate: float,
    typical: int,
    settings: PolicySettings,
    share: float,
) -> int:
    """Find the most accurate offer that answers the whole queue within the objective and keeps up.

    The objective counts, not the requests' own deadlines: no client lowers the accuracy of others.

    Args:
        menu: cheapest first, at least one.
        queue: in the order of answering.
        rate: images that arrive in a millisecond, at least 0.
        typical: images of a usual request.
        settings: of the controller.
        share: of the time that calls may take, ``busy`` or ``climb``.

    Returns:
        Its place in the menu; 0 if none is good enough.
    """
    joined = _calls(queue, settings.max_batch)
    alone = [(one.images, one.slo_left_ms) for one in queue]
    for index in range(len(menu) - 1, 0, -1):
        offer = menu[index]
        if rate * offer.image_ms(typical) > share:
            continue
        end = 0.0
        for images, left in joined if offer.joins else alone:
            end += offer.ms(images)
            if end > left * settings.margin:
                break
        else:
            return index
    return 0


def _calls(queue: Sequence[Waiting], largest: int) -> list[tuple[int, float]]:
    """(images, shortest time left) of the calls that would answer the queue."""
    groups: list[tuple[int, float]] = []
    for one in queue:
        if groups and groups[-1][0] + one.images <= largest:
            images, left = groups[-1]
            groups[-1] = (images + one.images, min(left, one.slo_left_ms))
        else:
            groups.append((one.images, one.slo_left_ms))
    return groups


def settle(
    stance: Stance,
    menu: Sequence[Offer],
    queue: Sequence[Waiting],
    *,
    now_ms: float,
    rate: float,
    typical: int,
    settings: PolicySettings,
) -> Stance:
    """Decide which offer is in use from now on: down at once, up after ``hold_ms`` of calm.

    Args:
        stance: as it was.
        menu: cheapest first, at least one.
        queue: in the order of answering.
        now_ms: the time.
        rate: images that arrive in a millisecond.
        typical: images of a usual request.
        settings: of the controller.

    Returns:
        The new stance; its point is on the menu.
    """
    facts: dict[str, Any] = {"rate": rate, "typical": typical}
    facts["settings"] = settings
    names = [offer.id for offer in menu]
    current = names.index(stance.point) if stance.point in names else len(menu) - 1
    good = most_accurate(menu, queue, share=settings.busy, **facts)
    if good < current:
        return Stance(point=names[good], at_ms=now_ms)
    better = most_accurate(menu, queue, share=settings.climb, **facts)
    if better <= current:
        return Stance(point=names[current], at_ms=now_ms)
    if stance.above not in names:  # calm since the last decision: nothing came in between
        stance = replace(stance, above=names[better], since_ms=stance.at_ms)
    above = min(better, names.index(str(stance.above)))
    if above > current and now_ms - stance.since_ms >= settings.hold_ms:
        return Stance(point=names[above], at_ms=now_ms)
    return Stance(point=names[current], at_ms=now_ms, above=names[above], since_ms=stance.since_ms)
