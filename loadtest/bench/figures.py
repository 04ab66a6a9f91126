"""The figures, their goals, and what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

ALL = tuple(f"B{number}" for number in range(1, 14))


@dataclass(frozen=True)
class Goal:
    """One number that is asked for: `figure` is B1 to B13, `key` names it among those of its figure.

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


GOALS = (
    Goal("B1", "row", "bookings ÷ the same appointment row by pgbench", least=1.0, must=True),
    Goal("B1", "statement", "bookings ÷ our own statement with one row by pgbench", least=1.2, must=True),
    Goal("B8", "scripts", "script calls a booking", most=0.15, must=True),
    Goal("B8", "commits", "Postgres commits a booking", most=0.08, must=True),
    Goal("B8", "wal", "log bytes of Postgres a booking", " bytes"),
    Goal("B8", "cpu", "processor time of API, Redis and Postgres a booking", " µs", most=150, must=True),
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

    def of(self, goal: Goal) -> Measured | None:
        """What was measured of a goal, None when nothing was."""
        return self.measured.get((goal.figure, goal.key))


def reached(goal: Goal, measured: Measured) -> bool:
    """Whether the median is where the goal wants it."""
    if goal.least is not None:
        return measured.middle >= goal.least
    return goal.most is None or measured.middle <= goal.most


def verdict(goal: Goal, measured: Measured | None) -> str:
    """`reached`, `not reached` with the share of the goal, `shown` or `not measured`."""
    if measured is None:
        return "not measured"
    if goal.least is None and goal.most is None:
        return "shown"
    if reached(goal, measured):
        return "reached"
    share = measured.middle / goal.least if goal.least is not None else (goal.most or 0) / measured.middle
    return f"not reached: {share:.2f} of the goal"
