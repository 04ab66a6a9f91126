"""What is noted of coach-days changed without the grid is repaired by the rules of now, wherever they are in it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from service.app import Services
from service.clock import SystemClock
from service.db.gate import CoachDays
from service.domain.grid import day_of
from service.errors import GateClosed, SlotUnavailable, Unavailable
from service.operations.forget_repairs import ForgetRepairs
from service.operations.local_rates import RateSeen
from service.operations.rosters import FURTHEST_DAYS
from tests.invariants.looks import booked
from tests.operations import steps
from tests.operations.test_repairs_beside_pending import miscount
from tests.wishes import caller, free_starts, wish

ONE_A_DAY = (
    "UPDATE coaches SET max_daily_appointments = 1 WHERE coach_id = 'coach-3'",
    "UPDATE organizations SET roster_version = roster_version + 1",
)


async def test_a_limit_that_was_written_and_not_published_is_kept_once_it_is_repaired(
    services: Services, org: int, sql: Any
) -> None:
    """Whoever wrote it died. By the limit of before its note would be gone and the next claim one too many."""
    start = (await free_starts(services, org))[40]
    await booked(services, org, start, coach_id="coach-3")
    await services.gate.drain()
    for change in ONE_A_DAY:
        await sql.execute(change)
    assert await services.heal() == 1
    with pytest.raises(SlotUnavailable):
        await services.book(wish(start + timedelta(hours=2), coach_id="coach-3"), caller(org), RateSeen())


async def test_no_note_is_gone_before_its_roster_is_beside_the_grid(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no day is there to be repaired: who derives one by the roster beside the grid goes by its limits."""
    await services.rosters.get(org)
    for change in ONE_A_DAY:
        await sql.execute(change)
    with monkeypatch.context() as patch:
        patch.setattr(services.grid, "publish", AsyncMock(side_effect=Unavailable("away")))
        newer = await services.rosters.refresh(org, await services.rosters.get(org))
    assert await services.grid.has_roster(org) != newer.version
    await services.grid.forget_days(org, range(day_of(services.clock.now()) - 5, day_of(services.clock.now()) + 50))
    assert await services.heal() == 1
    assert await services.grid.has_roster(org) == newer.version


@pytest.mark.parametrize("ahead", [-400, 400], ids=["behind", "ahead"])
async def test_of_a_change_without_end_every_day_of_the_grid_is_repaired_whatever_the_clock_says(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    await services.keeper.fill(org)
    today = day_of(services.clock.now())
    await services.heal()
    for day in (today - 1, today + 3):
        await miscount(services, org, 2, day)
    monkeypatch.setattr(services.heal, "_clock", SystemClock(ahead * 86_400.0))
    await services.gate_store.note(CoachDays(org, 2, 0, today + 2 * FURTHEST_DAYS))
    assert await services.heal() == 1
    assert await steps.differences(services, org) == 0


async def test_whoever_derives_another_day_is_not_disturbed_by_a_repair(services: Services, org: int) -> None:
    day = day_of(services.clock.now()) + 3
    mark = await services.grid.mark_day(org, day)
    await services.gate_store.note(CoachDays(org, 2, day + 1, day + 2))
    assert await services.heal() == 1
    field = f"{org}:{day}:*"
    redis: Any = services.redis
    assert await redis.hget(services.shards.of(org).repairs, field) == mark.encode()


async def test_while_redis_is_away_one_repair_is_tried_and_no_other(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = day_of(services.clock.now()) + 3
    for column in range(3):
        await services.gate_store.note(CoachDays(org, column, day, day))
    away = AsyncMock(side_effect=GateClosed("away"))
    monkeypatch.setattr(services.heal, "_repair", away)
    with pytest.raises(GateClosed):
        await services.heal()
    assert away.call_count == 1


async def test_what_waits_longest_is_repaired_first_and_by_two_at_once_it_is_noted_once(
    services: Services, org: int, sql: Any
) -> None:
    store, day = services.gate_store, day_of(services.clock.now()) + 3
    for column in (2, 0, 1):
        await store.note(CoachDays(org, column, day, day + 2))
    assert [repair.column for repair in await store.repairs()] == [2, 0, 1]
    (first,) = await store.repairs(most=1)
    for _ in range(2):
        await store.repaired(first, services.breaker.epoch, 1)
    assert [repair.column for repair in await store.repairs()] == [0, 1]
    days = await sql.fetch("SELECT last_day - first_day FROM grid_repairs WHERE coach_no = 2")
    assert [row[0] for row in days] == [2], "once, and of all its days"


async def test_what_coaches_are_owed_is_looked_at_after_each_repair(services: Services, org: int) -> None:
    store, day = services.gate_store, day_of(services.clock.now()) + 3
    for column in range(2):
        await store.note(CoachDays(org, column, day, day))
    assert await store.owed() == []
    for repair in await store.repairs():
        await store.repaired(repair, services.breaker.epoch, 1)
    ((_, numbers),) = await store.owed()
    await store.owed_looked_at(org, numbers[:1])
    assert await store.owed() == [(org, numbers[1:])]


async def test_with_its_epoch_what_waits_is_gone(services: Services, org: int) -> None:
    store, day = services.gate_store, day_of(services.clock.now()) + 3
    await store.note(CoachDays(org, 2, day, day))
    _, server = await store.epoch()
    await store.renew(server or "")
    assert await store.waiting() == 0


async def test_an_epoch_does_not_end_while_a_claim_of_it_is_being_committed(services: Services, sql: Any) -> None:
    store = services.gate_store
    epoch, server = await store.epoch()
    async with sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock_shared(hashtext('booking gate'))")
        ending = asyncio.ensure_future(store.renew(server or ""))
        await steps.a_commit_waits(sql)
        assert await sql.fetchval("SELECT epoch FROM gate") == epoch
    assert await ending == epoch + 1


async def test_a_repair_is_remembered_while_a_claim_of_before_it_may_be_left(
    services: Services, org: int, sql: Any
) -> None:
    forget = ForgetRepairs(services.gate_store, services.grid, claim_ttl_ms=10_000)
    day = day_of(services.clock.now()) + 3
    for column in range(3):
        await services.gate_store.note(CoachDays(org, column, day, day))
    for repair in (await services.gate_store.repairs())[:2]:
        await services.gate_store.repaired(repair, services.breaker.epoch, 1)
    await sql.execute("UPDATE grid_repairs SET repaired_at = now() - interval '1 hour' WHERE coach_no = 0")
    await sql.execute("UPDATE grid_repairs SET repaired_at = now() - interval '10 seconds' WHERE coach_no = 1")
    start = (await free_starts(services, org, "cal-2"))[10]
    claimed = await steps.claim(services, org, wish(start, "cal-2", coach_id="coach-4"))
    await steps.expire_pending(services)
    kept = "SELECT array_agg(coach_no ORDER BY coach_no) FROM grid_repairs"
    await forget()
    assert await sql.fetchval(kept) == [0, 1, 2], "the claim may be of before"
    await steps.commit(services, claimed)
    await steps.settle(services, claimed)
    await forget()
    assert await sql.fetchval(kept) == [1, 2]
