"""What was measured, for people: a table on the terminal and in RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.bench.figures import GOALS, Goal, Measured, Notebook, verdict


def table(notebook: Notebook, figures: Sequence[str]) -> list[str]:
    """The goals of those figures in Markdown, one row each."""
    rows = [
        "| figure | what | goal | median | spread | made of | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for goal in GOALS:
        if goal.figure in figures:
            rows.append(_row(goal, notebook.of(goal)))
    return rows


def _row(goal: Goal, measured: Measured | None) -> str:
    cells = [goal.figure, goal.what, goal.wanted]
    if measured is None:
        cells += ["", "", ""]
    else:
        low, high = measured.spread
        made_of = ", ".join(f"{name} {number(_middle(part))}" for name, part in measured.parts.items())
        cells += [f"{number(measured.middle)}{goal.unit}", f"{number(low)} – {number(high)}", made_of]
    return f"| {' | '.join((*cells, verdict(goal, measured)))} |"


def number(value: float) -> str:
    """Three digits that mean something, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _middle(values: list[float]) -> float:
    return Measured(values).middle
