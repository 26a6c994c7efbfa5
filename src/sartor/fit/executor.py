"""The executor: from a family, a task, a target and a budget to a frontier on disk."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor.core import (
    Budget,
    Family,
    FamilyError,
    Frontier,
    Recipe,
    Target,
    Task,
)
from sartor.fit.composing import Composer
from sartor.fit.planner import Scored, promising
from sartor.fit.processes import is_main, leave_group, meet
from sartor.fit.progress import Progress
from sartor.fit.publish import publish, write_pages
from sartor.fit.settings import FitSettings
from sartor.fit.state import RunState, open_run
from sartor.fit.stitching import score, stitch_family, train_stitched
from sartor.fit.threads import training_threads
from sartor.fit.workshop import Workshop
from sartor.measure import count_flops, count_params
from sartor.moves.anchor import AnchorMove
from sartor.moves.replay import describe_base
from sartor.moves.stitch import StitchMove
from sartor.stitch import StitchSettings
from sartor.train import load_checkpoint

__all__ = ["Run", "needed_bytes", "point_id"]


def point_id(name: str) -> str:
    """A name as a folder may be called."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "model"


def needed_bytes(family: Family, settings: FitSettings) -> int:
    """Upper estimate of the disk space of a run: float weights twice (safetensors, ONNX) for each
    model that may be made.
    """
    weights = [4 * sum(p.numel() for p in model.parameters()) for model in family.models]
    mean = sum(weights) / len(weights)
    models = (settings.routes + len(family)) * (1 + 2 * len(settings.prune_ratios))
    return int(2 * mean * models + 6 * sum(weights)) + 20_000_000


@dataclass(kw_only=True)
class Run:
    """One run of ``fit``, with everything parsed."""

    family: Family
    task: Task
    target: Target
    budget: Budget
    settings: FitSettings
    folder: Path
    progress: Progress

    def facts(self) -> dict[str, Any]:
        """What a resumed run must share with the one that began."""
        base = [
            {**entry, "params": count_params(m.model)}
            for entry, m in zip(describe_base(self.family), self.family, strict=True)
        ]
        task = {"name": self.task.name, "input_shape": list(self.task.input_shape)}
        settings = {k: v for k, v in self.settings.to_dict().items() if k != "seconds"}
        facts: dict[str, Any] = {
            "models": base,
            "task": task,
            "target": self.target.to_dict(),
            "settings": settings,
        }
        return facts

    def plan(self) -> dict[str, Any]:
        """What :meth:`execute` would do, without doing it: models with their cost, configurations,
        disk space.
        """
        example = self.task.example[:1]
        models = [
            {
                "name": m.name,
                "params": count_params(m.model),
                "flops": count_flops(m.model, example),
            }
            for m in self.family
        ]
        stitched = len(self.family) > 1 and "sn-net" in self.settings.moves
        net = stitch_family(self.family, self.task, self.settings) if stitched else None
        return {
            "task": self.task.name,
            "target": str(self.target),
            "budget": str(self.budget),
            "models": models,
            "configurations": net.num_configs if net else 0,
            "settings": self.settings.to_dict(),
            "out": str(self.folder),
            "needed_bytes": needed_bytes(self.family, self.settings),
        }

    def execute(self, *, resume: bool = False, overwrite: bool = False) -> Frontier:
        """Do what is not done yet, and return the frontier, which is also on disk.

        Raises:
            SartorError: with one sentence on what is wrong; what was finished stays on disk and is
                resumed.
            KeyboardInterrupt: after the best so far was written.
        """
        main = is_main()
        if main:
            facts, needed = self.facts(), needed_bytes(self.family, self.settings)
            state = open_run(
                self.folder, facts, resume=resume, overwrite=overwrite, needed_bytes=needed
            )
            if (self.folder / "frontier.json").exists():
                done = Frontier.load(self.folder)
                if done.complete and str(done.budget) == str(self.budget):
                    return done
        meet()
        self.state = state if main else RunState.load(self.folder)
        self.workshop = Workshop(self.family, self.task, self.target, self.settings, self.state)
        self.began = time.monotonic() - self.state.seconds
        finished = False
        try:
            with training_threads(count_params(self.family.models[-1])):
                finished = self._stages(main)
        finally:
            self.state.seconds = time.monotonic() - self.began
            if main:
                self.state.save()
                frontier = self._publish(complete=finished)
        return frontier

    def _stages(self, main: bool) -> bool:
        if main:
            self._anchors()
        if len(self.family) > 1 and "sn-net" in self.settings.moves:
            self._stitched(main)
        if not main:
            raise SystemExit(0)
        late = self.began + 0.85 * self.settings.seconds if self.settings.seconds else math.inf
        composer = Composer(
            workshop=self.workshop,
            progress=self.progress,
            late=lambda: time.monotonic() > late,
        )
        composer.compose(self._anchor_ids()[-1])
        self._measure([*self.state.candidates])  # all anew: the final numbers come from one run
        return True

    def _anchors(self) -> None:
        """Evaluate and measure the family as it is: the ruler of all later numbers."""
        self.progress.begin("anchors", len(self.family))
        recipe = Recipe(base=describe_base(self.family))
        for index, member in enumerate(self.family):
            self.workshop.make(
                point_id(member.name), AnchorMove(index=index), member.model, recipe, None
            )
            self.progress.advance(member.name)
        failed = [id for id in self._anchor_ids() if id in self.state.failures]
        if failed:
            raise FamilyError(
                f"The model {failed[0]!r} cannot run on this target: "
                f"{self.state.failures[failed[0]]}"
            )
        self._measure(self._anchor_ids())
        self._publish(complete=False)

    def _stitched(self, main: bool) -> None:
        """Train the stitched net, score its routes, and make models of the promising ones."""
        net = stitch_family(self.family, self.task, self.settings)
        folder = self.folder / "state" / "training"
        if not self.state.scores:
            self.progress.begin("training", self.settings.epochs)
            until = self.began + 0.6 * self.settings.seconds if self.settings.seconds else math.inf
            history = train_stitched(net, self.workshop, folder, self.progress, until)
            if history.stopped:
                self.progress.say(
                    f"Training stopped after {len(history.losses)} epochs, as --seconds asks."
                )
        leave_group()
        if not main:
            return
        if not self.state.scores:
            self.progress.begin("ranking", net.num_configs)
            self.state.scores = [vars(s) for s in score(net, self.task, self.progress)]
            self.state.save()
        else:
            load_checkpoint(folder, net)
        chosen = promising([Scored(**s) for s in self.state.scores], self.settings.routes)
        self.progress.begin("routes", len(chosen))
        recipe = Recipe(base=describe_base(self.family))
        shape = StitchSettings(
            kernel_size=self.settings.kernel_size,
            stride=self.settings.stride,
            nearest=self.settings.nearest,
        )
        for one in chosen:
            move = StitchMove(index=one.index, settings=shape)
            self.workshop.make(f"sn.{one.name}", move, net, recipe, None)
            self.progress.advance(one.name)

    def _measure(self, ids: Sequence[str]) -> None:
        self.progress.begin("measuring", len(ids))
        self.workshop.measure(ids, self.progress.advance)

    def _publish(self, *, complete: bool) -> Frontier:
        frontier = publish(self.workshop, self.budget, self._anchor_ids(), complete=complete)
        if frontier.anchors:
            write_pages(frontier, self.folder, self.progress)
        return frontier

    def _anchor_ids(self) -> list[str]:
        return [point_id(member.name) for member in self.family]
