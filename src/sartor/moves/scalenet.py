"""ScaleNet in ``fit``: one more anchor, made by deepening a model of the family."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.core import (
    Family,
    Member,
    Move,
    MoveContext,
    MoveReport,
    MoveResult,
    Recipe,
    RecipeError,
    Step,
)
from sartor.core.files import write_json
from sartor.core.schema import Shape, check_keys
from sartor.measure import count_params
from sartor.moves.replay import describe_base
from sartor.stitch.scalenet import ScaleNetConfig, count_executed_params, scale_depth
from sartor.train import save_tensors

__all__ = ["ScaleNetMove", "deepen", "save_member"]

_KINDS: Shape = {
    "num_layers": (int, type(None)),
    "mapping": (str, list),
    "adapter": (str, type(None)),
    "rank": int,
    "scale": (int, float),
    "private_norm": bool,
    "drop_path": (int, float, type(None)),
    "blocks": str,
    "seed": int,
}


@dataclass(frozen=True, kw_only=True)
class ScaleNetMove(Move):
    """Repeat blocks with shared weights.

    It follows no other move, so that ``fit`` never proposes it: it makes no model cheaper. It makes
    anchors, through :func:`deepen`, and recipes replay it.
    """

    id: ClassVar[str] = "scalenet"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset()

    config: ScaleNetConfig = field(default_factory=ScaleNetConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Deepen a copy and train it briefly."""
        deep = scale_depth(model, self.config)
        context.recover(deep)
        step = Step(move=self.id, config=asdict(self.config))
        report = MoveReport(before=_counts(model), after=_counts(deep))
        return MoveResult(model=deep, step=step, report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Deepen the model again."""
        if isinstance(base, Family):
            raise RecipeError("The recipe deepens before any model is chosen; fit again.")
        check_keys(step.config, "The recipe's scalenet", {}, _KINDS)
        check_keys(step.plan, "The recipe's scalenet", {}, {})
        return scale_depth(base, ScaleNetConfig(**step.config))


def deepen(member: Member, config: ScaleNetConfig | None = None, *, name: str = "") -> Member:
    """Make a deeper member of a family, whose recipes say how it was made.

    Args:
        member: of the family; it is left as it is.
        config: see :func:`~sartor.stitch.scalenet.scale_depth`.
        name: of the new member; empty for ``<old>-deep``.

    Returns:
        A member in eval mode that is to be trained, and then given to ``fit`` beside the old one.

    Raises:
        FamilyError: the model has no blocks that can be repeated.
        RecipeError: the config does not fit the model.

    Example:
        >>> from sartor.testing import tiny_vit_family
        >>> small, *_ = tiny_vit_family()
        >>> deep = deepen(small, ScaleNetConfig(rank=4))
        >>> deep.name, len(deep.model.blocks)
        ('vit-8-deep', 4)
    """
    config = config or ScaleNetConfig()
    steps = (Step(move="anchor", plan={"index": 0}), Step(move="scalenet", config=asdict(config)))
    recipe = Recipe(base=describe_base(Family((member,))), steps=steps)
    return replace(
        member,
        name=name or f"{member.name}-deep",
        model=scale_depth(member.model, config).eval(),
        source={"kind": "recipe", "recipe": recipe.to_dict()},
    )


def save_member(member: Member, folder: str | Path) -> Path:
    """Write a deepened member as a checkpoint folder, which ``--models`` and ``load_family`` take.

    Args:
        member: what :func:`deepen` made, trained.
        folder: gets ``recipe.json`` and ``model.safetensors``.

    Raises:
        RecipeError: the member was not made by a recipe.
    """
    recipe = member.source.get("recipe")
    if recipe is None:
        raise RecipeError(
            f"The model {member.name!r} was not made by a recipe but is of the kind "
            f"{member.source.get('kind')!r}; name it to fit as it is."
        )
    path = Path(folder)
    save_tensors(member.model.state_dict(), path / "model.safetensors")
    write_json(path / "recipe.json", recipe)
    return path


def _counts(model: nn.Module) -> dict[str, float]:
    """Stored and executed parameters, and how many stored ones there are to an executed one."""
    stored, executed = count_params(model), count_executed_params(model)
    return {
        "params": float(stored),
        "executed_params": float(executed),
        "params_per_executed": stored / executed,
    }
