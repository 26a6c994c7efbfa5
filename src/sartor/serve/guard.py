"""Guard: limits on connections, so that slow or countless clients cost bounded memory."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["guarded"]

_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: 74\r\n\r\n"
    b'{"detail": "The service has too many connections; try again in a second."}'
)


def guarded(protocol: type[Any], *, max_connections: int, header_s: float) -> type[Any]:
    """Make a uvicorn protocol that refuses connections over a limit, and closes those that do not
    send a whole request head in time.

    Args:
        protocol: uvicorn's own protocol class; it keeps its connections in ``connections``.
        max_connections: open at the same time, at least 1.
        header_s: from a connection's opening to its first request's headers.

    Returns:
        A subclass.
    """

    class Guarded(protocol):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            if len(self.connections) >= max_connections:
                self.refused = True
                transport.write(_REFUSAL)
                transport.close()
                return
            self.refused = False
            super().connection_made(transport)
            self._timer = asyncio.get_running_loop().call_later(header_s, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if not self.refused:
                super().data_received(data)
            if self._timer and self.cycle is not None:
                self._timer.cancel()
                self._timer = None

        def connection_lost(self, error: Exception | None) -> None:
            if self._timer:
                self._timer.cancel()
            if not self.refused:
                super().connection_lost(error)

        def eof_received(self) -> None:
            if not self.refused:
                super().eof_received()

        def _too_slow(self) -> None:
            if self.cycle is None and self.transport is not None:
                self.transport.abort()

    return Guarded
