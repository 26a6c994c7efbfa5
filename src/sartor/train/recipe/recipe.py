"""A recipe: which of the known ways to train for less are switched on, as one object.

Source: Bohan Zhuang, Jing Liu, Zizheng Pan, Haoyu He, Yuetian Weng, Chunhua Shen, "A Survey on
    Efficient Training of Transformers", IJCAI 2023, arXiv 2302.01107: the catalogue. Deviations:
what torch, timm, torchao and accelerate do is called and not written again; initialisation tricks
(ReZero, Fixup), SAM and sparse training are no switches here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sartor.core.errors import RecipeError, nearest
from sartor.train.progressive import ProgressiveSchedule
from sartor.train.recipe.options import CONFLICTS, OPTIONS, Option, option_name

__all__ = ["Recipe"]

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a training cheaper; the default is the plain training.

    Attributes:
        precision: ``no``, ``bf16`` or ``fp16``: of the forward pass.
        compile: whether the model is compiled.
        checkpointing: ``blocks``: repeated blocks are computed again in the backward pass;
            ``selective``: all of them but their matrix products.
        activations: how they are kept for the backward pass: ``exact``, ``mesa`` (in 8 bits) or
            ``offload`` (in the memory of the CPU).
        optimizer: ``adamw``, ``came``, ``adafactor``, ``lion``, ``lamb``, ``lars``, ``muon``,
            ``adamw8bit``, ``adamw4bit`` or ``adamwfp8``.
        lr_scale: factor of the settings' learning rate, above 0; optimisers differ in what they
            want (Lion a third to a tenth of AdamW's).
        data_pruning: ``infobatch`` leaves out samples that are learned already.
        batch_factor: batches that are joined into one, at least 1; the learning rate grows with its
            square root (Adam and its kin) or with it (LARS), after one epoch of warm-up.
        embeddings: ``cowclip`` clips the gradients of embedding tables by how often ids occur.
        token_drop: share of the patch tokens that a ViT drops, in [0, 1).
        token_drop_until: share of the training after which it sees all of them, in (0, 1].
        late_dropout: rate of the dropout that is switched on late, in [0, 1); 0 leaves it alone.
        late_dropout_start: share of the training without it, in [0, 1].
        progressive: size of the inputs over the training.

    Raises:
        RecipeError: a value is unknown or out of range, or two switches contradict each other.

    Example:
        >>> recipe = Recipe(data_pruning="infobatch", optimizer="came", lr_scale=0.5)
        >>> list(recipe.active())
        ['optimizer=came', 'data_pruning=infobatch']
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
    """

    precision: str = "no"
    compile: bool = False
    checkpointing: str = "no"
    activations: str = "exact"
    optimizer: str = "adamw"
    lr_scale: float = 1.0
    data_pruning: str = "no"
    batch_factor: int = 1
    embeddings: str = "plain"
    token_drop: float = 0.0
    token_drop_until: float = 0.8
    late_dropout: float = 0.0
    late_dropout_start: float = 0.5
    progressive: ProgressiveSchedule | None = None

    def __post_init__(self) -> None:
        self._check_words()
        self._check_numbers()
        on = self.active()
        for one, other, why in CONFLICTS:
            pair = [name for name in on if name.startswith(one)]
            rival = [name for name in on if name.startswith(other) and name not in pair]
            if pair and rival:
                raise RecipeError(
                    f"{pair[0]} and {rival[0]} contradict each other: {why}; leave one of them out."
                )

    def _check_words(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(field.default, str):
                continue
            others = [name.split("=")[1] for name in OPTIONS if name.startswith(f"{field.name}=")]
            legal = (field.default, *others)
            if value not in legal:
                raise RecipeError(
                    f"A recipe's {field.name} cannot be {value!r}; {nearest(str(value), legal)}"
                )

    def _check_numbers(self) -> None:
        shares = (self.token_drop, self.late_dropout)
        if any(not 0 <= share < 1 for share in shares):
            raise RecipeError(
                f"token_drop and late_dropout must lie in [0, 1), got {shares[0]} and {shares[1]}."
            )
        if not 0 < self.token_drop_until <= 1 or not 0 <= self.late_dropout_start <= 1:
            raise RecipeError(
                "token_drop_until must lie in (0, 1] and late_dropout_start in [0, 1], got "
                f"{self.token_drop_until} and {self.late_dropout_start}."
            )
        if not self.lr_scale > 0 or self.batch_factor < 1:
            raise RecipeError(
                f"lr_scale must be above 0 and batch_factor at least 1, got {self.lr_scale} and "
                f"{self.batch_factor}."
            )

    def active(self) -> dict[str, Option]:
        """What is switched on, with what it saves and who provides it."""
        found = {}
        for field in fields(self):
            value = getattr(self, field.name)
            name = option_name(field.name, value)
            if value != field.default and name in OPTIONS:
                found[name] = OPTIONS[name]
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is off is left out."""
        plain = {field.name: field.default for field in fields(self)}
        return {
            "version": VERSION,
            **{key: value for key, value in asdict(self).items() if value != plain[key]},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Inverse of :meth:`to_dict`.

        Raises:
            RecipeError: a key is unknown, or a newer version wrote it.
        """
        given = dict(value)
        if given.pop("version", VERSION) != VERSION:
            raise RecipeError(
                f"The recipe has version {value['version']!r}, this sartor reads {VERSION}; update "
                "sartor."
            )
        legal = [field.name for field in fields(cls)]
        for key in given:
            if key not in legal:
                raise RecipeError(f"A recipe has no switch {key!r}; {nearest(key, legal)}")
        if given.get("progressive") is not None:
            given["progressive"] = ProgressiveSchedule.from_dict(given["progressive"])
        return cls(**given)
