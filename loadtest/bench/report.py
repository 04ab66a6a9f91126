"""What was measured, for people: a table, and RESULTS.md with the table, what it was measured on, and two drawings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from loadtest.bench.drawing import draw_goals, draw_latencies
from loadtest.bench.figures import GOALS, Goal, Measured, Notebook, verdict
from loadtest.bench.latency import OURS, PGBENCH, SHARES

RESULTS = "RESULTS.md"
GOALS_DRAWN = "goals.svg"
LATENCIES_DRAWN = "latencies.svg"
_HEAD = ("figure", "what", "goal", "median", "least – most", "verdict")
_MEANS = """\
Each ratio is of loads that ran close together on the same servers; each is repeated in new organizations, and the
median of the repeats counts; freshness and memory are measured once. Postgres writes with fsync to the disk. The load
is one wrk thread with 64 connections, each booking with an idempotency key of its own, one of 5,000 contacts, and a
start drawn from 28 days. While pgbench or bare Sanic is measured, the background worker and the mocks stand still, so
that what the service is compared with has the whole machine, and so they do for the service's own side of B3, B4, B6,
B7 and B11, which book next to nothing; while bookings are measured everything runs. Both write to the same table:
pgbench with a plain INSERT of the row that a booking has, at a coach and start that nobody has, because that is the
fastest way to write row by row. At half of the rate (B9) both are asked at random times of that rate, whatever the
answers do, and a latency counts from when its request was due, also where that had to wait for a connection. What a
booking costs there is counted until three seconds after the last. Each booking is due two deliveries, to a CRM that
takes its time and to the contact (the external calendar does not know these organizations), and at these rates most of
them are made later: B8 and B9 hold what was made meanwhile, of these bookings or earlier ones, and show how much of it
a booking.

Four times as many clients as can be answered in time (B14) are four times the bookings that B1's load makes in
MAX_REQUEST_WAIT_MS. They come in the first of the seconds that count, and each asks again as soon as it is answered,
also when it is sent away with 503 and asked to come later.

After every load the bookings in Postgres are counted. wrk cuts a request of each connection off when its time is over,
and each of those may have booked: rows must be at least the 201s counted, and at most as many more as there were
connections. No two appointments of a coach overlap. Answers with 409, 304 and 200 are counted by the service as well,
and must agree."""


def table(notebook: Notebook, figures: Sequence[str]) -> list[str]:
    """The goals of those figures in Markdown, one row each."""
    return _table(_HEAD, [_row(goal, notebook.of(goal)) for goal in GOALS if goal.figure in figures])


def parts(notebook: Notebook, figures: Sequence[str]) -> list[str]:
    """The absolute figures each goal's value is made of: medians, one row each."""
    rows = [
        (goal.figure, goal.what, name, number(Measured(values).middle), _between(values))
        for goal in GOALS
        if goal.figure in figures and (found := notebook.of(goal))
        for name, values in found.parts.items()
    ]
    return _table(("figure", "what", "made of", "median", "least – most"), rows)


def write_report(folder: Path, notebook: Notebook, figures: Sequence[str], facts: Sequence[str]) -> None:
    """RESULTS.md and its drawings; `facts` say what it was measured on, one a line."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = [(GOALS_DRAWN, "How far each goal is reached", draw_goals(_shares(notebook, figures)))]
    latencies = notebook.measured.get(("B9", "p99"))
    if latencies is not None:
        lines = {
            name: [(share, Measured(latencies.parts[f"{name} {share} ms"]).middle) for share in SHARES]
            for name in (OURS, PGBENCH)
        }
        drawings.append((LATENCIES_DRAWN, "Latency at half of B1's rate", draw_latencies(lines)))
    for name, _, drawn in drawings:
        (folder / name).write_text(drawn)
    lines = [
        "# How fast it is",
        "",
        *(f"- {fact}" for fact in facts),
        "",
        *table(notebook, figures),
        "",
        *(line for name, title, _ in drawings for line in (f"![{title}]({name})", "")),
        "## What the figures are made of",
        "",
        *parts(notebook, figures),
        "",
        "## How it is measured",
        "",
        _MEANS,
    ]
    (folder / RESULTS).write_text("\n".join(lines) + "\n")


def number(value: float) -> str:
    """Three digits that mean something, thousands apart."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(goal: Goal, measured: Measured | None) -> Sequence[str]:
    middle, between = ("", "") if measured is None else (number(measured.middle) + goal.unit, _between(measured.values))
    return (goal.figure, goal.what, goal.wanted, middle, between, verdict(goal, measured))


def _between(values: Sequence[float]) -> str:
    return f"{number(min(values))} – {number(max(values))}"


def _shares(notebook: Notebook, figures: Sequence[str]) -> list[tuple[str, float]]:
    """How far each goal that asks for something is reached: 1 is just so, more is better."""
    return [
        (f"{goal.figure} {goal.what}", goal.share(found.middle))
        for goal in GOALS
        if goal.figure in figures and goal.asks and (found := notebook.of(goal))
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns are as wide as they must be: it is read in a terminal too."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [drawn[0], "| " + " | ".join("-" * width for width in widths) + " |", *drawn[1:]]
