"""What every figure needs: the installation, how much to measure, who makes the load, where numbers are taken down."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import aiohttp

from loadtest.bench.figures import Notebook
from loadtest.bench.loads import Counted, Load
from loadtest.bench.place import Place, free_port
from loadtest.bench.requests import Wishes, all_starts
from loadtest.bench.setting import CALENDAR, DAYS, Crowd, first_midnight, key_of
from loadtest.bench.size import Size
from loadtest.bench.truth import Untrue, booked, check_count, delivered
from loadtest.bench.usage import Reading, read

_ANSWERED = r'^booking_http_requests_total\{[^}]*status="%d"[^}]*\} ([\d.e+]+)$'
_API_SCRIPTS = r"^booking_gate_batch_size_count\{[^}]*\} ([\d.e+]+)$"
_API_COMMITS = r"^booking_commit_batch_size_count ([\d.e+]+)$"
_TRIES = 20


@dataclass(frozen=True)
class Burst:
    """A stretch of bookings: what was answered, what it cost, and how many are in Postgres."""

    counted: Counted
    cost: Reading
    bookings: int
    # Of the API alone, without what the worker does: script calls, and commits of bookings.
    api_scripts: int
    api_commits: int
    # Deliveries made meanwhile, of these bookings or earlier ones.
    delivered: int

    @property
    def a_second(self) -> float:
        """Bookings a second."""
        return self.counted.accepted / self.counted.seconds


@dataclass(frozen=True)
class Bench:
    """One installation under measurement."""

    place: Place
    notebook: Notebook
    size: Size
    load: Load
    numbers: count[int]

    def tag(self, word: str) -> str:
        """A name that nothing else of this run has."""
        return f"{word}-{next(self.numbers)}-"

    async def burst(
        self, sql: Any, crowd: Crowd, *, seconds: float, port: int | None = None, warm_s: float | None = None
    ) -> Burst:
        """Book as fast as 64 connections can, first for a moment to warm up. Raises Untrue."""
        port = port or self.place.port
        warm_s = self.size.warm_s if warm_s is None else warm_s
        await sql.execute("CHECKPOINT")
        if warm_s:
            await self.load.book(port, self._wishes(crowd), warm_s)
        before, delivered_before = await booked(sql, crowd.orgs), await delivered(sql)
        async with self.place.redis() as redis:
            at_first, calls_at_first = await read(self.place.pids, sql, redis), await self._sum(_API_SCRIPTS)
            commits_at_first = await self._sum(_API_COMMITS)
            counted = await self.load.book(port, self._wishes(crowd), seconds)
            cost = (await read(self.place.pids, sql, redis)).since(at_first)
            made = await delivered(sql) - delivered_before
            calls = await self._sum(_API_SCRIPTS) - calls_at_first
            commits = await self._sum(_API_COMMITS) - commits_at_first
        added = await check_count(sql, crowd.orgs, before, counted.accepted, self.load.left_open)
        return Burst(counted, cost, added, calls, commits, made)

    def _wishes(self, crowd: Crowd) -> Wishes:
        number = next(self.numbers)
        return all_starts(crowd, f"burst-{number}-", number)

    @asynccontextmanager
    async def counted_as(self, status: int) -> AsyncGenerator[list[Counted]]:
        """Loads put into the list must all have been answered with `status`, as the service itself counts.

        Raises Untrue.
        """
        loads: list[Counted] = []
        before = await self._answered(status)
        yield loads
        counted, answered = sum(load.requests for load in loads), await self._answered(status) - before
        if answered < counted:
            raise Untrue(f"{counted} answers were counted, and {answered} of them were {status}")

    async def _answered(self, status: int) -> int:
        return await self._sum(_ANSWERED % status)

    async def _sum(self, series: str) -> int:
        """What the series that match add up to in the metrics of the installation."""
        async with aiohttp.ClientSession() as session, session.get(f"{url(self.place.port)}/metrics") as answer:
            text = await answer.text()
        return sum(int(float(found)) for found in re.findall(series, text, re.MULTILINE))

    @asynccontextmanager
    async def hello(self) -> AsyncGenerator[int]:
        """Bare Sanic beside the API: its port."""
        port = free_port()
        async with self.place.hello(port):
            yield port


async def prepare(port: int, crowd: Crowd, days: int = DAYS + 1) -> None:
    """Let Redis hold the days of every organization of the crowd. Raises RuntimeError when that comes to nothing."""
    query = {"calendar_id": CALENDAR, "days": str(min(days, 31)), "group_by": "start"}
    async with aiohttp.ClientSession(url(port)) as session:
        for number in range(len(crowd.orgs)):
            headers = {"X-API-Key": key_of(f"{crowd.prefix}{number:03d}")}
            for begin in range(0, days, 31):
                query["from"] = (first_midnight() + timedelta(days=begin)).date().isoformat()
                await _ask_until_known(session, query, headers)


async def _ask_until_known(session: aiohttp.ClientSession, query: dict[str, str], headers: dict[str, str]) -> None:
    """A wide grid is derived in more than one request's time."""
    for _ in range(_TRIES):
        async with session.get("/api/availability", params=query, headers=headers) as answer:
            if answer.status == 200:
                return
            text = await answer.text()
            if answer.status != 503:
                break
    raise RuntimeError(f"availability was refused: {text}")


def url(port: int) -> str:
    """Of a port of the loopback."""
    return f"http://127.0.0.1:{port}"
