"""The controller: remembers what the policy needs between decisions, and which points work."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence

from sartor.core import ArtifactError, RecipeError
from sartor.core.errors import nearest
from sartor.serve.offer import Offer, cheapest, menu_of
from sartor.serve.policy import PolicySettings, Waiting, batch_of, wait_ms
from sartor.serve.stance import Stance, settle

__all__ = ["Controller"]

_log = logging.getLogger("sartor.serve")
_STRIKES = 3  # failures in a row after which a point is withdrawn
_RATE_MS = 1_000.0  # memory of the rate of arrivals
_CALM_MS = 2_000.0  # without calls, a slowdown is forgotten at this pace
_WEIGHT = 0.1  # of one call in the slowdown


class Controller:
    """State around :mod:`sartor.serve.policy`; all times are milliseconds of one clock.

    Args:
        offers: every point that runs, measured here.
        settings: of the policy.
        withdrawn: points that do not run, with the reason.
    """

    def __init__(
        self,
        offers: Iterable[Offer],
        settings: PolicySettings,
        withdrawn: dict[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.pin: str | None = None
        self.switches = 0
        self._typical, self._mean_images = 1, 1.0
        self._rate, self._rate_at = 0.0, 0.0
        self._slowdown, self._spread, self._slowdown_at = 1.0, 0.0, 0.0
        self.replace(offers, withdrawn or {})

    def replace(self, offers: Iterable[Offer], withdrawn: dict[str, str]) -> None:
        """Take the points of another run; a pin that it does not have is released."""
        self.offers = {offer.id: offer for offer in offers}
        self.withdrawn = dict(withdrawn)
        self._strikes: dict[str, int] = {}
        self._menu = menu_of(self.offers.values(), self._typical)
        self._slowdown, self._spread = 1.0, 0.0
        self.pin = self.pin if self.pin in self.offers else None
        self._stance = Stance(point=self._menu[-1].id if self._menu else "")

    @property
    def point(self) -> str:
        """Id of the point in use; empty if none works."""
        menu = self.menu()
        names = [offer.id for offer in menu]
        if self._stance.point in names:
            return self._stance.point
        return names[-1] if names else ""

    @property
    def best_accuracy(self) -> float:
        """Accuracy of the best point that may be used; 0 if none works."""
        return max((offer.accuracy for offer in self.menu()), default=0.0)

    def menu(self) -> tuple[Offer, ...]:
        """The offers to choose from: cheapest first, or the pinned one alone."""
        return (self.offers[self.pin],) if self.pin in self.offers else self._menu

    def pin_to(self, point: str | None) -> None:
        """Use one point only, or all again with ``None``.

        Raises:
            RecipeError: there is no such point, or it is withdrawn.
        """
        if point is not None and point not in self.offers:
            why = self.withdrawn.get(point) or nearest(point, self.offers)
            raise RecipeError(f"The point {point!r} cannot be pinned: {why}")
        self.pin = point

    def arrived(self, images: int, now_ms: float) -> None:
        """Hear of a request, admitted or not."""
        self._rate = self.rate(now_ms) + images / _RATE_MS
        self._rate_at = now_ms
        self._mean_images += _WEIGHT * (images - self._mean_images)
        typical = 1 << round(math.log2(max(1.0, self._mean_images)))
        if typical != self._typical:  # it decides what a point costs that cannot join requests
            self._typical = typical
            self._menu = menu_of(self.offers.values(), typical)

    def rate(self, now_ms: float) -> float:
        """Images that arrive in a millisecond, averaged over about a second."""
        return self._rate * math.exp(-max(0.0, now_ms - self._rate_at) / _RATE_MS)

    def slowdown(self, now_ms: float) -> float:
        """Present over measured time of a call, as other programs may use the machine too: the
        recent mean and its mean deviation.
        """
        calm = math.exp(-max(0.0, now_ms - self._slowdown_at) / _CALM_MS)
        return 1.0 + (self._slowdown + self._spread - 1.0) * calm

    def wait_ms(
        self,
        images: int,
        *,
        ahead: int,
        requests: int,
        floor: float,
        running_ms: float,
        now_ms: float,
    ) -> float:
        """See :func:`sartor.serve.policy.wait_ms`; infinite if no point works."""
        menu = self.menu()
        if not menu:
            return math.inf
        return wait_ms(
            menu,
            images=images,
            ahead=ahead,
            requests=requests,
            floor=floor,
            running_ms=running_ms,
            slowdown=self.slowdown(now_ms),
            settings=self.settings,
        )

    def choose(self, queue: Sequence[Waiting], now_ms: float) -> tuple[Offer, list[int]]:
        """Choose the next call; see :func:`sartor.serve.policy.batch_of`."""
        menu, slowdown = self.menu(), self.slowdown(now_ms)
        before = self.point
        self._stance = settle(
            self._stance,
            menu,
            queue,
            now_ms=now_ms,
            rate=self.rate(now_ms),
            typical=self._typical,
            slowdown=slowdown,
            settings=self.settings,
        )
        self.switches += before != self._stance.point
        return batch_of(menu, queue, self.point, slowdown=slowdown, settings=self.settings)

    def another(self, tried: Collection[str], floor: float) -> Offer | None:
        """The cheapest point that was not tried yet and is accurate enough, or ``None``.

        A pin does not hold here: an answer from another point is better than none.
        """
        rest = [offer for offer in self._menu if offer.id not in tried]
        return cheapest(rest, floor)

    def observed(self, offer: Offer, images: int, ms: float, now_ms: float) -> None:
        """Learn from a call that ended well."""
        self._strikes.pop(offer.id, None)
        ratio = min(10.0, max(0.5, ms / offer.ms(images)))
        calm = math.exp(-max(0.0, now_ms - self._slowdown_at) / _CALM_MS)
        mean, spread = 1.0 + (self._slowdown - 1.0) * calm, self._spread * calm
        self._slowdown = mean + _WEIGHT * (ratio - mean)
        self._spread = spread + _WEIGHT * (abs(ratio - mean) - spread)
        self._slowdown_at = now_ms

    def failed(self, point: str, error: Exception) -> None:
        """Count a failure; the third in a row, or a damaged file, withdraws the point."""
        self._strikes[point] = self._strikes.get(point, 0) + 1
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        _log.warning("The point %s failed: %s", point, reason)
        if isinstance(error, ArtifactError) or self._strikes[point] >= _STRIKES:
            self.offers.pop(point, None)
            self.withdrawn[point] = reason
            self._menu = menu_of(self.offers.values(), self._typical)
            self.pin = self.pin if self.pin in self.offers else None
            _log.warning("The point %s is withdrawn.", point)
