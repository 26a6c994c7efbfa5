"""Admin actions: pin a point, serve another run. They exist only if a token was set."""

from __future__ import annotations

import hmac
import json
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from sartor.core import DataError
from sartor.serve.body import BodyReader
from sartor.serve.engine import Engine
from sartor.serve.errors import RequestError
from sartor.serve.schema import CONFIG_BODY, RELOAD_BODY, errors

__all__ = ["TOKEN_VARIABLE", "add_admin", "read_token"]

TOKEN_VARIABLE = "SARTOR_ADMIN_TOKEN"
_MAX_BODY = 4096


def read_token(path: Path | None) -> str | None:
    """Read the token from a file, else from the environment; ``None`` if neither has one.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise DataError(
            f"The token file {path} cannot be read ({error}); give another --token-file."
        ) from error
    if not token:
        raise DataError(f"The token file {path} is empty; write a random token into it.")
    return token


def add_admin(app: FastAPI, token: str, reader: BodyReader) -> None:
    """Add ``POST /config`` and ``POST /reload``, which need ``Authorization: Bearer TOKEN``."""
    wanted = token.encode()
    codes = errors(400, 401, 408, 413, 422, 503)
    security: list[dict[str, list[str]]] = [{"token": []}]

    async def fields(request: Request, name: str) -> Any:
        """The value of the body's one field, once the token is right."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.encode("utf-8", "replace"), wanted)
        if not (right and scheme.lower() == "bearer"):
            raise RequestError(
                "The admin token is missing or wrong; send 'Authorization: Bearer TOKEN'.",
                status=401,
            )
        async with reader.read(request) as body:
            try:
                value = json.loads(body[: _MAX_BODY + 1])
            except (ValueError, RecursionError):
                value = None
        if not isinstance(value, dict) or set(value) != {name}:
            raise RequestError(f"The body is not a JSON object with the one field {name!r}.")
        return value[name]

    @app.post(
        "/config",
        summary="Pin a point, or release it with null.",
        openapi_extra={"requestBody": CONFIG_BODY, "security": security},
        responses=codes,
    )
    async def pin(request: Request) -> dict[str, Any]:
        point = await fields(request, "pin")
        if not (point is None or isinstance(point, str)):
            raise RequestError("The pin is neither text nor null; name a point of /frontier.")
        engine: Engine = request.app.state.engine
        engine.controller.pin_to(point)
        return {"pin": engine.controller.pin, "point": engine.controller.point}

    @app.post(
        "/reload",
        summary="Serve another run of the same task; no request is dropped.",
        openapi_extra={"requestBody": RELOAD_BODY, "security": security},
        responses=codes,
    )
    async def reload(request: Request) -> dict[str, Any]:
        folder = await fields(request, "run")
        if not isinstance(folder, str) or "\0" in folder:
            raise RequestError("The run is not text; name a run's folder on the server.")
        loaded = await request.app.state.engine.reload(folder)
        return {"run": str(loaded.folder), "points": [offer.id for offer in loaded.offers]}
