"""Evidence: what a published system claims, what was measured, and whether the claim held."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sartor.core.errors import RecipeError, nearest
from sartor.core.files import write_json, write_text
from sartor.measure import environment

__all__ = ["Check", "Evidence", "Row"]

#: one line of a table: column -> text or number
Row = Mapping[str, str | int | float]

_RELATIONS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question with a limit that was fixed before the run.

    Attributes:
        asked: the question, in plain words.
        measured: the answer.
        limit: what it is held against.
        relation: ``>=`` or ``<=``: how the answer must lie to the limit.
        decides: whether the evidence fails if this does not hold; a comparison that the method may
            lose, and that is reported either way, does not decide.

    Example:
        >>> check = Check(asked="gain over the baseline", measured=0.3, limit=0.1)
        >>> check.passed, round(check.margin, 3)
        (True, 0.2)
    """

    asked: str
    measured: float
    limit: float
    relation: str = ">="
    decides: bool = True

    def __post_init__(self) -> None:
        if self.relation not in _RELATIONS:
            raise RecipeError(f"A check's relation is >= or <=, got {self.relation!r}.")

    @property
    def passed(self) -> bool:
        """Whether the answer lies within the limit; not a number does not."""
        return bool(_RELATIONS[self.relation](self.measured, self.limit))

    @property
    def margin(self) -> float:
        """How far the answer lies within the limit; negative outside."""
        gap = self.measured - self.limit
        return gap if self.relation == ">=" else -gap

    def __str__(self) -> str:
        return f"{self.asked}: {self.measured:.4g}, asked {self.relation} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What running a published claim gave.

    Attributes:
        slug: of the method.
        claim: the claim, in one sentence.
        measure: what ``baseline`` and ``measured`` are, with its unit.
        baseline: the headline number of the baseline.
        measured: the headline number of the method.
        checks: the questions, those that decide first.
        tables: title -> rows; the columns are those of the first row.
        pictures: file name without ending -> text of an SVG.
        losses: what the method costs or where it loses, beyond the checks that do not hold; each a
            sentence with numbers.
        notes: what a reader must know to judge.
        seeds: every seed that was run.
        seconds: wall time of the whole run.
        environment: machine and versions.
    """

    slug: str
    claim: str
    measure: str
    baseline: float
    measured: float
    checks: tuple[Check, ...]
    tables: Mapping[str, Sequence[Row]]
    pictures: Mapping[str, str] = field(default_factory=dict)
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    seconds: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=environment)

    @property
    def margin(self) -> float:
        """Method minus baseline."""
        return self.measured - self.baseline

    @property
    def passed(self) -> bool:
        """Whether every check that decides holds."""
        return all(check.passed for check in self.checks if check.decides)

    @property
    def lost(self) -> tuple[str, ...]:
        """Every check that does not hold, then the other losses."""
        return (*(f"{check}." for check in self.checks if not check.passed), *self.losses)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, verdicts included."""
        checks = [{**asdict(c), "passed": c.passed, "margin": c.margin} for c in self.checks]
        tables = {title: [dict(row) for row in rows] for title, rows in self.tables.items()}
        plain = {f.name: _as_json(getattr(self, f.name)) for f in fields(self)}
        verdict = {"margin": self.margin, "passed": self.passed, "lost": list(self.lost)}
        return {**plain, "checks": checks, "tables": tables, **verdict}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Evidence:
        """Inverse of :meth:`to_dict`; verdicts are computed again.

        Raises:
            RecipeError: a key is unknown or missing.
        """
        legal = {f.name for f in fields(cls)}
        given = {k: v for k, v in value.items() if k not in ("margin", "passed", "lost")}
        for key in given:
            if key not in legal:
                raise RecipeError(f"Evidence has no entry {key!r}; {nearest(key, legal)}")
        missing = sorted(legal - set(given))
        if missing:
            raise RecipeError(f"The evidence lacks the entry {missing[0]!r}; run it again.")
        names = [f.name for f in fields(Check)]
        checks = tuple(Check(**{n: check[n] for n in names}) for check in given["checks"])
        lists = {k: tuple(v) for k, v in given.items() if isinstance(v, list)}
        return cls(**{**given, **lists, "checks": checks})

    def save(self, folder: Path) -> list[Path]:
        """Write ``evidence.json`` and the pictures, and return their paths.

        Args:
            folder: made if it is not there; files of these names are replaced.
        """
        write_json(folder / "evidence.json", self.to_dict())
        for name, text in self.pictures.items():
            write_text(folder / f"{name}.svg", text)
        return [folder / "evidence.json", *(folder / f"{name}.svg" for name in self.pictures)]

    def show(self, console: Console) -> None:
        """Print claim, tables, checks, losses and notes."""
        console.print(f"[bold]{self.slug}[/bold]: {self.claim}", highlight=False)
        for title, rows in self.tables.items():
            console.print(_table(title, rows))
        console.print(_checks(self.checks))
        _list(console, "Where it loses", self.lost or ("nowhere in this run",))
        _list(console, "To know", self.notes)
        console.print(
            f"{self.measure}: {_text(self.measured)} against {_text(self.baseline)} "
            f"({self.margin:+.4g}); seeds {', '.join(map(str, self.seeds))}; "
            f"{self.seconds:.0f} s",
            highlight=False,
        )
        console.print("[green]passed[/green]" if self.passed else "[red]failed[/red]")


def _checks(checks: Iterable[Check]) -> Table:
    table = Table("question", "measured", "asked", "verdict", title="Checks", title_justify="left")
    for check in checks:
        words = ("passed", "failed") if check.decides else ("holds", "does not hold")
        asked = f"{check.relation} {_text(check.limit)}"
        verdict = words[0] if check.passed else words[1]
        table.add_row(_text(check.asked), _text(check.measured), asked, verdict)
    return table


def _table(title: str, rows: Sequence[Row]) -> Table:
    columns = list(rows[0]) if rows else []
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_text(row.get(column, "")) for column in columns))
    return table


def _list(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(f"{title}:", highlight=False)
    for line in lines:
        console.print(f"  - {line}", highlight=False, markup=False)


def _text(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
