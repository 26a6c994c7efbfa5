"""The HTTP application: routes around an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from sartor.core import DataError, SartorError
from sartor.serve.admin import add_admin
from sartor.serve.body import BodyReader
from sartor.serve.engine import Engine
from sartor.serve.errors import OverloadError, RequestError
from sartor.serve.metrics import Metrics
from sartor.serve.predicting import Predicting
from sartor.serve.schema import ANSWER, errors, headers, tensor_body

__all__ = ["AppSettings", "create_app"]

_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
_PREDICT_ERRORS = (400, 408, 413, 415, 422, 503)


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Settings of the HTTP side.

    Attributes:
        token: of the admin actions, at least 16 characters; ``None``: there are no such actions.
        max_images: in one request, at least 1.
        body: limits of bodies.
        drain_s: longest time that waiting requests get when the service ends.
    """

    token: str | None = field(default=None, repr=False)
    max_images: int = 256
    body: BodyReader = field(default_factory=BodyReader)
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < 16:
            raise DataError(
                f"The admin token has {len(self.token)} characters; take at least 16 random ones."
            )


def create_app(
    make_engine: Callable[[], Engine],
    shape: tuple[int, ...],
    settings: AppSettings | None = None,
) -> FastAPI:
    """Make the application; the engine starts and ends with its lifespan.

    Args:
        make_engine: called inside the event loop.
        shape: of one input of the run.
        settings: of the HTTP side.

    Returns:
        The application; ``app.state.engine`` is the running engine.
    """
    settings = settings or AppSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = make_engine()
        try:
            await engine.start()
            app.state.engine, app.state.metrics = engine, Metrics(engine)
            yield
        finally:
            await engine.close(settings.drain_s)

    app = FastAPI(
        title="sartor",
        description="A frontier of models behind one address.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from other hosts; the live page lists the routes
        redoc_url=None,
    )
    app.add_exception_handler(SartorError, _explain)
    _add_predictions(app, shape, settings)
    _add_state(app)
    if settings.token is not None:
        add_admin(app, settings.token, settings.body)
    return app


async def _explain(request: Request, error: Exception) -> JSONResponse:
    """One sentence, with the status that fits."""
    status = error.status if isinstance(error, RequestError) else 422
    content, extra = {"detail": str(error)}, {}
    if isinstance(error, OverloadError):
        content["reason"] = error.reason
        extra["Retry-After"] = str(error.retry_after_s)
    metrics = getattr(request.app.state, "metrics", None)
    if metrics and request.url.path.startswith("/predict"):
        metrics.refused(error.reason if isinstance(error, OverloadError) else str(status))
    return JSONResponse(content, status, extra)


def _add_predictions(app: FastAPI, shape: tuple[int, ...], settings: AppSettings) -> None:
    predicting = Predicting(settings.body, settings.max_images)

    def route(single: bool) -> dict[str, Any]:
        body = tensor_body(shape, pictures=single, max_images=settings.max_images)
        return {
            "openapi_extra": {"requestBody": body, "parameters": headers()},
            "responses": {200: ANSWER, **errors(*_PREDICT_ERRORS)},
        }

    @app.post("/predict", summary="Classify one input.", **route(True))
    async def predict(request: Request) -> Response:
        return await predicting.answer(request, single=True)

    @app.post("/predict/batch", summary="Classify several inputs.", **route(False))
    async def predict_batch(request: Request) -> Response:
        return await predicting.answer(request, single=False)


def _add_state(app: FastAPI) -> None:
    @app.get("/frontier", summary="Every point: accuracy, times measured here, whether it serves.")
    async def frontier(request: Request) -> dict[str, Any]:
        return _described(request.app.state.engine)

    @app.get("/config", summary="Settings and the point in use.")
    async def config(request: Request) -> dict[str, Any]:
        engine: Engine = request.app.state.engine
        policy = engine.settings.policy
        return {
            "slo_ms": policy.slo_ms,
            "max_batch": policy.max_batch,
            "backend": engine.loaded.backend.kind,
            "note": engine.loaded.note,
            "input_shape": list(engine.loaded.shape),
            "pin": engine.controller.pin,
            "point": engine.controller.point,
            "memory_bytes": engine.loaded.backend.memory(),
        }

    @app.get("/stats", summary="Numbers of the last seconds, for the live page.")
    async def stats(request: Request) -> dict[str, Any]:
        recent: dict[str, Any] = request.app.state.metrics.recent()
        return recent

    @app.get("/healthz", summary="Whether the process runs.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether requests are answered.", responses=errors(503))
    async def readyz(request: Request) -> dict[str, str]:
        engine: Engine = request.app.state.engine
        if engine.closing or not engine.controller.menu():
            why = "is closing" if engine.closing else "has no point that works"
            raise OverloadError(f"The service {why}; use another replica.", reason="closing")
        return {"status": "ready"}

    @app.get("/metrics", summary="For Prometheus.", response_class=Response)
    async def metrics(request: Request) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(request.app.state.metrics.text(), media_type=kind)

    @app.get("/", summary="The live page.", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        text = (files("sartor.serve") / "page" / "live.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})


def _described(engine: Engine) -> dict[str, Any]:
    """The frontier as JSON."""
    controller, backend = engine.controller, engine.loaded.backend
    menu = [offer.id for offer in controller.menu()]
    points: list[dict[str, Any]] = []
    for id, accuracy in backend.accuracies.items():
        offer = controller.offers.get(id)
        points.append(
            {
                "id": id,
                "accuracy": accuracy,
                "ms": dict(offer.times) if offer else {},
                "joins": offer.joins if offer else False,
                "on_menu": id in menu,
                "withdrawn": controller.withdrawn.get(id, ""),
            }
        )
    points.sort(key=lambda row: row["accuracy"])
    return {
        "task": engine.loaded.frontier.task.get("name"),
        "metric": engine.loaded.frontier.task.get("metric"),
        "point": controller.point,
        "pin": controller.pin,
        "points": points,
    }
