"""The controller: remembers what the policy needs between decisions, and which points work."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sartor.core import ArtifactError, RecipeError
from sartor.core.errors import nearest
from sartor.serve.offer import Offer, cheapest, menu_of
from sartor.serve.policy import PolicySettings, Waiting, batch_of, wait_ms
from sartor.serve.stance import Stance, settle

__all__ = ["Controller", "Delay"]

_log = logging.getLogger("sartor.serve")
_STRIKES = 3  # failures in a row after which a point is withdrawn
_RATE_MS = 1_000.0  # memory of the rate of arrivals
_CALM_MS = 2_000.0  # without calls, a delay is forgotten at this pace
_WEIGHT = 0.1  # of one call in the delay


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Recent means of what calls took beyond their measured time, and their mean deviations.

    In milliseconds and as a share: the fixed costs of a call weigh more in short ones, a busy
    machine more in long ones, and the smaller of the two is what one point's calls say of
    another's.
    """

    mean_ms: float = 0.0
    spread_ms: float = 0.0
    mean_share: float = 0.0
    spread_share: float = 0.0

    @property
    def ms(self) -> float:
        """To expect of a call, at least 0."""
        return max(0.0, self.mean_ms + self.spread_ms)

    @property
    def share(self) -> float:
        """To expect of a call, of its measured time, at least 0."""
        return max(0.0, self.mean_share + self.spread_share)

    def after(self, ms: float) -> Delay:
        """What is left of it after a time without calls."""
        calm = math.exp(-max(0.0, ms) / _CALM_MS)
        return Delay(**{name: value * calm for name, value in vars(self).items()})

    def learn(self, measured_ms: float, took_ms: float) -> Delay:
        """With one more call, of which ten times the measured time counts at most."""
        excess = min(10.0 * measured_ms, took_ms) - measured_ms
        share = excess / measured_ms
        return Delay(
            mean_ms=self.mean_ms + _WEIGHT * (excess - self.mean_ms),
            spread_ms=self.spread_ms + _WEIGHT * (abs(excess - self.mean_ms) - self.spread_ms),
            mean_share=self.mean_share + _WEIGHT * (share - self.mean_share),
            spread_share=self.spread_share
            + _WEIGHT * (abs(share - self.mean_share) - self.spread_share),
        )


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
        self._delay, self._delayed_at = Delay(), 0.0
        self.replace(offers, withdrawn or {})

    def replace(self, offers: Iterable[Offer], withdrawn: dict[str, str]) -> None:
        """Take the points of another run; a pin that it does not have is released."""
        self.offers = {offer.id: offer for offer in offers}
        self.withdrawn = dict(withdrawn)
        self._strikes: dict[str, int] = {}
        self._menu = menu_of(self.offers.values(), self._typical)
        self._delay = Delay()
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

    def delay(self, now_ms: float) -> Delay:
        """How much longer calls take at present than measured, as a busy event loop costs each of
        them and other programs may use the machine too.
        """
        return self._delay.after(now_ms - self._delayed_at)

    def present(self, offer: Offer, now_ms: float) -> Offer:
        """An offer with the times that its calls take at present."""
        delay = self.delay(now_ms)
        return offer.delayed(delay.ms, delay.share)

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
        menu = [self.present(offer, now_ms) for offer in self.menu()]
        if not menu:
            return math.inf
        return wait_ms(
            menu,
            images=images,
            ahead=ahead,
            requests=requests,
            floor=floor,
            running_ms=running_ms,
            settings=self.settings,
        )

    def choose(self, queue: Sequence[Waiting], now_ms: float) -> tuple[Offer, list[int]]:
        """Choose the next call; see :func:`sartor.serve.policy.batch_of`."""
        menu = [self.present(offer, now_ms) for offer in self.menu()]
        before = self.point
        self._stance = settle(
            self._stance,
            menu,
            queue,
            now_ms=now_ms,
            rate=self.rate(now_ms),
            typical=self._typical,
            settings=self.settings,
        )
        self.switches += before != self._stance.point
        offer, places = batch_of(menu, queue, self.point, settings=self.settings)
        return self.offers[offer.id], places

    def another(self, tried: Collection[str], floor: float) -> Offer | None:
        """The cheapest point that was not tried yet and is accurate enough, or ``None``.

        A pin does not hold here: an answer from another point is better than none.
        """
        rest = [offer for offer in self._menu if offer.id not in tried]
        return cheapest(rest, floor)

    def observed(self, offer: Offer, images: int, ms: float, now_ms: float) -> None:
        """Learn from a call that ended well."""
        self._strikes.pop(offer.id, None)
        self._delay = self.delay(now_ms).learn(offer.ms(images), ms)
        self._delayed_at = now_ms

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
