"""Prediction over HTTP: one request in, one response out, and nothing left behind if the client
leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import time
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from sartor.serve.backend import Array
from sartor.serve.body import BodyReader
from sartor.serve.decode import IMAGE_TYPES, NPY_TYPE, decode_image, decode_tensor
from sartor.serve.engine import Engine
from sartor.serve.errors import RequestError
from sartor.serve.ticket import Answer

__all__ = ["Predicting"]

_MAX_DEADLINE_MS = 600_000.0
_DECODERS = 2  # pictures decoded at the same time: each may take 100 MB
_INLINE_BYTES = 32_768  # smaller bodies are decoded at once, larger ones beside the event loop


class Predicting:
    """Answers the prediction routes.

    Args:
        reader: of bodies.
        max_images: in one request.
    """

    def __init__(self, reader: BodyReader, max_images: int) -> None:
        self._reader, self._max_images = reader, max_images
        self._decoding = asyncio.Semaphore(_DECODERS)

    async def answer(self, request: Request, *, single: bool) -> Response:
        """Decode, wait for the outputs and encode them.

        Args:
            request: of a client.
            single: one input, which may be a picture, or several.

        Raises:
            RequestError: there is no result, and why.
        """
        began = time.perf_counter()
        engine: Engine = request.app.state.engine
        deadline_ms = _header(request, "x-deadline-ms", 0.0, _MAX_DEADLINE_MS, above=True)
        floor = _header(request, "x-min-accuracy", 0.0, 1.0) or 0.0
        async with self._reader.read(request) as body:
            inputs = await self._decode(request, body, engine, single)
        spent = (time.perf_counter() - began) * 1e3
        if deadline_ms is not None:
            deadline_ms = max(0.0, deadline_ms - spent)
        answer = await _unless_gone(
            request, engine.submit(inputs, deadline_ms=deadline_ms, floor=floor)
        )
        response = _encode(request, answer, engine.loaded.frontier.task)
        request.app.state.metrics.answered(answer, (time.perf_counter() - began) * 1e3)
        return response

    async def _decode(self, request: Request, body: bytes, engine: Engine, single: bool) -> Array:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        shape = engine.loaded.shape
        if single and kind in IMAGE_TYPES:
            preprocess = engine.loaded.frontier.task.get("preprocess")
            async with self._decoding:
                return await asyncio.to_thread(decode_image, body, kind, shape, preprocess)
        most = 1 if single else self._max_images
        if len(body) <= _INLINE_BYTES or kind == NPY_TYPE:  # npy is read in place
            return decode_tensor(body, kind, shape, max_images=most)
        async with self._decoding:
            return await asyncio.to_thread(decode_tensor, body, kind, shape, max_images=most)


async def _unless_gone(request: Request, waiting: Any) -> Answer:
    """Wait for an answer; a client that leaves takes its request out of the queue."""
    work = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise RequestError("The client left before its answer.", status=400)
        answer: Answer = work.result()
        return answer
    finally:
        for task in (work, gone):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _header(
    request: Request, name: str, low: float, high: float, *, above: bool = False
) -> float | None:
    text = request.headers.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high or (above and value == low):
        raise RequestError(
            f"The header {name} is {text[:40]!r}; give a number "
            f"{'above' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}."
        )
    return value


def _encode(request: Request, answer: Answer, task: Any) -> Response:
    """Labels as JSON, with the outputs if ``?outputs=1``; outputs alone as npy if accepted."""
    facts = {"x-point": answer.point, "x-accuracy": f"{answer.accuracy:.6f}"}
    if request.headers.get("accept", "") == NPY_TYPE:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, answer.outputs, allow_pickle=False)
        return Response(buffer.getvalue(), media_type=NPY_TYPE, headers=facts)
    flat = answer.outputs.reshape(len(answer.outputs), -1)
    labels = flat.argmax(axis=1).tolist()
    content: dict[str, Any] = {"labels": labels}
    names = task.get("classes") or []
    if names and flat.shape[1] == len(names):
        content["classes"] = [names[label] for label in labels]
    if request.query_params.get("outputs") == "1":
        content["outputs"] = answer.outputs.tolist()
    content |= {
        "point": answer.point,
        "accuracy": answer.accuracy,
        "queue_ms": round(answer.queue_ms, 3),
        "run_ms": round(answer.run_ms, 3),
        "batch": answer.batch,
    }
    return JSONResponse(content)
