"""Who asks for the same availability in one moment shares one search, and sees all that was booked before it asked."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from service.api.availability import AvailabilityRoutes, _Question
from service.app import Services
from service.claims.grid import PlanesRead
from service.errors import GateClosed
from service.operations.local_rates import RateSeen
from tests.api.client import Answer, Client
from tests.wishes import caller, free_starts, wish

WITHIN_S = 10.0


class Crowd:
    """Looks at the week from the day of `start` on, of which no answer is kept yet.

    It stands before the grid: what was read is handed over when it may `go_on`, unless Redis is `away` by then.
    """

    def __init__(self, services: Services, start: datetime) -> None:
        self.start = start
        # Days ahead: neither notice nor horizon moves this window, so it has one tag as long as nobody books.
        self.path = f"/api/availability?calendar_id=cal-1&days=7&from={start.date()}"
        self.reads = self.handed_over = 0
        self.tags: list[str] = []
        self.go_on = asyncio.Event()
        self.away = False
        self._read = services.grid.read
        self._news = asyncio.Event()

    async def read(self, *asked: Any) -> PlanesRead:
        """Instead of the grid's."""
        found = await self._read(*asked)
        self.reads += 1
        self._news.set()
        await self.go_on.wait()
        self.handed_over += 1
        if self.away:
            raise GateClosed("away")
        return found

    def came(self, tag: str) -> None:
        """Somebody looks for the answer of this tag."""
        self.tags.append(tag)
        self._news.set()

    async def until(self, *, reads: int, askers: int) -> None:
        """Wait until so many reads and askers have come."""
        async with asyncio.timeout(WITHIN_S):
            while self.reads < reads or len(self.tags) < askers:
                self._news.clear()
                await self._news.wait()

    def shows(self, answer: Answer) -> bool:
        """Whether the start is listed with its coach."""
        taken = {"coach_id": "coach-1", "start_time": self.start.isoformat().replace("+00:00", "Z")}
        return any(taken.items() <= slot.items() for slot in answer.json["slots"])


@pytest.fixture
async def crowd(services: Services, org: int, api: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    """The crowd; the days are in the grid."""
    crowd = Crowd(services, (await free_starts(services, org))[20])
    await api("GET", f"{crowd.path}&timezone=UTC")
    etag = _Question.etag

    def tag_of(question: _Question, revision: int, now: float) -> str:
        # Nothing is waited for between this and the look for the answer.
        tag = etag(question, revision, now)
        crowd.came(tag)
        return tag

    monkeypatch.setattr(_Question, "etag", tag_of)
    monkeypatch.setattr(services.grid, "read", crowd.read)
    yield crowd
    crowd.go_on.set()


async def test_a_crowd_that_asks_the_same_searches_once(api: Client, crowd: Crowd) -> None:
    asking = [asyncio.create_task(api("GET", path)) for path in (*[crowd.path] * 8, f"{crowd.path}&group_by=start")]
    await crowd.until(reads=2, askers=9)
    crowd.go_on.set()
    *by_coach, by_start = await asyncio.gather(*asking)
    assert crowd.reads == 2, "one for each question"
    assert {(one.status, one.raw, one.headers["ETag"]) for one in by_coach} == {
        (200, by_coach[0].raw, by_coach[0].headers["ETag"])
    }
    assert crowd.shows(by_coach[0])
    assert (by_start.status, by_start.headers["ETag"] in crowd.tags) == (200, True)
    assert by_start.raw != by_coach[0].raw


async def test_who_asks_after_a_booking_takes_no_search_that_began_before_it(
    services: Services, org: int, api: Client, crowd: Crowd
) -> None:
    before = asyncio.create_task(api("GET", crowd.path))
    await crowd.until(reads=1, askers=1)
    await services.book(wish(crowd.start, coach_id="coach-1"), caller(org), RateSeen())
    after = asyncio.create_task(api("GET", crowd.path))
    await crowd.until(reads=1, askers=2)
    crowd.go_on.set()
    seen, fresh = await before, await after
    assert (crowd.shows(seen), crowd.shows(fresh)) == (True, False)
    assert [seen.headers["ETag"], fresh.headers["ETag"]] == crowd.tags
    again = await api("GET", crowd.path)
    assert (again.raw, crowd.reads) == (fresh.raw, 2)


async def test_who_goes_away_takes_the_search_from_nobody_and_the_last_ends_it(
    services: Services, org: int, crowd: Crowd
) -> None:
    edge: Any = None  # nothing is admitted here
    routes = AvailabilityRoutes(edge, services.availability, services.rosters, services.clock)
    roster = await services.rosters.get(org)
    asked = _Question.of(roster, {"calendar_id": "cal-1", "days": "7", "from": crowd.start.date().isoformat()})

    def ask() -> asyncio.Task[tuple[bytes, bool]]:
        return asyncio.create_task(routes._make_once("tag", roster, asked, services.clock.now()))

    gone = [ask(), ask()]
    await crowd.until(reads=1, askers=0)
    for one in gone:
        one.cancel()
    await asyncio.wait(gone)
    first, second = ask(), ask()
    await crowd.until(reads=2, askers=0)
    first.cancel()
    await asyncio.wait([first])
    crowd.go_on.set()
    body, of_grid = await second
    assert [one.cancelled() for one in (*gone, first, second)] == [True, True, True, False]
    assert (bool(body), of_grid, crowd.reads, crowd.handed_over) == (True, True, 2, 1)
    assert not routes._under_way


async def test_what_fails_when_all_have_gone_away_is_no_news(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge: Any = None
    routes, news = AvailabilityRoutes(edge, services.availability, services.rosters, services.clock), list[Any]()
    roster, begun = await services.rosters.get(org), asyncio.Event()

    async def fails_when_it_is_ended(*_: Any) -> PlanesRead:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    monkeypatch.setattr(services.grid, "read", fails_when_it_is_ended)
    asyncio.get_running_loop().set_exception_handler(lambda _, told: news.append(told))
    question = _Question.of(roster, {"calendar_id": "cal-1"})
    asking = asyncio.create_task(routes._make_once("tag", roster, question, services.clock.now()))
    async with asyncio.timeout(WITHIN_S):
        await begun.wait()
    making = routes._under_way["tag"].task
    asking.cancel()
    await asyncio.wait([asking, making])
    del asking, making
    gc.collect()
    assert news == []


async def test_what_postgres_says_is_nobodys_who_asked_later(api: Client, crowd: Crowd) -> None:
    asking = [asyncio.create_task(api("GET", crowd.path)) for _ in range(3)]
    await crowd.until(reads=1, askers=3)
    crowd.away = True
    crowd.go_on.set()
    answers = await asyncio.gather(*asking)
    assert crowd.reads == 3, "each has asked for itself"
    assert {(one.status, one.raw, "ETag" in one.headers) for one in answers} == {(200, answers[0].raw, False)}
    assert crowd.shows(answers[0])
