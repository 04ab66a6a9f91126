"""Which figures are measured on which installation: a fresh one a group, so that none inherits another's work."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from loadtest.bench import bookings, crowded, inside, latency, memory, overload, reads, sale
from loadtest.bench.bench import Bench
from loadtest.bench.figures import Notebook
from loadtest.bench.loads import Load
from loadtest.bench.place import running_place
from loadtest.bench.size import Size
from loadtest.bench.surroundings import of_servers


@dataclass(frozen=True)
class Run:
    """A run of chosen figures: where data lies, which servers, how much, who loads, who is told how far it is."""

    folder: Path
    servers: str
    size: Size
    load: Load
    figures: Collection[str]
    notebook: Notebook
    say: Callable[[str], None]
    # What the servers are, as they say.
    facts: list[str] = field(default_factory=list[str])

    async def measure(self) -> None:
        """All chosen figures. Raises Untrue or RuntimeError."""
        if self.size.requests is not None:
            async with self._fresh("all") as bench:
                await self._bookings(bench)
                await self._reads(bench)
                await self._latency(bench)
                await self._overload(bench)
                await self._crowded(bench, bench)
            return
        for name, group, figures in (
            ("bookings", self._bookings, {"B1", "B2", "B8", "B12", "B13"}),
            ("reads", self._reads, {"B3", "B4", "B5", "B6", "B7", "B11", "B13"}),
            ("latency", self._latency, {"B9"}),
            ("overload", self._overload, {"B14"}),
        ):
            if figures & set(self.figures):
                async with self._fresh(name) as bench:
                    await group(bench)
        if "B10" in self.figures:
            async with self._fresh("few") as few, self._fresh("many") as many:
                await self._crowded(few, many)

    async def _bookings(self, bench: Bench) -> None:
        for _ in self._repeats("bookings", {"B1", "B2", "B8", "B12"}):
            if {"B1", "B8"} & set(self.figures):
                await bookings.against_postgres(bench)
            if "B2" in self.figures:
                await bookings.against_ones(bench)
            if "B12" in self.figures:
                await bookings.over_many(bench)
        if "B13" in self.figures:
            await memory.of_processes(bench)

    async def _reads(self, bench: Bench) -> None:
        for _ in self._repeats("reads", {"B3", "B4", "B5", "B11"}):
            if "B3" in self.figures:
                await reads.full_slot(bench)
            if "B4" in self.figures:
                await reads.availability(bench)
            if "B5" in self.figures:
                await reads.under_bookings(bench)
            if "B11" in self.figures:
                await sale.flash_sale(bench)
        if "B4" in self.figures:
            await reads.freshness(bench)
        if {"B6", "B7"} & set(self.figures):
            teams = await inside.make_teams(bench)
            for _ in self._repeats("sizes of teams", {"B6", "B7"}):
                if "B7" in self.figures:
                    await inside.claims(bench, teams)
                if "B6" in self.figures:
                    await inside.wide_availability(bench, teams)
        if "B13" in self.figures:
            await memory.of_a_year(bench)

    async def _latency(self, bench: Bench) -> None:
        rate: float | None = None
        for _ in self._repeats(f"latency, {self.size.latency_s:.0f} s each", {"B9"}):
            rate = await latency.at_half_speed(bench, rate)

    async def _overload(self, bench: Bench) -> None:
        for _ in self._repeats("overload", {"B14"}):
            await overload.four_times(bench)

    async def _crowded(self, few: Bench, many: Bench) -> None:
        if "B10" in self.figures:
            self.say(f"loading {self.size.big_appointments:,} appointments")
            crowd = await crowded.fill(many)
            for _ in self._repeats("among many", {"B10"}):
                await crowded.beside_many(few, many, crowd)

    def _repeats(self, what: str, figures: Collection[str]) -> Iterator[int]:
        if set(figures) & set(self.figures):
            for repeat in range(1, self.size.repeats + 1):
                self.say(f"{what}, {repeat} of {self.size.repeats}")
                yield repeat

    @asynccontextmanager
    async def _fresh(self, name: str) -> AsyncGenerator[Bench]:
        """An installation of its own, whose data is removed afterwards."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            async with running_place(folder, self.size.knobs, servers=self.servers) as place:
                async with place.sql() as sql, place.redis() as redis:
                    self.facts[:] = [await of_servers(sql, redis)]
                yield Bench(place, self.notebook, self.size, self.load, count(1))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
