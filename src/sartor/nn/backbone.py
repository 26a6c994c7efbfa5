"""What timm needs to know about a backbone of sartor's, as a record that needs no timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["Backbone", "official_state"]

#: names under which official checkpoints keep the weights beside other things
_INSIDE = ("model", "state_dict")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One architecture of one size.

    Attributes:
        name: in timm's registry, such as ``litv2_small``.
        model: class or function that makes the model; takes ``kwargs``, ``num_classes`` and
            ``in_chans`` as keywords, and ``img_size`` where ``fixed_input_size``.
        kwargs: arguments that make this size.
        input_size: (C, H, W) of the inputs that the published size was trained on.
        fixed_input_size: whether a model is built for one size of inputs.
        first_conv: dotted name of the convolution that reads the image.
        classifier: dotted name of the layer that gives the logits.
        features: how ``features_only=True`` finds the maps: timm's ``feature_cfg``. By default
            the model's own ``forward_intermediates`` gives four; ``None`` where there are no maps.
        official_key: name of a weight in the authors' checkpoints -> its name here, or ``None`` for
            an entry that is not a weight; a name that it does not know it gives back as it is.
    """

    name: str
    model: Callable[..., nn.Module]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] = (3, 224, 224)
    fixed_input_size: bool = False
    first_conv: str = "patch_embed.proj"
    classifier: str = "head"
    features: Mapping[str, Any] | None = field(
        default_factory=lambda: {"feature_cls": "getter", "out_indices": (0, 1, 2, 3)}
    )
    official_key: Callable[[str], str | None] | None = None


def official_state(
    state: Mapping[str, Any], official_key: Callable[[str], str | None]
) -> dict[str, Tensor]:
    """Rename the weights of an authors' checkpoint; those that have their names here keep them.

    Args:
        state: name -> tensor; a dictionary that keeps it under ``model`` or ``state_dict`` is
            unpacked.
        official_key: as in :class:`Backbone`.

    Raises:
        FamilyError: two weights get one name.

    Example:
        >>> official_state({"model": {"fc.weight": 1}}, lambda key: key.replace("fc", "head"))
        {'head.weight': 1}
    """
    for key in _INSIDE:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    renamed: dict[str, Tensor] = {}
    for old, value in state.items():
        new = official_key(old)
        if new in renamed:
            raise FamilyError(
                f"The checkpoint's entry {old!r} and another are both {new!r} here; give the "
                "authors' file as it was published."
            )
        if new is not None:
            renamed[new] = value
    return renamed
