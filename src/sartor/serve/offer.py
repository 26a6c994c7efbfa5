"""Offers: what a point can do here, in accuracy and in measured time per batch size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sartor.core import DataError

__all__ = ["Offer", "cheapest", "menu_of"]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A point as the policy sees it.

    Attributes:
        id: of the point.
        accuracy: as the frontier states it.
        times: (images, milliseconds) of one call, by rising number of images; at least one.
        joins: whether an image's outputs are the same whatever shares its call, so that requests
            may be joined; not so where activations are quantised with ranges of the whole call.

    Example:
        >>> Offer(id="small", accuracy=0.9, times=((1, 1.0), (3, 2.0))).ms(2)
        1.5
    """

    id: str
    accuracy: float
    times: tuple[tuple[int, float], ...]
    joins: bool = True

    def __post_init__(self) -> None:
        sizes = [images for images, _ in self.times]
        if not sizes or sizes != sorted(set(sizes)) or min(sizes) < 1:
            raise DataError(
                f"The point {self.id!r} has times for {sizes} images; give rising numbers >= 1."
            )

    def ms(self, images: int) -> float:
        """Milliseconds of one call with that many images, at least 1.

        Linear between what was measured; beyond, the largest call's time per image goes on.
        """
        sizes = [size for size, _ in self.times]
        at = bisect_left(sizes, images)
        if at == len(sizes):
            return self.times[-1][1] * images / sizes[-1]
        size, upper = self.times[at]
        if size == images or at == 0:
            return upper
        below, lower = self.times[at - 1]
        return lower + (upper - lower) * (images - below) / (size - below)

    def delayed(self, ms: float, share: float) -> Offer:
        """The same point while calls take longer: by ``ms`` milliseconds or by ``share`` of their
        time, whichever is less.

        Example:
            >>> offer = Offer(id="small", accuracy=0.9, times=((1, 1.0), (8, 10.0)))
            >>> offer.delayed(2.0, 0.5).times
            ((1, 1.5), (8, 12.0))
        """
        times = tuple((images, time + min(ms, share * time)) for images, time in self.times)
        return replace(self, times=times)

    def image_ms(self, typical: int) -> float:
        """Milliseconds per image that a busy service pays, if requests hold ``typical`` images."""
        if self.joins:
            return min(ms / images for images, ms in self.times)
        return self.ms(typical) / typical

    def drain_ms(self, images: int, requests: int, largest: int) -> float:
        """Milliseconds for a queue of that many images and requests, in calls of ``largest``
        images or of one request each.
        """
        if not images:
            return 0.0
        if not self.joins:
            return requests * self.ms(-(-images // requests))
        whole, rest = divmod(images, largest)
        return whole * self.ms(largest) + (self.ms(rest) if rest else 0.0)


def menu_of(offers: Iterable[Offer], typical: int = 1) -> tuple[Offer, ...]:
    """The offers worth choosing from: cheapest first, each more accurate than those before it.

    What was measured here decides; a point that is slower here than a more accurate one is left
    out.

    Args:
        offers: of all points that run.
        typical: images of a usual request.
    """
    menu: list[Offer] = []
    for offer in sorted(offers, key=lambda o: (o.image_ms(typical), -o.accuracy)):
        if not menu or offer.accuracy > menu[-1].accuracy:
            menu.append(offer)
    return tuple(menu)


def cheapest(menu: Sequence[Offer], floor: float) -> Offer | None:
    """The cheapest offer of at least that accuracy, or ``None``."""
    return next((offer for offer in menu if offer.accuracy >= floor), None)
