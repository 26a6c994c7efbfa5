"""Progressive meta-pooling learning: weights and choices in one training.

Source: as in :mod:`sartor.nn.meta_pooling.layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import NoEffectError, TrainingError
from sartor.core.files import read_json, write_json
from sartor.core.schema import check_keys
from sartor.nn.architecture_step import ArchitectureAdam
from sartor.nn.meta_pooling.layer import meta_poolings

__all__ = ["PMPL", "load_choices", "save_choices"]


class PMPL:
    """The search beside a training loop: each step learns the mixtures from a validation batch,
    then the loop learns the weights from a training batch.

    Blocks whose most probable pooling leads by the threshold are fixed to it by :meth:`maybe_fix`;
    from epoch ``floor(resolve_at * total_epochs)`` on :meth:`end_epoch` leaves every other block
    its two most probable poolings, summed.

    Args:
        model: with meta-poolings.
        total_epochs: of the training, at least 1.
        arch_lr: of Adam, above 0.
        weight_decay: of the mixtures, at least 0.
        resolve_at: share of the training, in (0, 1].
        loss: (outputs, targets) -> scalar.

    Raises:
        NoEffectError: nothing in the model is searched.
        TrainingError: a number is out of range.

    Example:
        >>> search = PMPL(model, total_epochs=9)  # doctest: +SKIP
        >>> optimizer = torch.optim.SGD(search.weights(), lr=0.05)  # doctest: +SKIP
        >>> search.arch_step(*held_out)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        total_epochs: int,
        arch_lr: float = 3e-4,
        weight_decay: float = 1e-3,
        resolve_at: float = 2 / 3,
        loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        if total_epochs < 1 or not arch_lr > 0 or weight_decay < 0 or not 0 < resolve_at <= 1:
            raise TrainingError(
                "The search takes total_epochs >= 1, arch_lr > 0, weight_decay >= 0 and resolve_at "
                f"in (0, 1], got {total_epochs}, {arch_lr}, {weight_decay} and {resolve_at}."
            )
        self.model, self.loss = model, loss
        self.resolve_epoch = int(resolve_at * total_epochs + 1e-9)
        if not self.alphas:
            raise NoEffectError(
                "No meta-pooling of the model is undecided; insert some with insert_meta_pooling."
            )
        self.adam = ArchitectureAdam(self.alphas, lr=arch_lr, weight_decay=weight_decay)

    @property
    def alphas(self) -> list[nn.Parameter]:
        """Of the blocks that are still searched."""
        return [m.alpha for m in meta_poolings(self.model).values() if m.alpha is not None]

    def weights(self) -> list[nn.Parameter]:
        """Everything but the mixtures, for the optimiser of the weights."""
        mixtures = {id(alpha) for alpha in self.alphas}
        return [p for p in self.model.parameters() if id(p) not in mixtures]

    def arch_step(self, inputs: Tensor, targets: Tensor) -> None:
        """Learn the mixtures from a validation batch; nothing is left to learn once all are fixed.

        The batch must come from images that neither train the weights nor test the net.
        """
        live = self.alphas
        if live:
            self.adam.step(self.loss(self.model(inputs), targets), live)

    def maybe_fix(self) -> dict[str, tuple[str, ...]]:
        """Fix the blocks that are decided; return them with their choices."""
        made = {}
        for name, layer in meta_poolings(self.model).items():
            if not layer.fixed and layer.decided:
                layer.fix(layer.choice)
                made[name] = layer.choice
        return made

    def end_epoch(self, epoch: int) -> dict[str, tuple[str, ...]]:
        """Say that an epoch is done, counted from 1; return the blocks that it decided."""
        if epoch < self.resolve_epoch:
            return {}
        made = {}
        for name, layer in meta_poolings(self.model).items():
            if not layer.fixed:
                layer.fix([*layer.probs][:2])
                made[name] = layer.choice
        return made

    def export(self) -> dict[str, tuple[str, ...]]:
        """Dotted name of each block -> its poolings; for
        :func:`~sartor.nn.meta_pooling.layer.apply_choices`.
        """
        return {name: layer.choice for name, layer in meta_poolings(self.model).items()}


def save_choices(choices: Mapping[str, Sequence[str]], path: Path) -> None:
    """Write what :meth:`PMPL.export` gave as JSON."""
    write_json(path, {"choices": {name: list(names) for name, names in choices.items()}})


def load_choices(path: Path) -> dict[str, tuple[str, ...]]:
    """Inverse of :func:`save_choices`.

    Raises:
        RecipeError: the file has other entries.
    """
    value = read_json(path)
    check_keys(value, "The file of choices", {"choices": dict}, {})
    found: dict[str, Any] = value["choices"]
    check_keys(found, "The choices", dict.fromkeys(found, list), {})
    return {name: tuple(map(str, names)) for name, names in found.items()}
