"""A repair beside what is pending takes for taken what somebody may still take or free, and nothing else.

Nobody looks again once the token is gone: what a repair wrongly took for taken would stay hidden.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import orjson
import pytest
from msgspec.structs import replace
from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeout
from structlog.testing import capture_logs

from service.app import Services, open_services
from service.claims.connection import PoolBusy
from service.claims.lateness import Lateness
from service.claims.messages import Release, Settlement
from service.claims.scripts import ReleaseOutcome, SettleOutcome
from service.config import Settings
from service.db.appointments import Change, ChangeOutcome
from service.domain.appointment import Appointment
from service.domain.event import EventType
from service.errors import GateClosed, StateConflict, Unavailable
from service.operations.local_rates import RateSeen
from service.operations.settle_change import coach_days_of, placement_of
from tests.operations import steps
from tests.operations.test_move import WHO, died, held, later
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish


@pytest.fixture
async def booked(services: Services, org: int) -> Appointment:
    """An appointment of coach-4, whom nobody else competes with in cal-2 at that time."""
    return await book(services, org)


async def book(services: Services, org: int) -> Appointment:
    """Book coach-4."""
    start = (await free_starts(services, org, "cal-2"))[10]
    answer = await services.book(wish(start, "cal-2", coach_id="coach-4"), caller(org), RateSeen())
    found = await services.appointments.get(org, UUID(orjson.loads(answer.body)["appointment_id"]))
    assert found is not None
    return found


async def looked_at(services: Services, appointment: Appointment, how: str) -> None:
    """Make the days of an appointment's coach what Postgres says."""
    days = sorted({part.day for part in placement_of(appointment).segments()} | {appointment.local_day})
    if how == "repaired":
        await services.keeper.repair(appointment.org, [appointment.column], days)
    else:
        await services.grid.forget_days(appointment.org, range(days[0], days[-1] + 1))
        await services.keeper.derive(appointment.org, days)


@pytest.mark.parametrize("how", ["repaired", "derived"])
async def test_cancelled_before_it_was_settled_a_time_is_free(
    services: Services, org: int, how: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("service.claims.gate.GATHERING_S", 60)
    appointment = await book(services, org)
    await services.change.cancel(org, appointment.appointment_id, reason=None, **WHO)
    assert [entry.kind for entry in (await services.grid.pending()).values()] == ["claim"]
    await looked_at(services, appointment, how)
    assert await held(services, org, appointment.start_time) == [False]
    await services.gate.drain()
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


@pytest.mark.parametrize("how", ["repaired", "derived"])
@pytest.mark.parametrize("minutes", [15, 120, 24 * 60 * 7])
async def test_cancelled_before_its_move_freed_the_old_time_the_new_one_is_free(
    services: Services, org: int, booked: Appointment, how: str, minutes: int, monkeypatch: Any
) -> None:
    await died(services, booked, later(booked, minutes), "after it was announced", monkeypatch)
    moved = await services.change.get(org, booked.appointment_id)
    await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
    for place in (moved, booked):
        await looked_at(services, place, how)
    assert await held(services, org, booked.start_time) == [True], "the move will free it"
    if minutes > 15:
        assert await held(services, org, moved.start_time) == [False]
    monkeypatch.setattr(services.reconcile, "_put_right", AsyncMock())
    await services.gate.drain()
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await held(services, org, booked.start_time, moved.start_time) == [False, False]
    assert await steps.differences(services, org) == 0


@pytest.mark.parametrize("where", ["before the commit", "after the commit", "after it was announced"])
@pytest.mark.parametrize("minutes", [15, 120, 24 * 60 * 7])
async def test_killed_when_it_has_released_a_move_the_reconciler_leaves_nothing_to_repair(
    services: Services, org: int, booked: Appointment, where: str, minutes: int, monkeypatch: Any
) -> None:
    await services.gate.drain()
    await died(services, booked, later(booked, minutes), where, monkeypatch)
    await steps.expire_pending(services)
    monkeypatch.setattr(services.reconcile, "_put_right", AsyncMock())
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


@pytest.mark.parametrize("minutes", [120, 24 * 60 * 7])
async def test_a_repair_while_the_reconciler_ends_a_move_leaves_nothing_taken(
    services: Services, org: int, booked: Appointment, minutes: int, monkeypatch: Any
) -> None:
    """It sees the token, which is about to go, and takes for taken what that stands for."""
    await services.gate.drain()
    await services.keeper.fill(org)
    await died(services, booked, later(booked, minutes), "before the commit", monkeypatch)
    await steps.expire_pending(services)
    release = services.gate.release

    async def repaired_before(wanted: Release) -> ReleaseOutcome:
        await services.keeper.repair(org, [booked.column], [part.day for part in wanted.placement.segments()])
        return await release(wanted)

    monkeypatch.setattr(services.gate, "release", repaired_before)
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    assert await held(services, org, booked.start_time + timedelta(minutes=minutes)) == [False]
    assert await steps.differences(services, org) == 0


async def test_a_move_that_was_given_up_is_not_committed_any_more(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    store = services.appointments
    commit = store.change
    late: list[Change] = []

    async def stand_still(wanted: Change) -> ChangeOutcome:
        late.append(wanted)
        raise asyncio.CancelledError

    await services.gate.drain()
    with monkeypatch.context() as patch:
        patch.setattr(store, "change", stand_still)
        with pytest.raises(asyncio.CancelledError):
            await services.move(org, booked.appointment_id, later(booked, 24 * 60 * 7), **WHO)
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    # Its place of that day is somebody else's by now.
    assert await commit(late[0]) is ChangeOutcome.STALE
    assert await services.change.get(org, booked.appointment_id) == booked
    assert await steps.differences(services, org) == 0


class Late(Lateness):
    """A process that is late, and so does not blame Redis for an answer that did not come in time."""

    @property
    def is_late(self) -> bool:
        """It is."""
        return True


@pytest.mark.parametrize("problem", [PoolBusy("no connection"), RedisTimeout("no answer")], ids=["busy", "late"])
async def test_what_redis_could_not_be_told_for_a_moment_it_is_told_soon_once_and_no_more(
    services: Services, org: int, monkeypatch: Any, problem: Exception
) -> None:
    settle, asked = services.gate._scripts.settle_claim, list[int]()

    async def not_now(names: Any, ttl_ms: int, items: list[Any]) -> Any:
        asked.append(len(items))
        if len(asked) <= 3:
            raise problem
        return await settle(names, ttl_ms, items)

    monkeypatch.setattr("service.operations.settle_change.TOLD_AGAIN_S", 0.01)
    monkeypatch.setattr(services.breaker, "_lateness", Late())
    monkeypatch.setattr(services.gate._scripts, "settle_claim", not_now)
    appointment = await book(services, org)
    await services.gate.drain()
    await services.tasks.drain(10)
    assert asked == [1] * 4, "three times in vain, then once"
    assert await services.grid.pending() == {}
    assert await steps.announced(services) == [f"{org} {appointment.appointment_id.hex} 1"]
    assert services.breaker.closed


async def test_what_redis_refuses_for_good_it_is_told_ever_less_often(
    services: Services, org: int, monkeypatch: Any
) -> None:
    """As a Redis does whose user may not write to a stream."""
    settle, asked = services.gate._scripts.settle_claim, list[int]()

    async def refuse(names: Any, ttl_ms: int, items: list[Any]) -> Any:
        asked.append(len(items))
        if len(asked) <= 5:
            raise NoPermissionError("no permissions to access one of the keys")
        return await settle(names, ttl_ms, items)

    monkeypatch.setattr("service.operations.settle_change.TOLD_AGAIN_S", 0.001)
    monkeypatch.setattr("service.operations.settle_change.LONGEST_PAUSE_S", 0.004)
    monkeypatch.setattr(services.gate._scripts, "settle_claim", refuse)
    with capture_logs() as lines:
        await book(services, org)
        await services.gate.drain()
        await services.tasks.drain(10)
    assert asked == [1] * 6
    said = [line for line in lines if line["event"] == "changes not settled yet"]
    assert [line["again_in_s"] for line in said] == [0.002, 0.004, 0.004, 0.004]
    assert {line["error"] for line in said} == {"Redis refused: NoPermissionError"}
    assert await services.grid.pending() == {}


async def test_a_process_that_stops_tells_redis_once_more_and_waits_no_longer(
    settings: Settings, monkeypatch: Any
) -> None:
    monkeypatch.setattr("service.operations.settle_change.TOLD_AGAIN_S", 3_600.0)
    refuse = AsyncMock(side_effect=NoPermissionError("no permissions to access one of the keys"))
    async with open_services(settings) as services:
        await eventually(lambda: not services.breaker.behind, what="the grid told", every_s=0.001)
        org = await services.roster_store.organization("demo")
        assert org is not None
        monkeypatch.setattr(services.gate._scripts, "settle_claim", refuse)
        await book(services, org)
        await services.gate.drain()
    assert refuse.await_count == 2
    assert len(services.tasks) == 0, "nobody is waited for"


async def test_told_by_two_at_once_nothing_is_forgotten_that_came_meanwhile(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    """Whoever finds Redis back tells it, and so does who could not tell it for a moment."""
    settle, gate, told, go_on = services.reconcile._settle, services.gate, list[str | None](), asyncio.Event()

    async def slowly(settlement: Settlement) -> SettleOutcome:
        told.append(settlement.event)
        await go_on.wait()
        return SettleOutcome.ABSENT

    monkeypatch.setattr(settle, "_telling_again", True)
    for number in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(gate, "settle", AsyncMock(side_effect=Unavailable("busy")))
            await settle.settle(Settlement(org, None, f"event {number}", ()))
        if number == 1:
            monkeypatch.setattr(gate, "settle", slowly)
            both = [asyncio.ensure_future(settle.tell_late()) for _ in range(2)]
            await eventually(lambda: len(told) >= 2, what="two being told")
    go_on.set()
    await asyncio.gather(*both)
    assert told == ["event 0", "event 1", "event 2"]


async def test_where_nobody_can_say_who_hears_everybody_may(services: Services, org: int, monkeypatch: Any) -> None:
    settle = services.reconcile._settle
    async with services.database.writing() as connection:
        await connection.execute("UPDATE organizations SET name = 'another' WHERE org_id = $1", org)
    assert await settle.streams(org, EventType.CREATED) == ("crm", "notifications")
    monkeypatch.setattr(services.rosters, "current", AsyncMock(side_effect=Unavailable("away")))
    assert await settle.streams(org, EventType.CREATED) == ("crm", "calendar-blocks", "notifications", "endpoints")


@pytest.mark.parametrize("minutes", [120, 24 * 60 * 7])
async def test_a_move_given_up_takes_nothing_of_a_cancellation_that_came_first(
    services: Services, org: int, booked: Appointment, minutes: int, monkeypatch: Any
) -> None:
    store, gate = services.appointments, services.gate
    change, release = store.change, gate.release
    seen: list[bool] = []

    async def cancel_first(wanted: Change) -> ChangeOutcome:
        if wanted.type is EventType.RESCHEDULED:
            await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
        return await change(wanted)

    async def look(wanted: Release) -> ReleaseOutcome:
        if not wanted.frees:
            seen.extend(await held(services, org, booked.start_time, wanted.placement.starts_at))
            # Somebody else's repair takes for taken what the token still stands for.
            await services.keeper.repair(org, [booked.column], [booked.local_day, wanted.local_day])
        return await release(wanted)

    await services.gate.drain()
    monkeypatch.setattr(store, "change", cancel_first)
    monkeypatch.setattr(gate, "release", look)
    with pytest.raises(StateConflict):
        await services.move(org, booked.appointment_id, later(booked, minutes), **WHO)
    assert seen == [False, False], (
        "the cancelled time was taken again, or the other not put right before its token went"
    )
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def miscount(services: Services, org: int, column: int, day: int) -> None:
    """Let a coach have one appointment too many on a day of the grid."""
    counts = services.shards.of(org).counts(org, day)
    await services.redis.execute_command("BITFIELD", counts, "INCRBY", "u16", f"#{column}", 1)


async def test_the_date_a_time_counts_on_is_put_right_with_its_cells(
    services: Services, org: int, booked: Appointment
) -> None:
    """East of Greenwich that is the next one."""
    await services.keeper.fill(org)
    date = booked.local_day + 1
    await miscount(services, org, booked.column, date)
    await services.reconcile._settle.repair_days(org, booked.column, placement_of(booked), date)
    assert await steps.differences(services, org) == 0
    await miscount(services, org, booked.column, date)
    await services.gate_store.note(coach_days_of(replace(booked, local_day=date)))
    assert await services.heal() == 1
    assert await steps.differences(services, org) == 0


async def test_what_cannot_be_repaired_at_once_is_left_to_whoever_finds_redis_back(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    await services.keeper.fill(org)
    await eventually(lambda: not services.breaker.behind, what="the start")
    await miscount(services, org, booked.column, booked.local_day)
    with monkeypatch.context() as patch:
        patch.setattr(services.keeper, "_repair_one", AsyncMock(side_effect=GateClosed("away")))
        patch.setattr(services.heal, "_repair", AsyncMock(side_effect=GateClosed("away")))
        await services.reconcile._settle.repair(booked)
        assert await services.gate_store.waiting() == 1
    await eventually(lambda: not services.breaker.behind, what="the grid told")
    assert await steps.differences(services, org) == 0


async def test_who_comes_during_a_repair_is_repaired_after_it_all_at_once(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    """What they bring may not have been there when that one read Postgres."""
    repair, settle = services.keeper.repair, services.reconcile._settle
    began, go_on = list[Any](), asyncio.Event()

    async def held_up(*arguments: Any) -> Any:
        began.append(arguments)
        await go_on.wait()
        return await repair(*arguments)

    monkeypatch.setattr(services.keeper, "repair", held_up)
    first = asyncio.ensure_future(settle.repair(booked))
    await eventually(lambda: len(began) == 1, what="a repair under way")
    others = [asyncio.ensure_future(settle.repair(booked)) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *others)
    assert len(began) == 2


async def test_a_stop_waits_for_the_repair_that_is_under_way(
    settings: Settings, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on without the connections it needs, and what it fails with would be an error nobody looks at."""
    began, go_on = asyncio.Event(), asyncio.Event()
    async with open_services(settings) as services:
        await eventually(lambda: not services.breaker.behind, what="the start")
        repair = services.keeper.repair

        async def held_up(*arguments: Any) -> Any:
            began.set()
            await go_on.wait()
            return await repair(*arguments)

        monkeypatch.setattr(services.keeper, "repair", held_up)
        await sql.execute(
            "INSERT INTO grid_repairs (org_id, coach_no, first_day, last_day)"
            " VALUES (1, 0, current_date + 1, current_date + 1)"
        )
        healing = asyncio.ensure_future(services.heal())
        await began.wait()
        healing.cancel()
        await asyncio.wait({healing})
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert await sql.fetchval("SELECT count(*) FROM grid_repairs WHERE repaired_at IS NULL") == 0
