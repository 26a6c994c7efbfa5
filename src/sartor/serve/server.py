"""The server: uvicorn with limits, and an end that loses no request."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import socket
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from sartor.core import DataError
from sartor.serve.guard import guarded

__all__ = ["ServerSettings", "is_loopback", "make_server"]

_SWITCH_S = 5e-4  # after which a Python thread lets another one go on


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of the server.

    Attributes:
        host: address to listen on.
        port: 1 to 65535.
        max_connections: open at the same time, at least 1.
        header_s: longest time from a connection's opening to its first request.
        grace_s: after SIGTERM, requests are still taken for so long, and told that the connection
            closes; then for as long again on open connections alone.
        drain_s: then, longest time for what is being answered.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_connections: int = 2048
    header_s: float = 10.0
    grace_s: float = 0.5
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535 or self.max_connections < 1:
            raise DataError(
                f"The port must lie in 1..65535 and max_connections be at least 1, got {self.port} "
                f"and {self.max_connections}."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
        (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _DrainingServer(uvicorn.Server):
    """On the first signal, closes the door politely; on the second, at once."""

    def __init__(self, config: uvicorn.Config, grace_s: float) -> None:
        super().__init__(config)
        self.grace_s = grace_s
        self.draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Shorten what makes single requests late: the thread that computes would wait 5 ms for a
        busy loop, and each full garbage collection would visit everything that was imported.
        """
        sys.setswitchinterval(_SWITCH_S)
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining:
            super().handle_exit(sig, frame)
            return
        self.draining = True
        loop = asyncio.get_running_loop()
        leave = super().handle_exit
        loop.call_soon_threadsafe(loop.call_later, self.grace_s, leave, sig, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door first; what came in through it is still heard, then all ends."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(self.grace_s)
        await super().shutdown(sockets)


class _Closing:
    """ASGI middleware that tells clients, while the server drains, not to reuse connections."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.server: _DrainingServer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        draining = self.server is not None and self.server.draining

        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start" and self.server and self.server.draining:
                message = {
                    **message,
                    "headers": [*message.get("headers", []), (b"connection", b"close")],
                }
            await send(message)

        if draining and scope["type"] == "http" and scope["path"] == "/readyz":
            start = {"type": "http.response.start", "status": 503, "headers": []}
            await tell(start)
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, tell)


def make_server(app: FastAPI, settings: ServerSettings) -> uvicorn.Server:
    """Wrap an application in a server; ``run()`` serves until SIGTERM or SIGINT.

    Args:
        app: from :func:`~sartor.serve.app.create_app`.
        settings: of the server.
    """
    wrapped = _Closing(app)
    config = uvicorn.Config(
        wrapped,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=max(128, settings.max_connections),
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    config.load()
    config.http_protocol_class = guarded(
        config.http_protocol_class,
        max_connections=settings.max_connections,
        header_s=settings.header_s,
    )
    server = _DrainingServer(config, settings.grace_s)
    wrapped.server = server
    return server
