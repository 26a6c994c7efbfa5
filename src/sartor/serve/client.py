"""Client: a small HTTP/1.1 client over kept connections, light enough to share two cores with what
it measures.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from sartor.core import DataError
from sartor.serve.server import is_loopback

__all__ = ["Client", "Reply"]


class Reply:
    """Status, headers (lower-case names) and body of a response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Sends requests to one service.

    Args:
        url: ``http://host:port``.
        anywhere: allow other hosts than this machine.

    Raises:
        DataError: the URL is not plain HTTP, or leads elsewhere without ``anywhere``.
    """

    def __init__(self, url: str, *, anywhere: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise DataError(f"The URL {url!r} is not http://host:port; give one that is.")
        if not anywhere and not is_loopback(parts.hostname):
            raise DataError(
                f"The host {parts.hostname!r} is another machine; test your own services only, and "
                "allow it with --anywhere."
            )
        self.host, self.port = parts.hostname, parts.port or 80
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(
        self, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send a request and wait for its response.

        A kept connection that the service closed before any byte of a response is no answer and no
        loss: the request goes out once more, on a connection of its own.

        Raises:
            OSError: the connection failed.
            EOFError: it ended before the response.
        """
        lines = [f"{verb} {path} HTTP/1.1", f"host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin1")
        if self._free:
            try:
                return await self._exchange(self._free.pop(), head + body)
            except (ConnectionResetError, BrokenPipeError):
                pass
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
        return await self._exchange(
            await asyncio.open_connection(self.host, self.port), head + body
        )

    async def _exchange(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes
    ) -> Reply:
        """One request on one connection, which is kept if the service keeps it."""
        reader, writer = connection
        try:
            writer.write(request)
            reply = await _read(reader)
        except BaseException:
            writer.close()
            raise
        if reply.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._free.append(connection)
        return reply

    def close(self) -> None:
        """Close the free connections."""
        while self._free:
            self._free.pop()[1].close()


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(int(head[0].split(" ")[1]), headers, body)
