"""B1, B8: bookings a second beside what Postgres alone inserts, and what a booking costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp

from loadtest.bench.figures import Notebook
from loadtest.bench.pgbench import Baseline, add_contacts, baseline_after
from loadtest.bench.place import Place
from loadtest.bench.setting import (
    CALENDAR,
    CONTACTS,
    DAYS,
    DURATION_MIN,
    STARTS_A_DAY,
    Crowd,
    first_midnight,
    key_of,
    make_crowd,
)
from loadtest.bench.truth import booked, check_count, check_overlaps
from loadtest.bench.usage import Reading, read
from loadtest.bench.wrk import CONNECTIONS, Counted, load

WARM_S = 2.0


@dataclass(frozen=True)
class Burst:
    """A stretch of bookings: what was answered, and what it cost."""

    counted: Counted
    cost: Reading
    bookings: int

    @property
    def a_second(self) -> float:
        """Bookings a second."""
        return self.counted.accepted / self.counted.seconds


class Bookings:
    """Loads an installation with bookings; one for a run."""

    def __init__(self, place: Place, notebook: Notebook, seconds: float) -> None:
        self._place = place
        self._notebook = notebook
        self._seconds = seconds
        self._bursts = 0

    async def against_postgres(self, repeat: int) -> None:
        """One repeat of B1 and B8, each in organizations of its own."""
        async with self._place.sql() as sql:
            crowd = await make_crowd(sql, f"book-{repeat}-")
            await prepare(self._place.port, crowd)
            baseline = await self.baseline(sql, crowd)
            burst = await self.burst(sql, crowd)
            inserted: dict[str, float] = {}
            with self._place.only_servers():
                for script in baseline.scripts:
                    beside = await make_crowd(sql, f"{script}-{repeat}-")
                    await add_contacts(sql, beside)
                    await sql.execute("CHECKPOINT")
                    run = await baseline.run(script, beside, self._seconds)
                    inserted[script] = run.a_second
            await check_overlaps(sql)
        for script, a_second in inserted.items():
            self._notebook.note(
                "B1",
                script,
                burst.a_second / a_second,
                bookings_a_second=burst.a_second,
                pgbench_a_second=a_second,
                median_ms=burst.counted.p50 / 1e3,
                refused=burst.counted.refused,
            )
        self._note_cost(burst)

    async def baseline(self, sql: Any, crowd: Crowd) -> Baseline:
        """pgbench scripts after a booking made here."""
        body = {
            "calendar_id": CALENDAR,
            "start_time": first_midnight().isoformat(),
            "contact_email": "model@example.com",
        }
        headers = {"X-API-Key": crowd.key, "Idempotency-Key": f"model-{crowd.name}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._place.port}", headers=headers) as session:
            async with session.post("/api/appointments", json=body) as answer:
                if answer.status != 201:
                    raise RuntimeError(f"the first booking was refused: {await answer.text()}")
                model = UUID((await answer.json())["appointment_id"])
        return await baseline_after(self._place.postgres_binaries, self._place.database_url, sql, model)

    async def burst(self, sql: Any, crowd: Crowd, *, port: int | None = None) -> Burst:
        """Book as fast as 64 connections can, first for a moment to warm up. Raises Untrue."""
        await sql.execute("CHECKPOINT")
        await self._load(crowd, WARM_S, port)
        before = await booked(sql, crowd.orgs)
        async with self._place.redis() as redis:
            at_first = await read(self._place.pids, sql, redis)
            counted = await self._load(crowd, self._seconds, port)
            cost = (await read(self._place.pids, sql, redis)).since(at_first)
        bookings = await check_count(sql, crowd.orgs, before, counted.accepted, CONNECTIONS)
        return Burst(counted, cost, bookings)

    async def _load(self, crowd: Crowd, seconds: float, port: int | None) -> Counted:
        self._bursts += 1
        return await load(
            "book.lua",
            f"http://127.0.0.1:{port or self._place.port}",
            seconds,
            prefix=crowd.prefix,
            organizations=len(crowd.orgs),
            calendar=CALENDAR,
            first=int(first_midnight().timestamp()),
            step=DURATION_MIN * 60,
            starts=DAYS * STARTS_A_DAY,
            contacts=CONTACTS,
            tag=f"bench-{self._bursts}-",
            seed=self._bursts,
        )

    def _note_cost(self, burst: Burst) -> None:
        cost, bookings = burst.cost, burst.bookings
        cpu = {part: spent / bookings for part, spent in cost.cpu_us.items()}
        self._notebook.note("B8", "scripts", cost.script_calls / bookings, microseconds=cost.script_us / bookings)
        self._notebook.note("B8", "commits", cost.commits / bookings, that_wrote=cost.writes / bookings)
        self._notebook.note("B8", "wal", cost.wal_bytes / bookings)
        self._notebook.note("B8", "cpu", cpu["API"] + cpu["Redis"] + cpu["Postgres"], **cpu)


async def prepare(port: int, crowd: Crowd) -> None:
    """Let Redis hold the days of every organization of the crowd, and each process know them."""
    days = min(DAYS + 2, 31)
    query = {"calendar_id": CALENDAR, "days": str(days), "group_by": "start"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for number in range(len(crowd.orgs)):
            headers = {"X-API-Key": key_of(f"{crowd.prefix}{number:03d}")}
            async with session.get("/api/availability", params=query, headers=headers) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"availability was refused: {await answer.text()}")
