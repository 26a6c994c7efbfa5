"""The policy: from queue, deadlines and measured times to a point, a batch, or a refusal.

Nothing here reads a clock, waits or computes outputs; times come in as numbers, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sartor.core import DataError
from sartor.serve.offer import Offer, cheapest

__all__ = ["PolicySettings", "Waiting", "batch_of", "wait_ms"]


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Settings of the controller.

    Attributes:
        slo_ms: the objective: from a request's arrival to its answer, above 0.
        max_batch: images in one call, at least 1; one request is never split.
        margin: share of the time to a deadline that plans may fill, in (0, 1]; the rest is for what
            they cannot see: parsing, sending, other programs.
        busy: share of the time that calls may take at the present rate of arrivals, in (0, 1].
        climb: the same for a change to a more accurate point, at most ``busy``.
        hold_ms: a more accurate point must have been good for so long before it is taken, at least
            0.
    """

    slo_ms: float
    max_batch: int = 64
    margin: float = 0.75
    busy: float = 0.95
    climb: float = 0.85
    hold_ms: float = 400.0

    def __post_init__(self) -> None:
        if not 0 < self.slo_ms < math.inf:
            raise DataError(f"The objective must be above 0 ms, got {self.slo_ms}; give --slo-ms.")
        if self.max_batch < 1 or not self.hold_ms >= 0:
            raise DataError(
                f"max_batch must be at least 1 and hold_ms at least 0, got {self.max_batch} and "
                f"{self.hold_ms}."
            )
        if not 0 < self.climb <= self.busy <= 1 or not 0 < self.margin <= 1:
            raise DataError(
                f"The shares need 0 < climb <= busy <= 1 and 0 < margin <= 1, got {self.climb}, "
                f"{self.busy} and {self.margin}."
            )


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A request in the queue.

    Attributes:
        images: how many it holds, at least 1.
        left_ms: until its deadline; may be negative.
        slo_left_ms: until the service's own objective for it.
        floor: least accuracy that it accepts.
    """

    images: int
    left_ms: float
    slo_left_ms: float
    floor: float = 0.0


def batch_of(
    menu: Sequence[Offer],
    queue: Sequence[Waiting],
    point: str,
    *,
    settings: PolicySettings,
) -> tuple[Offer, list[int]]:
    """Choose the offer and the requests of the next call.

    The first request decides: its accuracy floor may lift the offer for this call, and its own
    deadline may lower it as far as that floor. Requests that ride along accept the offer's
    accuracy and keep the call within the first one's time.

    Args:
        menu: cheapest first; one offer meets the first request's floor.
        queue: in the order of answering, at least one.
        point: id of the offer in use.
        settings: of the controller.

    Returns:
        The offer, and the places in the queue, rising, the first one 0.
    """
    first = queue[0]
    names = [offer.id for offer in menu]
    least = next(i for i, offer in enumerate(menu) if offer.accuracy >= first.floor)
    index = max(least, names.index(point))
    until = first.left_ms * settings.margin
    while index > least and menu[index].ms(first.images) > until:
        index -= 1
    offer, taken, images = menu[index], [0], first.images
    if not offer.joins:
        return offer, taken
    for place in range(1, len(queue)):
        if images >= settings.max_batch:
            break
        one = queue[place]
        more = images + one.images
        fits = more <= settings.max_batch and one.floor <= offer.accuracy
        if fits and offer.ms(more) <= max(until, offer.ms(images)):
            taken.append(place)
            images = more
    return offer, taken


def wait_ms(
    menu: Sequence[Offer],
    *,
    images: int,
    ahead: int,
    requests: int,
    floor: float,
    running_ms: float,
    settings: PolicySettings,
) -> float:
    """Predict when a new request would be answered if all went by the cheapest allowed offers.

    Args:
        menu: cheapest first, at least one.
        images: of the request.
        ahead: images in the queue that are answered before it.
        requests: that hold these images.
        floor: least accuracy that the request accepts.
        running_ms: until the present call ends, at least 0.
        settings: of the controller.

    Returns:
        Milliseconds from now; infinite if no offer meets the floor.
    """
    own = cheapest(menu, floor)
    if own is None:
        return math.inf
    if own is menu[0] and own.joins:  # rides in the queue's last call
        return running_ms + own.drain_ms(ahead + images, 1, settings.max_batch)
    queue = menu[0].drain_ms(ahead, requests, settings.max_batch)
    return running_ms + queue + own.ms(images)
