"""Redis may be emptied at any moment: then things are slower for a moment, never wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import orjson
import pytest

from service.app import Services
from service.claims.connection import PoolBusy
from service.db.appointments import Change, ChangeOutcome
from service.db.commit import Committed, NewBooking
from service.domain.grid import day_of
from service.errors import GateClosed, SlotUnavailable, Unavailable
from service.operations.book import Booked
from service.operations.local_rates import RateSeen
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

_OVERLAPS = """
SELECT count(*) FROM appointments AS a JOIN appointments AS b USING (org_id, coach_no)
WHERE a.appointment_id < b.appointment_id AND a.occupied && b.occupied
    AND a.status = 'scheduled' AND b.status = 'scheduled'
"""


@pytest.mark.parametrize("after", [5, 40, 90])
async def test_emptied_amid_200_bookings_every_answer_is_definite_and_the_grid_ends_equal(
    services: Services, org: int, sql: Any, after: int
) -> None:
    starts = await free_starts(services, org)
    wishes = [wish(starts[20 + n % 25], ("cal-1", "cal-2", "cal-3")[n % 3], person=n) for n in range(200)]
    books = [asyncio.ensure_future(services.book(one, caller(org), RateSeen())) for one in wishes]
    await eventually(lambda: sum(book.done() for book in books) >= after, what="some bookings done")
    await services.redis.flushall()
    answers = await asyncio.gather(*books, return_exceptions=True)
    kinds = Counter(type(answer) for answer in answers)
    assert set(kinds) <= {Booked, SlotUnavailable, Unavailable}, kinds
    assert kinds[Booked] > 50
    assert await sql.fetchval("SELECT count(*) FROM appointments") == kinds[Booked]
    assert await sql.fetchval(_OVERLAPS) == 0

    async def filled() -> bool:
        try:
            await services.keeper.fill(org)
        except GateClosed:
            return False  # not asked again yet, or its loss noticed only now
        return True

    await eventually(filled, what="the days")
    assert await steps.differences(services, org) == 0
    assert await services.grid.pending() == {}
    assert sum(await services.grid.deficits(org, 6)) == 0


async def test_emptied_between_claim_and_settle_the_booking_is_in_the_grid(
    services: Services, org: int, sql: Any
) -> None:
    """The claim's bits are gone, the day is derived before the commit, and nobody is left to tell of the booking."""
    start = (await free_starts(services, org))[40]
    async with steps.commits_held(sql):
        book = asyncio.ensure_future(services.book(wish(start), caller(org), RateSeen()))
        await steps.a_commit_waits(sql)
        await services.redis.flushall()
        await services.keeper.fill(org)
        roster = await services.rosters.get(org)
        free = await services.availability(
            roster, roster.calendar("cal-1"), roster.coach("coach-3"), start, start + timedelta(minutes=1)
        )
        assert free.total == 1, "nobody knows of the claim any more"
    body = orjson.loads((await book).body)
    assert body["coach_id"] == "coach-3"
    assert await steps.differences(services, org) == 0
    with pytest.raises(SlotUnavailable):
        await services.book(wish(start, coach_id="coach-3"), caller(org), RateSeen())
    assert services.metrics.backstop_conflicts._value.get() == 0


@pytest.mark.parametrize("late", [False, True], ids=["told at once", "told late"])
async def test_its_claim_lost_while_it_is_committed_a_booking_is_in_the_grid(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    start = (await free_starts(services, org))[40]
    commit, settle = services.committer.commit, services.gate._scripts.settle_claim
    refused: list[bool] = []

    async def lose(booking: NewBooking) -> Committed:
        for keys in services.shards.all:
            await services.redis.delete(keys.pending)
        await services.grid.forget_days(org, range(day_of(start) - 1, day_of(start) + 2))
        await services.keeper.fill(org)
        return await commit(booking)

    async def busy(*given: Any) -> Any:
        if late and not refused:
            refused.append(True)
            raise PoolBusy("no connection")
        return await settle(*given)

    monkeypatch.setattr(services.committer, "commit", lose)
    monkeypatch.setattr(services.gate._scripts, "settle_claim", busy)
    await services.book(wish(start), caller(org), RateSeen())

    async def in_the_grid() -> bool:
        return await steps.differences(services, org) == 0

    await eventually(in_the_grid, what="the booking in the grid", within_s=10)
    assert refused == [True] * late


async def test_emptied_between_a_cancellation_and_its_release_the_time_is_free(
    services: Services, org: int, sql: Any
) -> None:
    start = (await free_starts(services, org))[40]
    booked = await services.book(wish(start), caller(org), RateSeen())
    appointment_id = UUID(orjson.loads(booked.body)["appointment_id"])
    async with steps.commits_held(sql):
        cancel = asyncio.ensure_future(
            services.change.cancel(org, appointment_id, reason=None, actor="tests", correlation_id="corr-1")
        )
        await steps.a_commit_waits(sql)
        await services.redis.flushall()
    await cancel
    assert await steps.differences(services, org) == 0


async def test_lost_before_a_cancellation_that_it_cannot_be_told_of_the_time_is_free(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day was derived before the cancellation, and the token that would have freed the time is gone."""
    start = (await free_starts(services, org))[40]
    booked = await services.book(wish(start), caller(org), RateSeen())
    await services.gate.drain()
    change = services.appointments.change

    async def lose(wanted: Change) -> ChangeOutcome:
        await steps.emptied(services)
        await services.keeper.fill(org)
        await eventually(lambda: not services.breaker.behind, what="the grid told of what was before")
        return await change(wanted)

    monkeypatch.setattr(services.appointments, "change", lose)
    monkeypatch.setattr(services.gate, "release", AsyncMock(side_effect=GateClosed("away")))
    await services.change.cancel(org, UUID(booked.appointment_id), reason=None, actor="tests", correlation_id="corr-1")
    await eventually(lambda: not services.breaker.behind, what="the grid told")
    assert await steps.differences(services, org) == 0
