"""Until the grid has been told what was changed without Redis, availability goes by Postgres, and has no entity tag."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, patch
from uuid import UUID

import orjson

from service.app import Services
from service.claims.breaker import Trip
from service.domain.grid import day_of
from service.errors import GateClosed
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from tests.api.client import Client
from tests.api_people.conftest import served
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

PATH = "/api/availability?calendar_id=cal-2&coach_id=coach-4"


async def test_what_was_booked_without_redis_is_not_listed_before_the_grid_knows(
    services: Services, org: int, monkeypatch: Any
) -> None:
    start = (await free_starts(services, org, "cal-2"))[10]
    healing = asyncio.Event()
    heal = services.keep_gate._heal

    async def held_up() -> int:
        await healing.wait()
        return await heal()

    monkeypatch.setattr(services.keep_gate, "_heal", held_up)
    await services.keys.add(org, "reader", "reader", frozenset({"read"}), 0)
    async with served(services) as opened:
        client = opened.with_key("reader")
        await eventually(lambda: not services.breaker.behind or healing.set() is None, what="the start")
        healing.clear()
        before = await client("GET", PATH)
        services.breaker.trip(Trip.FAULT)
        booked = await services.book(wish(start, "cal-2", coach_id="coach-4"), caller(org), RateSeen())
        assert orjson.loads(booked.body)["coach_id"] == "coach-4"
        await eventually(lambda: services.breaker.closed, what="Redis asked again")
        assert not await _lists(client, start.isoformat())
        shown = await client("GET", PATH, headers={"If-None-Match": before.headers["ETag"]})
        assert (shown.status, shown.headers.get("ETag")) == (200, None)
        healing.set()
        await eventually(lambda: not services.breaker.behind, what="the grid told")
        assert not await _lists(client, start.isoformat())
        assert (await client("GET", PATH)).headers["ETag"] != before.headers["ETag"]


async def test_an_answer_of_postgres_is_not_kept_under_the_revision_of_the_grid(services: Services, org: int) -> None:
    await services.keys.add(org, "reader", "reader", frozenset({"read"}), 0)
    async with served(services) as opened:
        client = opened.with_key("reader")
        await client("GET", "/api/availability?calendar_id=cal-2")
        await eventually(lambda: not services.breaker.behind, what="the start")
        with patch.object(services.grid, "read", AsyncMock(side_effect=GateClosed("just now"))):
            answer = await client("GET", PATH)
        assert (answer.status, answer.headers.get("ETag")) == (200, None)
        with patch.object(services.grid, "read", wraps=services.grid.read) as read:
            assert (await client("GET", PATH)).headers.get("ETag") is not None
        assert read.call_count == 1


async def test_who_books_without_redis_has_the_grid_told_at_once(services: Services, org: int) -> None:
    """Also where the breaker stayed closed, because it was this process that was late."""
    await eventually(lambda: not services.breaker.behind, what="the start")
    start = (await free_starts(services, org, "cal-2"))[10]
    with patch.object(services.gate, "admit", AsyncMock(side_effect=GateClosed("late"))):
        await services.book(wish(start, "cal-2", coach_id="coach-4"), caller(org), RateSeen())
    await eventually(lambda: not services.breaker.behind, what="the grid told")
    roster = await services.rosters.get(org)
    free = await services.availability(
        roster, roster.calendar("cal-2"), roster.coach("coach-4"), start, start + timedelta(minutes=5)
    )
    assert (free.of_grid, free.total) == (True, 0)
    assert await services.gate_store.waiting() == 0


async def test_who_cancels_without_redis_has_the_grid_told_at_once(services: Services, org: int) -> None:
    await eventually(lambda: not services.breaker.behind, what="the start")
    start = (await free_starts(services, org, "cal-2"))[10]
    booked = await services.book(wish(start, "cal-2", coach_id="coach-4"), caller(org), RateSeen())
    await services.gate.drain()
    with patch.object(services.gate, "note_release", AsyncMock(side_effect=GateClosed("late"))):
        await services.change.cancel(
            org, UUID(booked.appointment_id), reason=None, actor="api:tests", correlation_id="without"
        )
    await eventually(lambda: not services.breaker.behind, what="the grid told")
    assert await services.gate_store.waiting() == 0
    roster = await services.rosters.get(org)
    free = await services.availability(
        roster, roster.calendar("cal-2"), roster.coach("coach-4"), start, start + timedelta(minutes=5)
    )
    assert (free.of_grid, free.total) == (True, 1)


async def test_who_moves_without_redis_has_the_grid_told_at_once(services: Services, org: int) -> None:
    await eventually(lambda: not services.breaker.behind, what="the start")
    starts = await free_starts(services, org, "cal-2")
    booked = await services.book(wish(starts[10], "cal-2", coach_id="coach-4"), caller(org), RateSeen())
    await services.gate.drain()
    with patch.object(services.gate, "admit", AsyncMock(side_effect=GateClosed("late"))):
        await services.move(
            org,
            UUID(booked.appointment_id),
            MoveWish(start_time=starts[10] + timedelta(days=7)),
            actor="api:tests",
            correlation_id="without",
        )
    await eventually(lambda: not services.breaker.behind, what="the grid told")
    assert await services.gate_store.waiting() == 0
    assert await steps.differences(services, org) == 0


async def test_where_redis_goes_away_while_a_day_is_derived_the_booking_goes_on(services: Services, org: int) -> None:
    start = (await free_starts(services, org, "cal-2"))[10]
    day = day_of(start)
    await services.grid.forget_days(org, range(day - 1, day + 2))

    async def gone(*_: Any) -> None:
        services.breaker.trip(Trip.FAULT)
        raise GateClosed("just now")

    with patch.object(services.keeper, "derive", gone):
        booked = await services.book(wish(start, "cal-2", coach_id="coach-4"), caller(org), RateSeen())
    assert orjson.loads(booked.body)["coach_id"] == "coach-4"


async def _lists(client: Client, start: str) -> bool:
    slots = (await client("GET", PATH)).json["slots"]
    return start.replace("+00:00", "Z") in {slot["start_time"] for slot in slots}
