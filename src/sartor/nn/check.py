"""Whether models form a family: one input shape, one number of classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.family import Family
from sartor.core.modes import eval_mode

__all__ = ["check_family"]


@torch.no_grad()
def check_family(family: Family, example: Tensor, num_classes: int | None) -> None:
    """Run every member on one input and compare what comes out.

    Modes are given back as they were; batch statistics do not change.

    Args:
        family: the models.
        example: one input, (1, ...).
        num_classes: width K of the logits that the task needs; ``None`` asks only that all members
            give outputs of one shape.

    Raises:
        FamilyError: a member does not take the input, or gives other outputs than another member or
            than the task has classes; the two are named.
    """
    outcomes = {member.name: _outcome(member.model, example) for member in family}
    shape = tuple(example.shape[1:])
    failed = {name: text for name, text in outcomes.items() if isinstance(text, str)}
    works = next((name for name in outcomes if name not in failed), None)
    for name, text in failed.items():
        other = f"the model {works!r} takes" if works else "the task has"
        raise FamilyError(
            f"The model {name!r} does not take the inputs of shape {shape} that {other} ({text}); "
            "give models and data of one input size."
        )
    shapes = {name: found for name, found in outcomes.items() if isinstance(found, tuple)}
    first, *others = shapes
    for name in others:
        if shapes[name] != shapes[first]:
            raise FamilyError(
                f"The models {first!r} and {name!r} give outputs of shapes {shapes[first]} and "
                f"{shapes[name]} for one input; give models with the same classes."
            )
    if num_classes is not None and shapes[first] != (1, num_classes):
        raise FamilyError(
            f"The model {first!r} gives outputs of shape {shapes[first]} and the task has "
            f"{num_classes} classes, so (1, {num_classes}) is needed; give models with "
            f"{num_classes} classes."
        )


def _outcome(model: nn.Module, example: Tensor) -> tuple[int, ...] | str:
    """Shape of the output, or why there is none."""
    first = next(model.parameters(), None)
    try:
        with eval_mode(model):
            outputs = model(example if first is None else example.to(first.device))
    except Exception as error:  # a model may raise anything on a wrong shape
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return reason.rstrip(".")
    if not isinstance(outputs, Tensor):
        return f"it returns a {type(outputs).__name__} and not a tensor"
    return tuple(outputs.shape)
