"""`make bench` measures every figure through the code that also runs at full size, and what it counts is true.

A few hundred requests by a loop of our own instead of wrk; how fast they were answered is nobody's business here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtest.bench import latency
from loadtest.bench.figures import ALL, GOALS, Notebook
from loadtest.bench.loads import OwnLoad
from loadtest.bench.report import GOALS_DRAWN, LATENCIES_DRAWN, RESULTS, table, write_report
from loadtest.bench.run import Run
from loadtest.bench.size import full, quick
from tests.servers import folder_of_its_own

CLIENTS = 8


@pytest.mark.timeout(240)
async def test_every_figure_is_measured_and_true(tmp_path: Path) -> None:
    size, notebook = quick(), Notebook()
    with folder_of_its_own() as folder:
        run = Run(
            folder=folder,
            servers="embedded",
            size=size,
            load=OwnLoad(size.requests or 0, CLIENTS),
            figures=ALL,
            notebook=notebook,
            say=lambda _: None,
        )
        await run.measure()  # raises Untrue when a count is not what Postgres has
        assert not list(folder.iterdir()), "data was left behind"
    assert [goal for goal in GOALS if notebook.of(goal) is None] == []
    assert notebook.part("B1", "row", "refused") == 0
    assert notebook.part("B8", "scripts", "deliveries made meanwhile") is not None
    assert notebook.measured["B4", "fresh"].values == [1.0], "a booking was not seen by the next read"
    assert any("fsync on" in fact for fact in run.facts)
    write_report(tmp_path, notebook, ALL, run.facts)
    told = (tmp_path / RESULTS).read_text()
    rows = [line.split("|")[1].strip() for line in table(notebook, ALL)[2:]]
    assert rows == [goal.figure for goal in GOALS]
    assert all(f"| {figure} " in told for figure in ALL)
    for drawing in (GOALS_DRAWN, LATENCIES_DRAWN):
        assert drawing in told
        assert (tmp_path / drawing).read_text().startswith("<svg")


async def test_latency_is_repeated_too_at_one_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float | None] = []

    async def at_half_speed(_: object, rate: float | None) -> float:
        rates.append(rate)
        return 7.0

    @asynccontextmanager
    async def nowhere(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(latency, "at_half_speed", at_half_speed)
    monkeypatch.setattr(Run, "_fresh", nowhere)
    load = OwnLoad(1, 1)
    run = Run(tmp_path, "embedded", full(3, 1.0), load, ["B9"], Notebook(), say=lambda _: None)
    await run.measure()
    assert rates == [None, 7.0, 7.0]
