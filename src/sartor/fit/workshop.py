"""The workshop: makes one candidate at a time, evaluates it as it will be deployed, and keeps its
files.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sartor.core import Family, Measurement, Move, MoveContext, Recipe, SartorError, Target, Task
from sartor.core.files import write_json
from sartor.fit.ranking import ranking_batches
from sartor.fit.saving import step_bytes, training_record
from sartor.fit.settings import FitSettings
from sartor.fit.state import Candidate, RunState
from sartor.fit.teaching import Teaching
from sartor.measure import measure
from sartor.moves.replay import replay
from sartor.runtime import OnnxModule, to_onnx
from sartor.train import save_tensors

__all__ = ["Workshop"]


class Workshop:
    """Makes, evaluates and measures candidates of one run.

    Args:
        family: the anchors; the last one teaches.
        task: where accuracy comes from.
        target: where the models will run.
        settings: of the run.
        state: remembers what was made.
    """

    def __init__(
        self, family: Family, task: Task, target: Target, settings: FitSettings, state: RunState
    ) -> None:
        self.family, self.task, self.target = family, task, target
        self.settings, self.state = settings, state
        self.teaching = Teaching(
            family.models[-1], task, settings, state.folder / "state" / "teacher"
        )

    def make(
        self, id: str, move: Move, model: nn.Module, recipe: Recipe, parent: str | None
    ) -> None:
        """Apply a move to a model and keep the result, unless that was done before; a failure
        becomes a note.

        Args:
            id: of the candidate.
            move: applied to ``model``.
            model: what the move takes.
            recipe: how ``model`` was made.
            parent: id of the candidate that ``model`` is, if it is one.
        """
        if id in self.state.candidates or id in self.state.failures:
            return
        draft = self.state.made / f".{id}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        started = time.monotonic()
        try:
            candidate = self._make(id, move, model, recipe, parent, draft)
        except SartorError as error:
            shutil.rmtree(draft)
            self.state.failures[id] = str(error)
            self.state.save()
            return
        folder = self.state.made / id
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        seconds = time.monotonic() - started
        self.state.add(replace(candidate, folder=folder, seconds=seconds))

    def _make(
        self, id: str, move: Move, model: nn.Module, recipe: Recipe, parent: str | None, draft: Path
    ) -> Candidate:
        context = MoveContext(
            task=self.task,
            target=self.target,
            folder=draft,
            deployed=self._deployed(parent),
            recover=partial(self.recover, id),
        )
        result = move.apply(model, context)
        deployed: nn.Module = result.model.eval()
        if move.artifact:
            assert parent is not None
            shutil.copyfile(
                self.state.made / parent / "model.safetensors", draft / "model.safetensors"
            )
        else:
            save_tensors(deployed.state_dict(), draft / "model.safetensors")
            if self.target.runtime == "onnxruntime":
                to_onnx(deployed, self.task.example, draft / "model.onnx")
                deployed = OnnxModule(draft / "model.onnx", threads=self.target.threads)
        made = recipe.then(result.step)
        write_json(draft / "recipe.json", made.to_dict())
        with torch.inference_mode():
            accuracy = self.task.evaluate(deployed, self.task.validation)
        return Candidate(
            id=id, recipe=made, parent=parent, accuracy=float(accuracy), seconds=0.0, folder=draft
        )

    def model(self, id: str) -> nn.Module:
        """The float module of a candidate, built again from its recipe and its weights."""
        candidate = self.state.candidates[id]
        kept = tuple(s for s in candidate.recipe.steps if not s.move.startswith("int8"))
        recipe = replace(candidate.recipe, steps=kept)
        return replay(recipe, candidate.folder, family=self.family)

    def measure(self, ids: Sequence[str], on_progress: Callable[[str], None] | None = None) -> None:
        """Measure candidates side by side in one run, and keep the numbers."""
        floats = {id: self.model(id) for id in ids}
        models: dict[str, nn.Module] = dict(floats)
        if self.target.runtime == "onnxruntime":
            for id in ids:
                path = self.state.candidates[id].folder / "model.onnx"
                models[id] = OnnxModule(path, threads=self.target.threads)
        found: dict[str, Measurement] = measure(
            models, self.target, self.task.example, floats=floats, on_progress=on_progress
        )
        self.state.measured(found)

    def weigh_step(self) -> None:
        """Remember what a training step of the largest anchor takes, without and with saving."""
        if "memory" not in self.settings.save or self.state.step_bytes:
            return
        with torch.random.fork_rng():
            batch = next(iter(self.task.train))
        found = step_bytes(self.teaching.teacher, batch, self.task.loss, self.settings.save)
        self.state.step_bytes = list(found)

    def recover(self, id: str, model: nn.Module) -> None:
        """Distil the largest anchor into a changed model, in place, and remember what that cost.

        A model that is worse for it on the selection data gets its weights back.

        Args:
            id: of the candidate that it becomes.
            model: trained in place.

        Raises:
            TrainingError: the loss is not finite, or the two models do not match.
        """
        if not self.settings.recovery_epochs:
            model.eval()
            return
        task, ranking = self.task, ranking_batches(self.task)
        weights = copy.deepcopy(model.state_dict())
        with torch.inference_mode():
            before = float(task.evaluate(model.eval(), task.validation))
            ranked = float(task.evaluate(model, ranking))
        report = self.teaching.recover(model)
        with torch.inference_mode():
            kept = float(task.evaluate(model.eval(), ranking)) >= ranked
        if not kept:
            model.load_state_dict(weights)
        self.state.recoveries[id] = {
            "distiller": self.teaching.distiller(model),
            "before": before,
            "kept": kept,
            "seconds": report.seconds,
            "bridges": list(report.bridges),
        }
        self.state.trainings[id] = training_record(report.history, self.task.train)

    def _deployed(self, parent: str | None) -> Path | None:
        if parent is None or self.target.runtime != "onnxruntime":
            return None
        return self.state.made / parent / "model.onnx"
