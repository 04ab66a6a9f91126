"""A clock the tests move, and a way to call a mock over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from service.mocks.server import serving

Answer = tuple[int, Any]


class MovedClock:
    """Stands still until moved. Begins on a Thursday; New York's clocks change on the Sunday after it."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 3, 5, 15, 0, 20, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant

    def move(self, **by: float) -> None:
        self.instant += timedelta(**by)


class Caller:
    """Calls one served application; an answer is (status, decoded JSON)."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        if body is not None:
            more["json"] = body
        async with self._session.request(method, self.url + path, **more) as response:
            return response.status, await response.json()

    async def many(self, calls: list[tuple[Any, ...]], **more: Any) -> list[Answer]:
        """All calls at the same time."""
        return await asyncio.gather(*(self(*call, **more) for call in calls))


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as opened:
        yield opened


@pytest_asyncio.fixture
async def serve(
    session: aiohttp.ClientSession,
) -> AsyncIterator[Callable[[web.Application], Awaitable[Caller]]]:
    """Serves an application until the test ends and gives a caller of it."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application) -> Caller:
            return Caller(session, await stack.enter_async_context(serving(app)))

        yield start


@pytest.fixture
def at_rate() -> Callable[[int, int, float], bool]:
    """Whether `happened` of `calls` is within three standard deviations of a rate of `rate`."""

    def judge(happened: int, calls: int, rate: float) -> bool:
        return abs(happened - calls * rate) < 3 * (calls * rate * (1 - rate)) ** 0.5

    return judge


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Asks again until `holds` accepts the answer, for at most 10 s; gives that answer."""

    async def wait(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + 10
        while not holds(seen := await ask()):
            assert time.monotonic() < deadline, f"never came true; last seen: {seen}"
            await asyncio.sleep(0.01)
        return seen

    return wait
