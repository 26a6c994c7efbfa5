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
    Elastic,
    Engine,
    Family,
    FamilyError,
    Frontier,
    Recipe,
    Target,
    Task,
)
from sartor.fit.composing import Composer
from sartor.fit.elastic import score, train_elastic
from sartor.fit.planner import Scored, promising
from sartor.fit.processes import is_main, leave_group, meet
from sartor.fit.progress import Progress
from sartor.fit.publish import publish, write_pages
from sartor.fit.settings import FitSettings
from sartor.fit.state import RunState, open_run
from sartor.fit.threads import training_threads
from sartor.fit.workshop import Workshop
from sartor.measure import count_flops, count_params
from sartor.moves.anchor import AnchorMove
from sartor.moves.replay import describe_base
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
    changes = len(settings.prune_ratios)
    changes += sum(move != "prune" and not move.startswith("int8") for move in settings.moves)
    models = (settings.routes + len(family)) * (1 + 2 * changes)
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
        engine = self._engine()
        net = engine.build(self.family, self.task) if engine else None
        return {
            "task": self.task.name,
            "target": str(self.target),
            "budget": str(self.budget),
            "models": models,
            "configurations": len(net.configs) if net else 0,
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
            self.workshop.weigh_step()
        engine = self._engine()
        if engine:
            self._elastic(engine, main)
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

    def _engine(self) -> Engine | None:
        return self.settings.make_engine() if len(self.family) > 1 else None

    def _elastic(self, engine: Engine, main: bool) -> None:
        """Train the elastic net, score its configurations, and make models of the promising
        ones.
        """
        net = engine.build(self.family, self.task)
        folder = self.folder / "state" / "training"
        if engine.trains and not self.state.scores:
            self._train(engine, net, folder)
        leave_group()
        if not main:
            return
        if engine.trains and self.state.scores:
            load_checkpoint(folder, net)
        if not self.state.scores:
            among = engine.shortlist(net)
            self.progress.begin("ranking", len(net.configs) if among is None else len(among))
            scored = score(net, self.task, self.progress, among)
            self.state.scores = [vars(one) for one in scored]
            self.state.save()
        chosen = promising([Scored(**s) for s in self.state.scores], self.settings.routes)
        self.progress.begin("routes", len(chosen))
        recipe = Recipe(base=describe_base(self.family))
        for one in chosen:
            id = f"{engine.prefix}.{one.name}"
            self.workshop.make(id, engine.take(one.index), net, recipe, None)
            self.progress.advance(one.name)

    def _train(self, engine: Engine, net: Elastic, folder: Path) -> None:
        self.progress.begin("training", self.settings.epochs)
        until = self.began + 0.6 * self.settings.seconds if self.settings.seconds else math.inf
        history = train_elastic(net, engine, self.workshop, folder, self.progress, until)
        if history.stopped:
            self.progress.say(
                f"Training stopped after {len(history.losses)} epochs, as --seconds asks."
            )

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
