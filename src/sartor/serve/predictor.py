"""The predictor: the elastic service inside a Python program, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from sartor.core import DataError
from sartor.serve.backend import Array
from sartor.serve.engine import Engine, EngineSettings
from sartor.serve.policy import PolicySettings
from sartor.serve.ticket import Answer

__all__ = ["ElasticPredictor"]


class ElasticPredictor:
    """Answers calls of any number of threads within an objective, moving along a frontier.

    Args:
        run: the run's folder.
        slo_ms: objective for one call, above 0.
        max_batch: images that one call of the backend may join, at least 1.
        backend: ``auto``, ``onnx``, ``eager`` or ``elastic``.
        keep: models held in memory at the same time; ``None`` holds all.
        factories: ``package.module:function`` names that recipes may import.

    Raises:
        SartorError: the run cannot be served.

    Example:
        >>> with ElasticPredictor("runs/demo", slo_ms=20) as predictor:  # doctest: +SKIP
        ...     answer = predictor.predict(images)  # (n, 1, 8, 8) -> answer.outputs (n, 10)
    """

    def __init__(
        self,
        run: str | Path,
        *,
        slo_ms: float,
        max_batch: int = 64,
        backend: str = "auto",
        keep: int | None = None,
        factories: tuple[str, ...] = (),
    ) -> None:
        policy = PolicySettings(slo_ms=slo_ms, max_batch=max_batch)
        settings = EngineSettings(policy=policy, backend=backend, keep=keep, factories=factories)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._engine: Engine = self._wait(_started(run, settings))
        except BaseException:
            self._stop()
            raise

    @property
    def point(self) -> str:
        """Id of the point in use."""
        return self._engine.controller.point

    def predict(
        self,
        inputs: Array | Tensor,
        *,
        deadline_ms: float | None = None,
        min_accuracy: float = 0.0,
    ) -> Answer:
        """Compute outputs.

        Args:
            inputs: (n >= 1, *input_shape), normalised as in the run.
            deadline_ms: of this call; ``None`` is the objective.
            min_accuracy: least accuracy of a point that may answer.

        Returns:
            The outputs (n, ...) and what computed them.

        Raises:
            DataError: the inputs have a wrong shape, or values that are not finite.
            OverloadError: there is no answer in time.
        """
        array = np.ascontiguousarray(inputs, dtype=np.float32)
        shape = self._engine.loaded.shape
        if array.ndim == 0 or not len(array) or array.shape[1:] != shape:
            raise DataError(
                f"The inputs have the shape {tuple(array.shape)}; give (n, "
                f"{', '.join(map(str, shape))}) with n >= 1."
            )
        if not np.isfinite(array).all():
            raise DataError("The inputs have values that are not finite; clean them first.")
        answer: Answer = self._wait(
            self._engine.submit(array, deadline_ms=deadline_ms, floor=min_accuracy)
        )
        return answer

    def pin(self, point: str | None) -> None:
        """Use one point only; ``None`` releases."""
        self._engine.controller.pin_to(point)

    def reload(self, run: str | Path) -> None:
        """Serve another run from now on."""
        self._wait(self._engine.reload(run))

    def close(self) -> None:
        """Answer what waits, and end."""
        if self._loop.is_running():
            self._wait(self._engine.close())
            self._stop()

    def __enter__(self) -> ElasticPredictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, task: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _started(run: str | Path, settings: EngineSettings) -> Engine:
    engine = Engine(run, settings)
    try:
        await engine.start()
    except BaseException:
        await engine.close()
        raise
    return engine
