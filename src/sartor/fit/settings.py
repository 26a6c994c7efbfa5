"""Settings of a run of ``fit``: one frozen object, written into the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sartor.core.engine import Engine
from sartor.core.errors import RecipeError, nearest
from sartor.core.registry import attribute, engines, moves
from sartor.fit.saving import SAVINGS
from sartor.losses import DISTILLERS

__all__ = ["FitSettings"]

_COSTS = ("latency_ms", "size_bytes", "params", "flops")


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a family is turned into a frontier.

    Attributes:
        engine: slug of the method that makes the family elastic; ``none``: no method does.
        epochs: of the joint training of the stitched net, at least 0.
        lr: highest learning rate of that training, above 0; ``None``: the engine's.
        weight_decay: of AdamW, at least 0.
        alpha: weight of the largest anchor's word against the labels, in [0, 1].
        kernel_size: stitching window, at least 1.
        stride: distance of stitching windows, at least 1.
        nearest: stitch neighbouring anchors only.
        init_samples: training inputs for the least-squares initialisation, at least 1.
        routes: how many configurations of the stitched net are turned into models of their own, at
            least 1.
        prune_ratios: shares of units to remove, each in (0, 1).
        recovery: how a changed model learns from the largest anchor: ``auto``, or a name in
            ``sartor.losses.DISTILLERS``: ``soft``, ``hard``, ``vanilla``, ``manifold``. Where
            there are no classes it is the outputs themselves.
        recovery_epochs: of that training, at least 0.
        recovery_lr: highest learning rate of that training, above 0.
        moves: which moves may be composed on a model.
        costs: what accuracy is weighed against, beside the costs that the budget bounds.
        precision: of training: ``no``, ``bf16`` or ``fp16``.
        save: what every training is to save, any of ``data`` (samples that are learned already),
            ``memory`` (activations) and ``steps`` (larger batches, with Muon).
        seconds: wall time after which nothing new is begun; 0 means no limit.
        seed: of every random choice.
    """

    engine: str = "sn-net"
    epochs: int = 10
    lr: float | None = None
    weight_decay: float = 0.05
    alpha: float = 0.5
    kernel_size: int = 2
    stride: int = 1
    nearest: bool = True
    init_samples: int = 100
    routes: int = 8
    prune_ratios: tuple[float, ...] = (0.25, 0.5)
    recovery: str = "auto"
    recovery_epochs: int = 2
    recovery_lr: float = 2e-3
    moves: tuple[str, ...] = ("prune", "int8-dynamic", "int8-static")
    costs: tuple[str, ...] = ("latency_ms",)
    precision: str = "no"
    save: tuple[str, ...] = ()
    seconds: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 0),
            ("recovery_epochs", 0),
            ("routes", 1),
            ("init_samples", 1),
        ):
            if getattr(self, name) < low:
                raise RecipeError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        rates = [rate for rate in (self.lr, self.recovery_lr) if rate is not None]
        if not 0 <= self.alpha <= 1 or min(rates) <= 0 or self.seconds < 0:
            raise RecipeError(
                "fit takes alpha in [0, 1], lr and recovery_lr > 0 and seconds >= 0, got "
                f"{self.alpha}, {self.lr}, {self.recovery_lr}, {self.seconds}."
            )
        if any(not 0 < ratio < 1 for ratio in self.prune_ratios):
            raise RecipeError(f"Pruning ratios must lie in (0, 1), got {self.prune_ratios}.")
        composable = tuple(slug for slug, row in moves().items() if attribute(row.move).after)
        for given, legal in (
            ((self.engine,), ("none", *engines())),
            (self.moves, composable),
            (self.costs, _COSTS),
            ((self.recovery,), ("auto", *DISTILLERS)),
            (self.save, SAVINGS),
        ):
            for word in given:
                if word not in legal:
                    raise RecipeError(f"fit does not know {word!r}; {nearest(word, legal)}")

        if "data" in self.save and 1 in (self.epochs, self.recovery_epochs):
            raise RecipeError(
                "--save data leaves out what an earlier epoch has taught, so it needs epochs and "
                f"recovery_epochs of 2 or more, got {self.epochs} and {self.recovery_epochs}."
            )

    def make_engine(self) -> Engine | None:
        """The engine with these settings; ``None`` if there is none."""
        if self.engine == "none":
            return None
        kind = attribute(engines()[self.engine].engine)
        engine: Engine = kind(**{field.name: getattr(self, field.name) for field in fields(kind)})
        return engine

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FitSettings:
        """Inverse of :meth:`to_dict`.

        Raises:
            RecipeError: a key is unknown; the nearest legal one is named.
        """
        legal = [field.name for field in fields(cls)]
        for key in value:
            if key not in legal:
                raise RecipeError(f"fit has no setting {key!r}; {nearest(key, legal)}")
        typed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        return cls(**typed)
