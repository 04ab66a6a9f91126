"""The figures, their goals, and what was measured of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

ALL = tuple(f"B{number}" for number in range(1, 15))


@dataclass(frozen=True)
class Goal:
    """One number that is asked for: `figure` is B1 to B14, `key` names it among those of its figure.

    Reached when the median is at least `least`, or at most `most`; with neither it is only shown. `must`: not reaching
    it fails the run.
    """

    figure: str
    key: str
    what: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    must: bool = False

    @property
    def wanted(self) -> str:
        """The goal in words."""
        if self.least is not None:
            return f"≥ {self.least:g}{self.unit}"
        return "shown" if self.most is None else f"≤ {self.most:g}{self.unit}"

    @property
    def asks(self) -> bool:
        """Whether there is something to be reached."""
        return self.least is not None or self.most is not None

    def share(self, value: float) -> float:
        """How far a value reaches the goal: 1 is just so, more is better."""
        if self.least is not None:
            return value / self.least
        return (self.most or 0) / value if value else 1.0


GOALS = (
    Goal("B1", "row", "bookings ÷ the same appointment row by pgbench", least=1.0, must=True),
    Goal("B1", "statement", "bookings ÷ our own statement with one row by pgbench", least=1.2, must=True),
    Goal("B2", "ones", "bookings ÷ bookings in batches of one", least=3, must=True),
    Goal("B3", "refusals", "409 on a full slot ÷ hello", least=0.5, must=True),
    Goal("B4", "unchanged", "availability that has not changed ÷ hello", least=0.5),
    Goal("B4", "varied", "the same, no two requests alike ÷ hello"),
    Goal("B4", "full", "availability in full ÷ hello", least=0.3),
    Goal("B4", "fresh", "bookings through one process that the next read through another shows", least=1.0),
    Goal("B5", "busy", "availability under paced bookings ÷ without", ""),
    Goal("B6", "wide", "7 days of the largest team by start", " ms", most=10, must=True),
    Goal("B6", "growth", "the same ÷ of a team of 6", most=15, must=True),
    Goal("B7", "six", "time in Redis of a claim, team of 6", " µs", most=25, must=True),
    Goal("B7", "growth", "the same of the largest team ÷ of 6", most=6, must=True),
    Goal("B8", "scripts", "script calls a booking", most=0.15, must=True),
    Goal("B8", "commits", "Postgres commits that wrote, a booking", most=0.08, must=True),
    Goal("B8", "wal", "log of Postgres a booking", " bytes"),
    Goal("B8", "cpu", "processor time of API, Redis and Postgres a booking", " µs", most=150, must=True),
    Goal("B9", "p99", "p99 at half of B1's rate ÷ pgbench's", most=3),
    Goal("B10", "full", "bookings beside many appointments and coaches ÷ without", least=0.9, must=True),
    Goal("B11", "sale", "one slot for everybody, time to answer all ÷ hello's"),
    Goal("B12", "many", "bookings over many organizations ÷ over one", least=0.8, must=True),
    Goal("B13", "process", "memory of an API process (PSS)", " MB", most=100),
    Goal("B13", "year", "Redis memory of a coach's year", " KB", most=64),
    Goal("B14", "goodput", "bookings while four times as many ask as can be answered in time ÷ B1's", least=0.8),
    Goal("B14", "memory", "memory of an API process at the end of that ÷ early in it", most=1.1),
)


@dataclass
class Measured:
    """What was measured of a goal, a value each repeat, and the absolute figures it is made of."""

    values: list[float] = field(default_factory=list[float])
    parts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def middle(self) -> float:
        """The median over the repeats."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most."""
        return min(self.values), max(self.values)


class Notebook:
    """Takes down what is measured, by (figure, key) of the goals."""

    def __init__(self) -> None:
        self.measured: dict[tuple[str, str], Measured] = {}

    def note(self, figure: str, key: str, value: float, **parts: float) -> None:
        """One repeat's value of a goal, and the parts it is made of (spaces in their names as underscores)."""
        found = self.measured.setdefault((figure, key), Measured())
        found.values.append(value)
        for name, part in parts.items():
            found.parts.setdefault(name.replace("_", " "), []).append(part)

    def part(self, figure: str, key: str, name: str) -> float | None:
        """The median of a part, None when it was not measured."""
        found = self.measured.get((figure, key))
        return None if found is None else median(found.parts[name])

    def of(self, goal: Goal) -> Measured | None:
        """What was measured of a goal, None when nothing was."""
        return self.measured.get((goal.figure, goal.key))


def verdict(goal: Goal, measured: Measured | None) -> str:
    """`reached`, `not reached` with the share of the goal, `shown` or `not measured`."""
    if measured is None:
        return "not measured"
    if not goal.asks:
        return "shown"
    share = goal.share(measured.middle)
    return "reached" if share >= 1 else f"not reached: {share:.2f} of the goal"


def failed(notebook: Notebook, figures: Collection[str]) -> list[Goal]:
    """The goals of those figures that must be reached and were not."""
    return [
        goal for goal in GOALS if goal.must and goal.figure in figures and verdict(goal, notebook.of(goal)) != "reached"
    ]
