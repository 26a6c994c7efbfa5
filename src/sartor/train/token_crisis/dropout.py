"""Late dropout: none while a run learns what is new, some when it begins to repeat.

Source: Xue et al., NeurIPS 2023, arXiv 2305.13230, section on the dropout schedule: dropout that is
    switched on late ends as well as dropout from the start, and learns faster early on. Deviations:
the paper switches on at a number of epochs that it searched; here a share of the steps. A ramp, if
asked for, has four stairs, as each new rate makes a compiled model compile again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from sartor.core.errors import ArtifactError, NoEffectError, RecipeError
from sartor.train.token_crisis.sites import dropout_sites, insertable

__all__ = ["DropoutSchedule", "dropout_rate"]

STAIRS = 4


def dropout_rate(
    step: int, total_steps: int, *, rate: float = 0.1, start: float = 0.5, ramp_steps: int = 0
) -> float:
    """The rate at a step: 0, then ``rate``; between them four equal stairs, if there is a ramp.

    Args:
        step: from 0.
        total_steps: of the training, at least 1.
        rate: in [0, 1).
        start: share of the steps without dropout, in [0, 1].
        ramp_steps: steps from the first stair to the full rate, at least 0.

    Raises:
        RecipeError: a number is out of range.

    Example:
        >>> [dropout_rate(step, 4, rate=0.2) for step in range(4)]
        [0.0, 0.0, 0.2, 0.2]
        >>> [round(dropout_rate(step, 8, rate=0.2, ramp_steps=4), 2) for step in range(3, 9)]
        [0.0, 0.05, 0.1, 0.15, 0.2, 0.2]
    """
    if not 0 <= rate < 1 or not 0 <= start <= 1 or total_steps < 1 or min(step, ramp_steps) < 0:
        raise RecipeError(
            "A dropout schedule takes rate in [0, 1), start in [0, 1], total_steps >= 1, "
            f"ramp_steps >= 0 and step >= 0, got {rate}, {start}, {total_steps}, {ramp_steps} and "
            f"{step}."
        )
    since = step - start * total_steps
    if since < 0:
        return 0.0
    if since >= ramp_steps:
        return rate
    return rate * (math.floor(since * STAIRS / ramp_steps) + 1) / STAIRS


class DropoutSchedule:
    """Sets the dropout of a model before each step, as a function of the step's number alone.

    It is an ``on_step`` callback of :func:`sartor.train.train`, and a call at the head of each step
    of any other loop. Every process does the same, and a resumed run needs only the number.

    Args:
        model: its sites are found once, here.
        total_steps: of the training, at least 1.
        rate: from the switch on, in [0, 1).
        start: share of the steps without dropout, in [0, 1].
        ramp_steps: see :func:`dropout_rate`.
        attributes: see :func:`dropout_sites`.
        targets: likewise.
        drop_path: likewise.

    Raises:
        RecipeError: a number is out of range.
        NoEffectError: the model has no dropout to switch; says where it could be inserted.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
        >>> schedule = DropoutSchedule(model, total_steps=10, rate=0.2)
        >>> schedule(4), model[1].p, schedule(5), model[1].p
        (0.0, 0.0, 0.2, 0.2)
        >>> schedule.restore()
        >>> model[1].p
        0.3
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        total_steps: int,
        rate: float = 0.1,
        start: float = 0.5,
        ramp_steps: int = 0,
        attributes: Iterable[str] = (),
        targets: str | Sequence[str] = "*",
        drop_path: bool = False,
    ) -> None:
        self.settings = {
            "total_steps": total_steps,
            "rate": rate,
            "start": start,
            "ramp_steps": ramp_steps,
        }
        self.sites = dropout_sites(
            model, attributes=attributes, targets=targets, drop_path=drop_path
        )
        first = self.rate_at(0)
        if not self.sites:
            raise NoEffectError(
                "The model has no dropout that a schedule could switch; insert_dropout_(model, "
                f"targets) inserts it: {insertable(model)}"
            )
        self._before = [site.rate for site in self.sites]
        self._step = 0
        self._set(first)

    def rate_at(self, step: int) -> float:
        """The rate at a step, which is set by calling the schedule with it."""
        return dropout_rate(step, **self.settings)  # type: ignore[arg-type]

    def __call__(self, step: int) -> float:
        """Set the rate of a step, and return it; only a change touches the modules."""
        self._set(rate := self.rate_at(step))
        self._step = step
        return rate

    def _set(self, rate: float) -> None:
        for site in self.sites:
            if site.rate != rate:
                site.set(rate)

    def restore(self) -> None:
        """Give every site the rate that it had before the schedule."""
        for site, rate in zip(self.sites, self._before, strict=True):
            site.set(rate)

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready: the settings, the last step, the rates from before."""
        return {**self.settings, "step": self._step, "before": list(self._before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the step that was saved, with its rate set.

        Raises:
            ArtifactError: the state is of a schedule with other settings or sites.
        """
        saved = {key: state.get(key) for key in self.settings}
        before = state.get("before", [])
        if saved != self.settings or len(before) != len(self.sites):
            raise ArtifactError(
                f"The saved dropout schedule has {saved} and {len(before)} sites, this one "
                f"{self.settings} and {len(self.sites)}; build it with the saved settings."
            )
        self._before = [float(rate) for rate in before]
        self(int(state["step"]))
