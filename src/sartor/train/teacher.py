"""The teacher of a distillation: alive or from a cache, at its own input size, with its taps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import SartorError, TrainingError
from sartor.losses.distiller import Outputs
from sartor.losses.taps import FeatureTaps
from sartor.train.teacher_answer import ask, check_finite
from sartor.train.teacher_cache import TeacherCache

__all__ = ["Teacher"]

#: on a GPU, steps between two looks at whether the teacher's words are finite, as each one waits
_LOOK_EVERY = 50


class Teacher:
    """Says what the student is to learn about a batch.

    Args:
        model: in eval mode while it is asked; ``None`` if the cache alone teaches.
        resize: (C, H, W) that it takes; ``None``: it takes what the student takes.
        cache: of its logits.

    Raises:
        TrainingError: there is neither a model nor a cache, or the size is none.
    """

    def __init__(
        self,
        model: nn.Module | None,
        *,
        resize: Sequence[int] | None = None,
        cache: TeacherCache | None = None,
    ) -> None:
        if model is None and cache is None:
            raise TrainingError("Distillation needs a teacher or a cache of its logits; give one.")
        if resize is not None and (len(resize) != 3 or min(resize) < 1):
            raise TrainingError(
                f"teacher_resize is (channels, height, width), got {tuple(resize)}; give three "
                "numbers of at least 1."
            )
        self.model, self.cache = model, cache
        self.resize = None if resize is None else tuple(resize)
        self._taps: FeatureTaps | None = None
        self._asked = 0

    def open(self, batches: Any) -> Any:
        """The batches to train on: as they are, or with the cached logits beside them.

        Raises:
            ArtifactError: the cache is of another teacher or of other data.
        """
        if self.cache is None:
            return batches
        if self.model is not None:
            self.cache.check_teacher(self.model, batches, resize=self.resize)
        return self.cache.beside(batches)

    def tap(self, stack: ExitStack, paths: Sequence[str]) -> None:
        """Keep the outputs of these modules until the stack is closed."""
        if self.model is not None:
            self._taps = stack.enter_context(FeatureTaps(self.model, paths))

    def probe(self, inputs: Tensor, *cached: Tensor) -> Outputs:
        """What it says about a small batch, on the device of the inputs.

        Raises:
            TrainingError: it does not take these inputs, or its outputs are not finite.
        """
        if self.model is not None:
            self.model.to(inputs.device)
        try:
            taught = self(inputs, *cached)
        except SartorError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            raise TrainingError(
                "The teacher does not take inputs of shape "
                f"{tuple(self.resize or inputs.shape[1:])}"
                f" ({error}); give teacher_resize=(channels, height, width) as it takes them."
            ) from error
        self._asked = 0
        return taught

    def __call__(self, inputs: Tensor, *cached: Tensor) -> Outputs:
        """Its outputs about inputs (B, ...), detached; the cached logits (B, K) if there are.

        Raises:
            TrainingError: they are not finite.
        """
        if cached:
            return Outputs(cached[0])
        assert self.model is not None
        logits = ask(self.model, inputs, self.resize)
        if self._asked % _LOOK_EVERY == 0 or logits.device.type == "cpu":
            check_finite(logits)
        self._asked += 1
        return Outputs(logits, self._taps.take() if self._taps else {})
