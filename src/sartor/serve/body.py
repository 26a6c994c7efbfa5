"""Bodies of requests: read within limits of size, time and memory of all together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sartor.serve.errors import OverloadError, RequestError

__all__ = ["BodyReader"]


class BodyReader:
    """Reads bodies.

    Args:
        max_bytes: of one body.
        max_total_bytes: of all bodies that are being read or decoded at the same time.
        seconds: that a body may take to arrive.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 16_000_000,
        max_total_bytes: int = 256_000_000,
        seconds: float = 10.0,
    ) -> None:
        self.max_bytes, self._max_total_bytes, self._seconds = max_bytes, max_total_bytes, seconds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Any) -> AsyncIterator[bytes]:
        """Give a request's body; its memory counts until the block ends.

        Raises:
            RequestError: 413 too large, 408 too slow, 400 the client left.
            OverloadError: the bodies of all requests take too much memory.
        """
        chunks: list[bytes] = []
        try:
            await asyncio.wait_for(self._fill(request, chunks), self._seconds)
            yield b"".join(chunks)
        except asyncio.TimeoutError as error:
            raise RequestError(
                f"The body did not arrive within {self._seconds:g} s; send it faster.", status=408
            ) from error
        finally:
            self._held -= sum(map(len, chunks))

    async def _fill(self, request: Any, chunks: list[bytes]) -> None:
        stated = request.headers.get("content-length", "0")
        size = int(stated) if stated.isdecimal() else 0
        try:
            self._check(size)
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                self._check(size)
                chunks.append(chunk)
                self._held += len(chunk)
                if self._held > self._max_total_bytes:
                    raise OverloadError("The service holds too many bodies; wait.", reason="full")
        except ConnectionError as error:
            raise RequestError("The client left.", status=400) from error

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise RequestError(
                f"The body has {size} bytes or more and at most {self.max_bytes} are read; split "
                "it.",
                status=413,
            )
