"""What makes the load: wrk, or for a smoke a loop of our own that asks a fixed number of times."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from loadtest.bench.open_loop import Latencies, closed_loop, open_loop
from loadtest.bench.requests import Wishes, get
from loadtest.bench.wrk import CONNECTIONS, run_wrk

# How long after the last request its answer may come; wrk ends when it was told to.
_LAST_ANSWERS_S = 3.0


class Counted(msgspec.Struct, frozen=True):
    """What was counted: answers, those of them from 400 on, connections that broke, and latencies in microseconds."""

    requests: int
    refused: int
    broken: int
    microseconds: int
    p50: int
    p99: int

    @property
    def accepted(self) -> int:
        """Answers below 400."""
        return self.requests - self.refused

    @property
    def seconds(self) -> float:
        """How long the load lasted."""
        return self.microseconds / 1e6

    @property
    def a_second(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


class _Paced(msgspec.Struct, frozen=True):
    """What `paced.lua` ends with."""

    statuses: dict[int, int]
    broken: int
    microseconds: list[int]


class Load(Protocol):
    """Sends requests to a port of the loopback, over 64 connections where nothing else is said."""

    @property
    def left_open(self) -> int:
        """How many requests may be under way, uncounted, when it ends."""
        ...

    async def book(self, port: int, wishes: Wishes, seconds: float, *, clients: int | None = None) -> Counted:
        """Book as fast as the answers come, over so many connections. Raises RuntimeError when one broke."""
        ...

    async def book_at(self, port: int, wishes: Wishes, rate: float, seconds: float) -> Latencies:
        """Book `rate` times a second, whatever the answers do; latencies count from when a request was due.

        Raises RuntimeError when not all were answered soon after, or a connection broke.
        """
        ...

    async def get(self, port: int, path: str, seconds: float, *, numbered: bool = False, **headers: str) -> Counted:
        """Ask for one path; underscores in the names of headers stand for hyphens.

        `numbered`: no two requests are the same, each has a correlation id of its own. Raises RuntimeError when a
        connection broke.
        """
        ...


class WrkLoad:
    """wrk, for so many seconds; then it cuts its requests off."""

    left_open = CONNECTIONS

    async def book(self, port: int, wishes: Wishes, seconds: float, *, clients: int | None = None) -> Counted:
        scripts, clients = ("book.lua", "counted.lua"), clients or CONNECTIONS
        return _counted(await run_wrk(scripts, port, seconds, wishes.arguments(), connections=clients))

    async def book_at(self, port: int, wishes: Wishes, rate: float, seconds: float) -> Latencies:
        count = round(rate * seconds)
        given = wishes.arguments() | {"rate": rate, "count": count}
        line = await run_wrk(("book.lua", "paced.lua"), port, seconds + _LAST_ANSWERS_S, given)
        paced = msgspec.json.decode(line, type=_Paced)
        if paced.broken or len(paced.microseconds) != count:
            raise RuntimeError(
                f"of {count} requests {len(paced.microseconds)} were answered, {paced.broken} connections broke"
            )
        return Latencies(Counter(paced.statuses), [taken / 1e6 for taken in paced.microseconds])

    async def get(self, port: int, path: str, seconds: float, *, numbered: bool = False, **headers: str) -> Counted:
        given = {"path": path} | {name.replace("_", "-"): value for name, value in headers.items()}
        if numbered:
            given["numbered"] = "yes"
        return _counted(await run_wrk(("get.lua", "counted.lua"), port, seconds, given))


class OwnLoad:
    """A fixed number of requests, all of them answered in the end, whatever the seconds."""

    left_open = 0

    def __init__(self, count: int, clients: int) -> None:
        self._count = count
        self._clients = clients

    async def book(
        self,
        port: int,
        wishes: Wishes,
        seconds: float,  # noqa: ARG002 - a count is asked
        *,
        clients: int | None = None,
    ) -> Counted:
        return await self._ask(port, wishes.maker(), clients)

    async def book_at(self, port: int, wishes: Wishes, rate: float, seconds: float) -> Latencies:
        return await open_loop(port, wishes.maker(), rate, seconds)

    async def get(
        self,
        port: int,
        path: str,
        seconds: float,  # noqa: ARG002 - a count is asked
        *,
        numbered: bool = False,
        **headers: str,
    ) -> Counted:
        def make(number: int) -> bytes:
            return get(path, **headers, **({"X_Correlation_ID": f"request-{number}"} if numbered else {}))

        return await self._ask(port, make)

    async def _ask(self, port: int, make: Callable[[int], bytes], clients: int | None = None) -> Counted:
        began = time.monotonic()
        found = await closed_loop(port, make, self._count, clients=min(clients or self._clients, self._count))
        return _of(found, time.monotonic() - began)


def _counted(line: str) -> Counted:
    counted = msgspec.json.decode(line, type=Counted)
    if counted.broken:  # a process that ended leaves fewer to answer, and nobody knows how many it had carried out
        raise RuntimeError(f"{counted.broken} connections broke under a load")
    return counted


def _of(found: Latencies, seconds: float) -> Counted:
    return Counted(
        requests=found.statuses.total(),
        refused=sum(count for status, count in found.statuses.items() if status >= 400),
        broken=0,
        microseconds=round(seconds * 1e6),
        p50=round(found.quantile(0.5) * 1e6),
        p99=round(found.quantile(0.99) * 1e6),
    )
