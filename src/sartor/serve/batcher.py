"""The batcher: requests in, calls of the backend out, exactly one answer for each request."""

from __future__ import annotations

import asyncio
import bisect
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from sartor.serve.backend import Array
from sartor.serve.controller import Controller
from sartor.serve.errors import OverloadError, RequestError
from sartor.serve.offer import Offer, cheapest
from sartor.serve.ticket import Answer, Ticket, fail

__all__ = ["Batcher"]

_log = logging.getLogger("sartor.serve")
#: an answer that is so late is given up, as its call hangs
_PATIENCE_MS = 10_000.0


class Batcher:
    """Holds the queue and runs one call at a time; which and with whom, the controller says.

    Args:
        execute: computes a point's outputs, (B, ...) -> (B, ...); may raise anything.
        controller: chooses points and batches.
        clock_ms: milliseconds of the event loop's clock.
        max_queue: images that may wait, at least 1.
        patience_ms: a request that got no answer so long behind its deadline is given up.
    """

    def __init__(
        self,
        execute: Callable[[str, Array], Awaitable[Array]],
        controller: Controller,
        *,
        clock_ms: Callable[[], float] | None = None,
        max_queue: int = 65_536,
        patience_ms: float = _PATIENCE_MS,
    ) -> None:
        self.controller = controller
        self._execute, self._max_queue, self._patience_ms = execute, max_queue, patience_ms
        loop = asyncio.get_running_loop()
        self._clock_ms = clock_ms or (lambda: loop.time() * 1e3)
        self._queue: list[Ticket] = []
        self._queued_images = 0
        self._running_until_ms = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._task = loop.create_task(self._work())

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def oldest_ms(self) -> float:
        """Age of the oldest request that waits."""
        now = self._clock_ms()
        return max((now - ticket.arrived_ms for ticket in self._queue), default=0.0)

    async def submit(
        self, inputs: Array, *, deadline_ms: float | None = None, floor: float = 0.0
    ) -> Answer:
        """Wait for an answer; cancelling takes the request out of the queue.

        Args:
            inputs: (n >= 1, ...) of the shape that the backend takes.
            deadline_ms: from now; ``None`` is the service's objective.
            floor: least accuracy of a point that may answer.

        Raises:
            OverloadError: it cannot be answered in time, or not at all.
            RequestError: no point is that accurate.
        """
        now = self._clock_ms()
        slo = self.controller.settings.slo_ms
        left = slo if deadline_ms is None else deadline_ms
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        times = {"arrived_ms": now, "deadline_ms": now + left, "slo_deadline_ms": now + slo}
        ticket = Ticket(inputs=inputs, **times, floor=floor, future=future)
        self.controller.arrived(len(inputs), now)
        self._admit(ticket, left)
        bisect.insort(self._queue, ticket, key=lambda t: t.deadline_ms)
        self._queued_images += ticket.images
        self._wake.set()
        given_up = asyncio.get_running_loop().call_later(
            (left + self._patience_ms) / 1e3, fail, [ticket], "late", "its call does not end"
        )
        try:
            return await future
        finally:
            given_up.cancel()
            if future.cancelled() and ticket in self._queue:
                self._queue.remove(ticket)
                self._queued_images -= ticket.images

    def _admit(self, ticket: Ticket, left_ms: float) -> None:
        """Refuse what even the cheapest allowed points would answer too late."""
        if self._closing:
            raise OverloadError(
                "The service is closing; send the request to another replica or later.",
                reason="closing",
            )
        menu = self.controller.menu()
        if menu and ticket.floor > self.controller.best_accuracy:
            raise RequestError(
                f"No point reaches the accuracy {ticket.floor:.6g}; the best one has "
                f"{self.controller.best_accuracy:.6g}, ask for at most that."
            )
        ahead, requests = self._queued_images, len(self._queue)
        if self._queue and ticket.deadline_ms < self._queue[-1].deadline_ms:
            before = [t.images for t in self._queue if t.deadline_ms <= ticket.deadline_ms]
            ahead, requests = sum(before), len(before)
        running = max(0.0, self._running_until_ms - ticket.arrived_ms)
        wait = self.controller.wait_ms(
            ticket.images,
            ahead=ahead,
            requests=requests,
            floor=ticket.floor,
            running_ms=running,
            now_ms=ticket.arrived_ms,
        )
        crowded = self._queued_images + ticket.images > self._max_queue
        if crowded or wait > left_ms * self.controller.settings.margin:
            late = wait - left_ms if math.isfinite(wait) else 1e3
            raise OverloadError(
                f"The request would be answered in {wait:.4g} ms and has {left_ms:.4g} ms; try "
                "again later, send fewer images, or allow more time or less accuracy.",
                reason="full",
                retry_after_s=math.ceil(late / 1e3),
            )

    async def close(self, timeout_s: float = 10.0) -> None:
        """Take nothing new, answer what waits, and end; after ``timeout_s`` the rest gets 503."""
        self._closing = True
        self._wake.set()
        try:
            await asyncio.wait_for(asyncio.shield(self._task), timeout_s)
        except asyncio.TimeoutError:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        fail(self._queue, "closing", "the service closed")

    async def _work(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._shed()
            if self._queue:
                offer, batch = self._next_batch()
                try:
                    await self._answer(batch, offer)
                except asyncio.CancelledError:
                    fail(batch, "closing", "the service closed")
                    raise
                except Exception:  # a fault of this code must not silence the queue
                    _log.exception("A batch failed outside the backend.")
                    fail(batch, "failed", "the service has a fault")

    def _shed(self) -> None:
        """Drop requests whose clients left, and answer those that can no longer be in time."""
        now, kept = self._clock_ms(), []
        menu = [self.controller.present(offer, now) for offer in self.controller.menu()]
        for ticket in self._queue:
            least = cheapest(menu, ticket.floor)
            if ticket.future.done():
                continue
            if least is None:
                fail([ticket], "failed", "no point that it allows works any more")
            elif now + least.ms(ticket.images) > ticket.deadline_ms:
                fail([ticket], "late", "it waited too long")
            else:
                kept.append(ticket)
        self._queue = kept
        self._queued_images = sum(t.images for t in kept)

    def _next_batch(self) -> tuple[Offer, list[Ticket]]:
        """Take the next batch out of the queue."""
        now = self._clock_ms()
        waiting = [t.waiting(now) for t in self._queue]
        offer, places = self.controller.choose(waiting, now)
        batch = [self._queue[place] for place in places]
        taken = set(places)
        self._queue = [t for place, t in enumerate(self._queue) if place not in taken]
        self._queued_images = sum(t.images for t in self._queue)
        return offer, batch

    async def _answer(self, batch: list[Ticket], offer: Offer) -> None:
        """Answer a batch; what a point fails to compute gets a second try with another one."""
        left = await self._attempt(batch, offer)
        if not left:
            return
        other = self.controller.another({offer.id}, max(t.floor for t in left))
        if other is not None:
            for part in [left] if other.joins else [[ticket] for ticket in left]:
                await self._attempt(part, other)
        fail(left, "failed", "the points that were tried failed")

    async def _attempt(self, batch: Sequence[Ticket], offer: Offer) -> list[Ticket]:
        """Run one call, answer with its finite rows, and return the requests without answer."""
        inputs = np.concatenate([t.inputs for t in batch]) if len(batch) > 1 else batch[0].inputs
        started = self._clock_ms()
        predicted = self.controller.present(offer, started).ms(len(inputs))
        self._running_until_ms = started + predicted
        try:
            outputs = await self._execute(offer.id, inputs)
            if len(outputs) != len(inputs):
                raise ValueError(f"{len(outputs)} outputs for {len(inputs)} inputs")
        except Exception as error:  # a backend may raise anything
            self.controller.failed(offer.id, error)
            return list(batch)
        ended = self._clock_ms()
        self._running_until_ms = ended
        self.controller.observed(offer, len(inputs), ended - started, ended)
        left, start = [], 0
        for ticket in batch:
            rows = outputs[start : start + ticket.images]
            start += ticket.images
            if not np.isfinite(rows).all():
                left.append(ticket)
            elif not ticket.future.done():
                answer = Answer(
                    outputs=rows,
                    point=offer.id,
                    accuracy=offer.accuracy,
                    queue_ms=started - ticket.arrived_ms,
                    run_ms=ended - started,
                    batch=len(inputs),
                )
                ticket.future.set_result(answer)
        if left:
            self.controller.failed(offer.id, ValueError("its outputs are not finite"))
        return left
