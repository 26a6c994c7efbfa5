"""The executor: from a family, a task, a target and a budget to a frontier on disk."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sartor.compress.prune import PruneConfig
from sartor.core import (
    Budget,
    Family,
    FamilyError,
    Frontier,
    Move,
    Point,
    Recipe,
    Target,
    Task,
)
from sartor.core.files import sha256
from sartor.core.registry import attribute, moves
from sartor.fit.planner import Scored, Variant, helps, judge, promising, variants
from sartor.fit.processes import is_main, leave_group, meet
from sartor.fit.progress import Progress
from sartor.fit.settings import FitSettings
from sartor.fit.state import RunState, open_run
from sartor.fit.stitching import score, stitch_family, train_stitched
from sartor.fit.threads import training_threads
from sartor.fit.workshop import Workshop
from sartor.measure import environment
from sartor.moves.anchor import AnchorMove
from sartor.moves.prune import PruneMove
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
            {**entry, "params": _params(m.model)}
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
            with training_threads(_params(self.family.models[-1])):
                finished = self._stages(main)
        finally:
            self.state.seconds = time.monotonic() - self.began
            if main:
                self.state.save()
                frontier = self.publish(complete=finished)
        return frontier

    def _stages(self, main: bool) -> bool:
        if main:
            self._anchors()
        if len(self.family) > 1 and "sn-net" in self.settings.moves:
            self._stitched(main)
        if not main:
            raise SystemExit(0)
        self._variants()
        self._measure([*self.state.candidates], again=True)
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
        self.publish(complete=False)

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
            self.workshop.make(one.name, move, net, recipe, None)
            self.progress.advance(one.name)

    def _variants(self) -> None:
        """Try every move on the largest anchor first; where it helps there, try it on the
        others.
        """
        scout = self._anchor_ids()[-1]
        tried = self._propose(scout)
        self.progress.begin("moves on the largest anchor", len(tried))
        for variant in tried:
            self._apply(variant)
        self._measure([scout, *(v.id for v in tried if v.id in self.state.candidates)])
        for variant in tried:
            self._learn(variant, scout)
        parents = [
            id for id, c in self.state.candidates.items() if c.parent is None and id != scout
        ]
        parents.sort(key=lambda id: -_params_of(self.state, id))
        rest = [v for id in parents for v in self._propose(id)]
        pruned = [v for v in (*tried, *rest) if v.move == "prune"]
        self.progress.begin("moves", len(rest))
        for variant in rest:
            self._apply(variant)
        rest = [
            v for one in pruned if one.id in self.state.candidates for v in self._propose(one.id)
        ]
        self.progress.begin("moves on pruned models", len(rest))
        for variant in rest:
            self._apply(variant)

    def _propose(self, id: str) -> list[Variant]:
        applied = self.state.candidates[id].recipe.moves
        settings = self.settings
        proposed = variants(id, applied, settings.moves, self.target.runtime, settings.prune_ratios)
        return [v for v in proposed if _kind(v) not in self.state.barred]

    def _apply(self, variant: Variant) -> None:
        late = time.monotonic() > self.began + 0.85 * self.settings.seconds
        if not (self.settings.seconds and late):
            parent = self.state.candidates[variant.parent]
            move = _move(variant)
            model = (
                self.workshop.model(variant.parent) if not move.artifact else torch.nn.Identity()
            )
            self.workshop.make(variant.id, move, model, parent.recipe, variant.parent)
        self.progress.advance(variant.id)

    def _learn(self, variant: Variant, scout: str) -> None:
        """Bar a move for the rest of the run if it failed, or gained nothing, on the largest
        anchor.
        """
        if variant.id in self.state.failures:
            self.state.barred[_kind(variant)] = self.state.failures[variant.id]
        elif variant.id in self.state.candidates:
            child, parent = (self.state.candidates[i].point().values for i in (variant.id, scout))
            useful, said = helps(child, parent)
            if not useful:
                self.state.barred[_kind(variant)] = (
                    f"neither faster nor smaller on this target: {said}"
                )
        self.state.save()

    def _measure(self, ids: Sequence[str], again: bool = False) -> None:
        """Measure side by side; ``again`` measures all anew, so that the final numbers come from
        one run.
        """
        if again or any(self.state.candidates[id].measurement is None for id in ids):
            self.progress.begin("measuring", len(ids))
            self.workshop.measure(ids, self.progress.advance)

    def _anchor_ids(self) -> list[str]:
        return [point_id(member.name) for member in self.family]

    def publish(self, *, complete: bool) -> Frontier:
        """Write the frontier of all that was measured: files of its points first, then
        ``frontier.json``.
        """
        measured = [c.point() for c in self.state.candidates.values() if c.measurement]
        judged = judge(measured, self.costs)
        anchors = [
            replace(p, status="anchor", reason="") for p in judged if p.id in self._anchor_ids()
        ]
        points = [self._with_files(p) for p in judged if p.status == "frontier"]
        others = [p for p in judged if p.status != "frontier" and p.id not in self._anchor_ids()]
        points.sort(key=lambda p: p.values[self.costs[0]])
        frontier = Frontier(
            task={
                "name": self.task.name,
                "metric": self.task.metric,
                "input_shape": list(self.task.input_shape),
            },
            target=self.target,
            points=tuple(points),
            anchors=tuple(anchors),
            others=tuple(others),
            costs=self.costs,
            budget=self.budget,
            environment=environment(),
            settings=self.settings.to_dict(),
            notes=self._notes(),
            seconds=self.state.seconds,
            complete=complete,
        )
        if anchors:
            frontier.save(self.folder)
            for stale in (self.folder / "points").glob("*"):
                if stale.name not in {p.id for p in points}:
                    shutil.rmtree(stale)
        return frontier

    @property
    def costs(self) -> tuple[str, ...]:
        """What accuracy is weighed against: the settings' costs, then those that the budget
        bounds.
        """
        return tuple(dict.fromkeys((*self.settings.costs, *self.budget.costs)))

    def _with_files(self, point: Point) -> Point:
        """Copy a candidate's files to ``points/<id>`` and note their checksums."""
        folder = self.folder / "points" / point.id
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for path in sorted((self.state.made / point.id).iterdir()):
            shutil.copyfile(path, folder / path.name)
            digests[path.name] = sha256(folder / path.name)
        return replace(point, files=digests, folder=folder)

    def _notes(self) -> tuple[str, ...]:
        barred = [
            f"{move} was tried on the largest anchor only: {why}"
            for move, why in self.state.barred.items()
        ]
        failed = [f"{id} failed: {why}" for id, why in self.state.failures.items()]
        return (*self.task.notes, *barred, *failed)


def _params(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _params_of(state: RunState, id: str) -> float:
    return float((state.made / id / "model.safetensors").stat().st_size)


def _kind(variant: Variant) -> str:
    return f"{variant.move} {variant.ratio:g}" if variant.ratio else variant.move


def _move(variant: Variant) -> Move:
    if variant.move == "prune":
        return PruneMove(config=PruneConfig(ratio=variant.ratio))
    kind: type[Move] = attribute(moves()[variant.move].move)
    return kind()
