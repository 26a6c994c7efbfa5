"""The nouns: family, task, target, budget, elastic, move, recipe, point, frontier, measurement."""

from sartor.core.budget import Budget, Constraint
from sartor.core.elastic import Elastic
from sartor.core.engine import Engine
from sartor.core.errors import (
    ArtifactError,
    BudgetError,
    DataError,
    ExportError,
    FamilyError,
    MissingPackageError,
    NoEffectError,
    RecipeError,
    SartorError,
    TargetError,
    TrainingError,
)
from sartor.core.family import Family, Member, Split
from sartor.core.frontier import Frontier, non_dominated
from sartor.core.measurement import Latency, Measurement
from sartor.core.move import Move, MoveContext, MoveReport, MoveResult
from sartor.core.point import Point
from sartor.core.recipe import Recipe, Step
from sartor.core.target import Target
from sartor.core.task import Task

__all__ = [
    "ArtifactError",
    "Budget",
    "BudgetError",
    "Constraint",
    "DataError",
    "Elastic",
    "Engine",
    "ExportError",
    "Family",
    "FamilyError",
    "Frontier",
    "Latency",
    "Measurement",
    "Member",
    "MissingPackageError",
    "Move",
    "MoveContext",
    "MoveReport",
    "MoveResult",
    "NoEffectError",
    "Point",
    "Recipe",
    "RecipeError",
    "SartorError",
    "Split",
    "Step",
    "Target",
    "TargetError",
    "Task",
    "TrainingError",
    "non_dominated",
]
