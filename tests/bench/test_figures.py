"""A goal that must be reached and is not fails the run; the table says how far it was."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from loadtest.bench import wrk
from loadtest.bench.figures import ALL, GOALS, Goal, Notebook, failed, verdict
from loadtest.bench.report import table
from loadtest.bench.requests import Wishes
from loadtest.bench.setting import Crowd


def noted(value_of: dict[str, float]) -> Notebook:
    """A notebook in which every goal is just reached, but for those named by figure."""
    notebook = Notebook()
    for goal in GOALS:
        just = goal.least if goal.least is not None else goal.most if goal.most is not None else 1.0
        notebook.note(goal.figure, goal.key, value_of.get(goal.figure, just), made_of=1.0)
    return notebook


def test_every_figure_has_a_goal() -> None:
    assert {goal.figure for goal in GOALS} == set(ALL)
    assert len({(goal.figure, goal.key) for goal in GOALS}) == len(GOALS)


def test_what_must_be_reached_fails_the_run_and_nothing_else_does() -> None:
    assert failed(noted({}), ALL) == []
    assert failed(noted({"B4": 0.01, "B9": 9.0, "B13": 999.0}), ALL) == []
    assert {goal.figure for goal in failed(noted({"B2": 2.9, "B7": 999.0}), ALL)} == {"B2", "B7"}
    assert failed(noted({"B2": 2.9}), ["B1"]) == []
    assert {goal.figure for goal in failed(Notebook(), ["B1"])} == {"B1"}, "not measured is not reached"


def test_the_verdict_says_how_far() -> None:
    notebook = Notebook()
    for value in (1.0, 2.0, 9.0):
        notebook.note("X", "more", value)
        notebook.note("X", "less", value)
    more, less = Goal("X", "more", "", least=4), Goal("X", "less", "", most=1)
    assert verdict(more, notebook.of(more)) == "not reached: 0.50 of the goal"
    assert verdict(less, notebook.of(less)) == "not reached: 0.50 of the goal"
    assert verdict(Goal("X", "more", "", least=2), notebook.of(more)) == "reached"
    assert verdict(Goal("X", "more", ""), notebook.of(more)) == "shown"


def test_the_table_has_the_median_and_the_spread() -> None:
    notebook = Notebook()
    for value in (3.0, 5.0, 4.0):
        notebook.note("B2", "ones", value, by_ones_a_second=1_234.5)
    (row,) = table(notebook, ["B2"])[2:]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3:7] == ["≥ 3", "4", "3 – 5", "reached"]


def test_each_lua_script_takes_the_arguments_it_is_given() -> None:
    wishes = Wishes(Crowd("x-", (1,), 1), "tag-", datetime(2030, 1, 1, tzinfo=UTC))
    script = Path(wrk.__file__).with_name("book.lua").read_text()
    assert set(re.findall(r"given\.(\w+)", script)) == set(wishes.arguments())
