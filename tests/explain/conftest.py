"""The API in this process at a moment the tests choose, asked what is listed and why the rest is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg
import pytest
from sanic import Sanic

from service.api.server import build_application, serve
from service.app import Services, open_services
from service.assemble_api import build_api
from service.config import Settings
from service.outside.http import open_session
from service.up import listen
from tests.servers import free_port

NEW_YORK = ZoneInfo("America/New_York")
TEAM = ("coach-1", "coach-2", "coach-3", "coach-5", "coach-6")


def clock_change(after: datetime) -> datetime:
    """The next instant at which New York's clocks are changed, to the hour."""
    hour = after.replace(minute=0, second=0, microsecond=0)
    offset = hour.astimezone(NEW_YORK).utcoffset()
    while hour.astimezone(NEW_YORK).utcoffset() == offset:
        hour += timedelta(hours=1)
    return hour


def days_before(change: datetime) -> datetime:
    """In working hours of the Wednesday before a clock change, which is on a Sunday."""
    return change.replace(hour=16, minute=3, microsecond=7) - timedelta(days=4)


class StillClock:
    """A clock that stands still, at first some days before New York's next clock change."""

    def __init__(self) -> None:
        self.instant = days_before(clock_change(datetime.now(UTC) + timedelta(days=4)))

    def now(self) -> datetime:
        """That instant."""
        return self.instant.astimezone(UTC)


class Api:
    """Asks the API with a key."""

    def __init__(self, session: aiohttp.ClientSession, base: str, key: str) -> None:
        self._session = session
        self._base = base
        self._headers = {"X-API-Key": key}

    def by(self, key: str) -> Api:
        """The same API asked with another key."""
        return Api(self._session, self._base, key)

    async def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        """(status, body) of one request."""
        url = self._base + path
        async with self._session.request(method, url, json=body, params=query, headers=self._headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def explained(self, start: datetime, calendar: str = "cal-1", **query: str) -> dict[str, str]:
        """Each coach's reason at a start."""
        words = {"calendar_id": calendar, "start_time": start.isoformat(), **query}
        status, answer = await self("GET", "/api/availability/explain", **words)
        assert status == 200, answer
        assert all(set(one) == {"coach_id", "reason", "detail"} for one in answer["coaches"])
        reasons = {one["coach_id"]: one["reason"] for one in answer["coaches"]}
        assert list(reasons) == sorted(reasons)
        return reasons

    async def listed(self, since: datetime, days: int, calendar: str) -> dict[datetime, set[str]]:
        """The coaches listed at each start of some days, as the list by starts has them."""
        query = {"from": since.isoformat(), "days": str(days), "group_by": "start", "include": "coaches"}
        status, answer = await self("GET", "/api/availability", calendar_id=calendar, **query)
        assert status == 200, answer
        return {datetime.fromisoformat(slot["start_time"]): set(slot["coach_ids"]) for slot in answer["slots"]}

    async def book(self, start: datetime, calendar: str = "cal-1", **more: Any) -> dict[str, Any]:
        """An appointment."""
        body = {"calendar_id": calendar, "start_time": start.isoformat(), "contact_email": "ada@example.com", **more}
        status, booked = await self("POST", "/api/appointments", body)
        assert status == 201, booked
        return booked


@pytest.fixture
def clock() -> StillClock:
    """The clock of `services`."""
    return StillClock()


@pytest.fixture
def ten(clock: StillClock) -> datetime:
    """Ten o'clock in New York on the day after the clock's, a working day."""
    tomorrow = clock.now().astimezone(NEW_YORK).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(10), NEW_YORK)


@pytest.fixture
async def services(settings: Settings, clock: StillClock) -> AsyncIterator[Services]:
    """Every object of a process, whose clock stands."""
    async with open_services(settings, clock=clock) as opened:
        yield opened


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to change the record with, behind the service's back."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def api(services: Services, org: int) -> AsyncIterator[Api]:
    """The API on a free port, with a key that may everything."""
    port = free_port()
    await services.keys.add(org, "unlimited", "unlimited", frozenset({"read", "write", "admin"}), 0)
    listening = listen(replace(services.settings, port=port))
    stop = asyncio.Event()
    async with open_session() as outward, aiohttp.ClientSession() as session:
        app = build_application(*build_api(services, outward))
        Sanic.unregister_app(app)
        running = asyncio.ensure_future(serve(app, listening, stop))
        yield Api(session, f"http://127.0.0.1:{port}", "unlimited")
        await session.close()
        stop.set()
        await running
    listening.close()


async def shown(services: Services, org: int) -> None:
    """Let the service know of what was changed by SQL: the roster anew, the grid derived when it is needed."""
    async with services.database.transaction() as connection:
        await connection.execute("UPDATE organizations SET roster_version = roster_version + 1 WHERE org_id = $1", org)
    await services.rosters.refresh(org, await services.rosters.get(org))
    today = int(services.clock.now().timestamp()) // 86_400
    await services.grid.forget_days(org, range(today - 2, today + 40))


def later(start: datetime, minutes: float) -> datetime:
    """Some minutes later by the wall clock of the start's zone."""
    return start + timedelta(minutes=minutes)


def all_but(reason: str, **others: str) -> dict[str, str]:
    """The reason for the whole team of cal-1 but for some (coach_1="free")."""
    return {coach: others.get(coach.replace("-", "_"), reason) for coach in TEAM}
