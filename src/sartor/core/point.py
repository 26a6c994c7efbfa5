"""Points: one model with its recipe, quality and cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sartor.core.errors import ArtifactError
from sartor.core.family import Family
from sartor.core.files import read_json, sha256
from sartor.core.measurement import Measurement
from sartor.core.recipe import Recipe
from sartor.core.registry import attribute
from sartor.core.schema import Shape, check_keys

__all__ = ["Point"]

_REQUIRED: Shape = {
    "id": str,
    "accuracy": (int, float),
    "measurement": dict,
    "recipe": dict,
    "seconds": (int, float),
}
_OPTIONAL: Shape = {"status": str, "reason": str, "parent": (str, type(None)), "files": dict}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model that was made and measured.

    Attributes:
        id: unique within its run; names its folder.
        accuracy: on the task's validation data.
        measurement: cost in the run's target.
        recipe: how it was made.
        seconds: time spent on making it, without what it shares with others (training of the
            stitched net).
        status: ``frontier``, ``anchor``, ``dominated`` or ``dropped``.
        reason: why it is not on the frontier; empty if it is.
        parent: id of the point that its last move was applied to.
        files: name -> SHA-256 of the files in its folder.
        folder: where these files lie; not saved.
    """

    id: str
    accuracy: float
    measurement: Measurement
    recipe: Recipe
    seconds: float
    status: str = "frontier"
    reason: str = ""
    parent: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    @property
    def values(self) -> dict[str, float]:
        """Accuracy and every measured cost, by field name."""
        return {
            "accuracy": self.accuracy,
            **{k: v for k, v in self.measurement.to_dict().items() if v is not None},
        }

    def load_model(
        self, *, family: Family | None = None, factories: Iterable[str] = ()
    ) -> nn.Module:
        """Build the model again by replaying its recipe, and load its weights.

        Args:
            family: the models that it was made from; only needed if these exist in Python alone.
            factories: ``package.module:function`` names that may be imported, if it was made from
                such.

        Returns:
            The module in eval mode, with the outputs that were measured.

        Raises:
            ArtifactError: a file is missing or was changed since it was written.
            RecipeError: the recipe names moves or models that do not exist here.
        """
        if self.folder is None or not self.files:
            raise ArtifactError(
                f"The point {self.id!r} has no files ({self.reason or self.status}); choose a "
                "point of the frontier."
            )
        self.check_files()
        model: nn.Module = attribute("sartor.moves.replay:replay")(
            self.recipe, self.folder, family=family, factories=factories
        )
        return model

    def check_files(self) -> None:
        """Compare every file with the checksum taken when it was written.

        Raises:
            ArtifactError: names the file that is missing or differs.
        """
        folder = self.folder or Path()
        for name, digest in self.files.items():
            path = folder / name
            if Path(name).name != name or not path.is_file():
                raise ArtifactError(
                    f"The file {path} of point {self.id!r} is missing; fit again or restore it."
                )
            if sha256(path) != digest:
                raise ArtifactError(
                    f"The file {path} was changed since it was written; fit again or restore it."
                )
        if self.files and Recipe.from_dict(read_json(folder / "recipe.json")) != self.recipe:
            raise ArtifactError(
                f"The recipe in {folder} is not the one in frontier.json; fit again or restore it."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "id": self.id,
            "status": self.status,
            "reason": self.reason,
            "parent": self.parent,
            "accuracy": self.accuracy,
            "measurement": self.measurement.to_dict(),
            "recipe": self.recipe.to_dict(),
            "seconds": self.seconds,
            "files": dict(self.files),
        }

    @classmethod
    def from_dict(cls, value: Any, points: Path | None = None) -> Point:
        """Inverse of :meth:`to_dict`.

        Args:
            value: JSON fields.
            points: folder in which a point with files has a folder of its own.

        Raises:
            RecipeError: keys or types are not those of a point.
            ArtifactError: the id cannot name a folder.
        """
        check_keys(value, "The frontier's point", _REQUIRED, _OPTIONAL)
        if value["id"] in ("", ".", "..") or Path(value["id"]).name != value["id"]:
            raise ArtifactError(
                f"The point {value['id']!r} has an id that cannot name a folder; fit again."
            )
        folder = points / value["id"] if points and value.get("files") else None
        measurement, recipe = (
            Measurement.from_dict(value["measurement"]),
            Recipe.from_dict(value["recipe"]),
        )
        return cls(**{**value, "measurement": measurement, "recipe": recipe}, folder=folder)
