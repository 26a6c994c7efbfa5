"""Tickets: requests that wait for their one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sartor.serve.backend import Array
from sartor.serve.errors import OverloadError
from sartor.serve.policy import Waiting

__all__ = ["Answer", "Ticket", "fail"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A result.

    Attributes:
        outputs: (n, ...), one row for each image of the request.
        point: id of the point that computed them.
        accuracy: of that point, as its run measured it.
        queue_ms: from arrival to the start of the call.
        run_ms: of the call.
        batch: images in the call.
    """

    outputs: Array
    point: str
    accuracy: float
    queue_ms: float
    run_ms: float
    batch: int


@dataclass(kw_only=True, eq=False)
class Ticket:
    """A request that was admitted; times are of the batcher's clock."""

    inputs: Array
    arrived_ms: float
    deadline_ms: float
    slo_deadline_ms: float
    floor: float
    future: asyncio.Future[Answer] = field(repr=False)

    @property
    def images(self) -> int:
        """How many it holds."""
        return len(self.inputs)

    def waiting(self, now_ms: float) -> Waiting:
        """The ticket as the policy sees it."""
        return Waiting(
            images=self.images,
            left_ms=self.deadline_ms - now_ms,
            slo_left_ms=self.slo_deadline_ms - now_ms,
            floor=self.floor,
        )


def fail(tickets: Sequence[Ticket], reason: str, why: str) -> None:
    """Answer tickets that have no answer yet with an :class:`OverloadError`."""
    for ticket in tickets:
        if not ticket.future.done():
            ticket.future.set_exception(
                OverloadError(
                    f"The request got no result, as {why}; try again later.", reason=reason
                )
            )
