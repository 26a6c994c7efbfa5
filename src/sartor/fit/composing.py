"""The composing stage of a run: moves on models, tried first where they have most to gain."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sartor.compress.prune import PruneConfig
from sartor.core import Move
from sartor.core.registry import attribute, moves
from sartor.fit.planner import Variant, helps, twins, variants
from sartor.fit.progress import Progress
from sartor.fit.workshop import Workshop
from sartor.moves.prune import PruneMove
from sartor.train import tensor_shapes

__all__ = ["Composer"]


@dataclass(frozen=True, kw_only=True)
class Composer:
    """Composes moves on the candidates of a run.

    Attributes:
        workshop: makes and measures.
        progress: is told.
        late: whether nothing new may be begun.
    """

    workshop: Workshop
    progress: Progress
    late: Callable[[], bool]

    def compose(self, scout: str) -> None:
        """Try every move on ``scout``; those that help there on all others; then again on what they
        changed. Of models that differ in their weights alone, the first is pruned.
        """
        state = self.workshop.state
        tried = self._propose([scout])
        self._apply("moves on the largest anchor", tried)
        made = [scout, *(v.id for v in tried if v.id in state.candidates)]
        if any(state.candidates[id].measurement is None for id in made):
            self.workshop.measure(made)
        for variant in tried:
            self._learn(variant)
        others = [c for c in state.candidates.values() if c.parent is None and c.id != scout]
        others.sort(key=lambda c: -(c.folder / "model.safetensors").stat().st_size)
        rest = self._propose([c.id for c in others], twins(self._shapes(scout)))
        self._apply("moves", rest)
        changed = [v.id for v in (*tried, *rest) if v.id in state.candidates]
        self._apply("moves on changed models", self._propose(changed))

    def _shapes(self, scout: str) -> dict[str, Hashable]:
        """Shapes of each model's tensors, the scout's first; empty if nothing is trained again."""
        if not self.workshop.settings.recovery_epochs:
            return {}
        made = self.workshop.state.candidates
        starts = [scout, *(id for id, c in made.items() if c.parent is None and id != scout)]
        return {id: tensor_shapes(made[id].folder / "model.safetensors") for id in starts}

    def _propose(self, ids: Sequence[str], twin: Mapping[str, str] | None = None) -> list[Variant]:
        settings, target = self.workshop.settings, self.workshop.target
        proposed: list[Variant] = []
        for id in ids:
            applied = self.workshop.state.candidates[id].recipe.moves
            proposed += variants(id, applied, settings.moves, target.runtime, settings.prune_ratios)
        return [
            v
            for v in proposed
            if _kind(v) not in self.workshop.state.barred
            and not (v.move == "prune" and twin and v.parent in twin)
        ]

    def _apply(self, stage: str, proposed: Sequence[Variant]) -> None:
        self.progress.begin(stage, len(proposed))
        for variant in proposed:
            if not self.late():
                parent = self.workshop.state.candidates[variant.parent]
                move = _move(variant)
                model = nn.Identity() if move.artifact else self.workshop.model(variant.parent)
                self.workshop.make(variant.id, move, model, parent.recipe, variant.parent)
            self.progress.advance(variant.id)

    def _learn(self, variant: Variant) -> None:
        """Bar a move for the rest of the run if it failed, or gained nothing, on the largest
        anchor.
        """
        state = self.workshop.state
        if variant.id in state.failures:
            state.barred[_kind(variant)] = state.failures[variant.id]
        elif variant.id in state.candidates:
            child, parent = (
                state.candidates[id].point().values for id in (variant.id, variant.parent)
            )
            useful, said = helps(child, parent)
            if not useful:
                state.barred[_kind(variant)] = said
        state.save()


def _kind(variant: Variant) -> str:
    return f"{variant.move} {variant.ratio:g}" if variant.ratio else variant.move


def _move(variant: Variant) -> Move:
    if variant.move == "prune":
        return PruneMove(config=PruneConfig(ratio=variant.ratio))
    kind: type[Move] = attribute(moves()[variant.move].move)
    return kind()
