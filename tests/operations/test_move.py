"""A move cut off at any point ends as what Postgres says, and in between both its times are held."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import orjson
import pytest

from service.app import Services
from service.claims.connection import PoolBusy
from service.claims.messages import Release
from service.claims.scripts import ReleaseOutcome
from service.db.appointments import Change, ChangeOutcome
from service.domain.appointment import Appointment, Status
from service.domain.event import EventType
from service.errors import OutcomeUnknown, SlotUnavailable, StateConflict, Unavailable
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from service.operations.settle_change import placement_of
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

WHO: dict[str, Any] = {"actor": "tests", "correlation_id": "corr-1"}


@pytest.fixture
async def booked(services: Services, org: int) -> Appointment:
    """An appointment of coach-4, whom nobody else competes with in cal-2 at that time."""
    start = (await free_starts(services, org, "cal-2"))[10]
    answer = await services.book(wish(start, "cal-2", coach_id="coach-4"), caller(org), RateSeen())
    await services.gate.drain()
    found = await services.appointments.get(org, UUID(orjson.loads(answer.body)["appointment_id"]))
    assert found is not None
    return found


def later(appointment: Appointment, minutes: int = 120) -> MoveWish:
    """The same length, later."""
    return MoveWish(start_time=appointment.start_time + timedelta(minutes=minutes))


async def held(services: Services, org: int, *starts: datetime) -> list[bool]:
    """Whether coach-4 is refused to others at each start."""
    roster = await services.rosters.get(org)
    coach, calendar = roster.coach("coach-4"), roster.calendar("cal-2")
    found: list[bool] = []
    for start in starts:
        free = await services.availability(roster, calendar, coach, start, start + timedelta(minutes=5))
        found.append(free.total == 0)
    return found


async def died(services: Services, booked: Appointment, wish: MoveWish, where: str, monkeypatch: Any) -> None:
    """A move whose process died: before its commit, after it, or after it was announced."""
    store, gate = services.appointments, services.gate
    died = asyncio.CancelledError()
    with monkeypatch.context() as patch:
        if where == "before the commit":
            patch.setattr(store, "change", AsyncMock(side_effect=died))
        elif where == "after the commit":
            patch.setattr(gate, "settle", AsyncMock(side_effect=died))
        else:
            patch.setattr(gate, "release", AsyncMock(side_effect=died))
        with pytest.raises(asyncio.CancelledError):
            await services.move(booked.org, booked.appointment_id, wish, **WHO)


@pytest.mark.parametrize("where", ["before the commit", "after the commit", "after it was announced"])
@pytest.mark.parametrize(
    ("minutes", "other_coach"), [(15, False), (120, False), (120, True), (24 * 60 * 7, False), (24 * 60 * 7, True)]
)
async def test_a_move_that_was_cut_off_is_ended_by_what_postgres_says(
    services: Services, org: int, booked: Appointment, where: str, minutes: int, other_coach: bool, monkeypatch: Any
) -> None:
    if other_coach:
        asked = wish(booked.start_time + timedelta(minutes=minutes), "cal-2", person=1, coach_id="coach-4")
        await services.book(asked, caller(org), RateSeen())
    await died(services, booked, later(booked, minutes), where, monkeypatch)
    assert await steps.differences(services, org) == 0, "what is pending is part of the grid"
    assert await services.reconcile() == 0, "before its deadline a move is left alone"
    after_start = booked.start_time + timedelta(minutes=minutes)
    assert await held(services, org, booked.start_time, after_start) == [True, True]
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    now = await services.appointments.get(org, booked.appointment_id)
    assert now is not None
    if where == "before the commit":
        assert now == booked
        assert await held(services, org, booked.start_time) == [True]
        assert await held(services, org, after_start) == [minutes == 15 or other_coach]
    else:
        assert (now.start_time, now.version) == (after_start, 2)
        assert (now.column != booked.column) is other_coach
        told = f"{org} {booked.appointment_id.hex} 2"
        assert told in await steps.announced(services)
        assert told in await steps.announced(services, "calendar-blocks")
        assert await held(services, org, booked.start_time) == [minutes == 15 and not other_coach]
    assert await steps.differences(services, org) == 0
    (finding,) = [found for found in await services.rebuild.verify(lambda _: None) if found.organization == "demo"]
    assert finding.holds, finding


@pytest.mark.parametrize("minutes", [30, 24 * 60 * 7])
@pytest.mark.parametrize("lost", ["its claim", "everything"])
async def test_redis_lost_while_a_move_is_committed_is_put_right(
    services: Services, org: int, booked: Appointment, lost: str, minutes: int, monkeypatch: Any
) -> None:
    store = services.appointments
    change = store.change

    async def lose(wanted: Change) -> ChangeOutcome:
        # Days made anew in between know nothing of the move.
        if lost == "everything":
            await services.redis.flushall()
        else:
            for keys in services.shards.all:
                await services.redis.delete(keys.pending)
        days = sorted({part.day for place in (booked, wanted.after) for part in placement_of(place).segments()})
        await services.grid.forget_days(org, range(days[0], days[-1] + 1))
        await services.rosters.publish(await services.rosters.get(org))
        await services.keeper.derive(org, days)
        return await change(wanted)

    monkeypatch.setattr(store, "change", lose)
    after = await services.move(org, booked.appointment_id, later(booked, minutes), **WHO)
    assert after.version == 2
    both = await held(services, org, booked.start_time, after.start_time)
    assert both == [minutes == 30, True], "it is 45 minutes long"
    assert await steps.differences(services, org) == 0


async def test_what_the_grid_does_not_show_is_refused_by_the_constraint_and_repaired(
    services: Services, org: int, booked: Appointment
) -> None:
    other = wish(booked.start_time + timedelta(minutes=120), "cal-2", person=1, coach_id="coach-4")
    await services.book(other, caller(org), RateSeen())
    # The grid forgets the other one: rolled back, say.
    roster = await services.rosters.get(org)
    width = roster.width
    for part in placement_of(booked).segments():
        plane = services.shards.of(org).occupied(org, part.day)
        await services.redis.set(plane, bytes(288 * width), keepttl=True)
    before = services.metrics.backstop_conflicts._value.get()
    moved = await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert moved.coach_id != "coach-4"
    assert services.metrics.backstop_conflicts._value.get() == before + 1
    await services.gate.drain()
    assert await services.grid.pending() == {}
    with pytest.raises(SlotUnavailable):
        await services.move(org, booked.appointment_id, MoveWish(coach_id="coach-4"), **WHO)


@pytest.mark.parametrize(
    ("problem", "pending"),
    [(Unavailable("away"), 0), (OutcomeUnknown("lost"), 1), (RuntimeError("a fault of ours"), 0)],
)
async def test_what_was_not_written_holds_nothing_and_what_is_not_known_holds_both(
    services: Services, org: int, booked: Appointment, problem: Exception, pending: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(services.appointments, "change", AsyncMock(side_effect=problem))
    with pytest.raises(type(problem)):
        await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert len(await services.grid.pending()) == pending
    assert await held(services, org, booked.start_time, later(booked).start_time or booked.start_time) == [
        True,
        bool(pending),
    ]
    assert await steps.differences(services, org) == 0


async def test_a_cancellation_that_comes_first_leaves_nothing_taken(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    store = services.appointments
    change = store.change

    async def cancel_first(wanted: Change) -> ChangeOutcome:
        if wanted.type is EventType.RESCHEDULED:
            await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
        return await change(wanted)

    monkeypatch.setattr(store, "change", cancel_first)
    with pytest.raises(StateConflict):
        await services.move(org, booked.appointment_id, later(booked, 15), **WHO)
    now = await services.appointments.get(org, booked.appointment_id)
    assert now is not None
    assert now.status is Status.CANCELLED
    starts = [booked.start_time + timedelta(minutes=m) for m in (-30, 0, 15, 30)]
    assert await held(services, org, *starts) == [False] * 4
    assert await services.grid.pending() == {}
    assert await services.grid.deficits(org, 6) == [0] * 6


async def test_a_note_of_a_cancellation_that_came_second_leaves_nothing_taken(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    store = services.appointments
    change = store.change
    second: list[bool] = []

    async def race(wanted: Change) -> ChangeOutcome:
        if not second:
            second.append(True)
            await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
            # A repair that sees the note of the one that lost takes its time for taken.
            await services.keeper.repair(org, [booked.column], [booked.local_day])
        return await change(wanted)

    monkeypatch.setattr(store, "change", race)
    await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
    assert await held(services, org, booked.start_time) == [False]
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def test_a_note_that_redis_could_not_be_told_to_forget_at_once_leaves_nothing_taken(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    """The repair that follows still sees the note of the one that came second, and takes its time for taken."""
    change, settle = services.appointments.change, services.gate._scripts.settle_claim
    second, refused = list[bool](), list[bool]()

    async def race(wanted: Change) -> ChangeOutcome:
        if not second:
            second.append(True)
            await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
        return await change(wanted)

    async def busy(names: Any, ttl_ms: int, items: list[Any]) -> Any:
        if not refused and any(token and not event for token, event, *_ in items):
            refused.append(True)
            raise PoolBusy("no connection")
        return await settle(names, ttl_ms, items)

    monkeypatch.setattr("service.operations.settle_change.TOLD_AGAIN_S", 0.01)
    monkeypatch.setattr(services.appointments, "change", race)
    monkeypatch.setattr(services.gate._scripts, "settle_claim", busy)
    await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
    await services.tasks.drain(10)  # Redis is told
    await services.tasks.drain(10)  # and its grid repaired
    assert refused
    assert await services.grid.pending() == {}
    assert await held(services, org, booked.start_time) == [False]
    assert await steps.differences(services, org) == 0


async def test_a_late_end_of_a_move_frees_nothing_of_whoever_came_after(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    noted: list[Release] = []
    gate = services.gate
    release = gate.release

    async def note(wanted: Release) -> ReleaseOutcome:
        noted.append(wanted)
        return await release(wanted)

    monkeypatch.setattr(gate, "release", note)
    await services.move(org, booked.appointment_id, later(booked), **WHO)
    again = wish(booked.start_time, "cal-2", person=2, coach_id="coach-4")
    await services.book(again, caller(org), RateSeen())
    assert await release(noted[0]) is ReleaseOutcome.ABSENT
    assert await held(services, org, booked.start_time) == [True]
    assert await steps.differences(services, org) == 0


async def test_a_lost_answer_to_a_move_is_asked_for_again(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    database = services.database
    write = database.write
    lost: list[str] = []

    async def lose(name: str, *arguments: Any) -> list[Any]:
        rows = await write(name, *arguments)
        if name == "change_appointment" and not lost:
            lost.append(name)
            raise OutcomeUnknown("lost")
        return rows

    monkeypatch.setattr(database, "write", lose)
    after = await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert lost
    assert after == await services.appointments.get(org, booked.appointment_id)
    assert after.version == 2
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def leave_a_move_unfinished(services: Services, org: int, booked: Appointment, monkeypatch: Any) -> None:
    """A move to `later` whose commit was never made and whose answer was lost; its claim stays."""
    with monkeypatch.context() as patch:
        patch.setattr(services.appointments, "change", AsyncMock(side_effect=OutcomeUnknown("lost")))
        with pytest.raises(OutcomeUnknown):
            await services.move(org, booked.appointment_id, later(booked), **WHO)


async def test_its_own_unfinished_move_does_not_send_it_to_another_coach(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    await leave_a_move_unfinished(services, org, booked, monkeypatch)
    asked = asyncio.ensure_future(services.move(org, booked.appointment_id, later(booked), **WHO))
    await steps.expire_pending(services)

    async def reconciled() -> bool:
        return await services.reconcile() == 1

    await eventually(reconciled, what="the end of the first try")
    moved = await asked
    assert (moved.column, moved.version) == (booked.column, 2)
    assert await steps.differences(services, org) == 0
    assert await services.grid.pending() == {}


async def test_its_own_move_that_ends_while_it_looks_does_not_send_it_to_another_coach_either(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    """The claim met what that one held; by the look at what is pending it is over."""
    await leave_a_move_unfinished(services, org, booked, monkeypatch)
    await steps.expire_pending(services)
    is_moving, looks = services.move._is_moving, list[int]()

    async def look(*asked: Any) -> bool:
        looks.append(len(await services.grid.pending()))
        if len(looks) == 2:
            assert await services.reconcile() == 1
        return await is_moving(*asked)

    monkeypatch.setattr(services.move, "_is_moving", look)
    moved = await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert (moved.column, moved.version) == (booked.column, 2)
    assert looks == [2, 2], "another coach's time is not kept while it waits"
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def test_a_cancellation_before_the_claim_of_a_move_leaves_nothing_taken(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    gate = services.gate
    admit = gate.admit

    async def cancel_first(admission: Any) -> Any:
        monkeypatch.setattr(gate, "admit", admit)
        await services.change.cancel(org, booked.appointment_id, reason=None, **WHO)
        return await admit(admission)

    monkeypatch.setattr(gate, "admit", cancel_first)
    with pytest.raises(StateConflict):
        await services.move(org, booked.appointment_id, later(booked, 15), **WHO)
    starts = [booked.start_time + timedelta(minutes=m) for m in (-30, 0, 15, 30)]
    assert await held(services, org, *starts) == [False] * 4
    assert await steps.differences(services, org) == 0


@pytest.mark.parametrize("value", [True, 1.0])
async def test_metadata_that_python_calls_equal_is_another(
    services: Services, org: int, booked: Appointment, value: object
) -> None:
    await services.move(org, booked.appointment_id, MoveWish(metadata={"a": 1}), **WHO)
    changed = await services.move(org, booked.appointment_id, MoveWish(metadata={"a": value}), **WHO)
    assert repr(changed.metadata) == repr({"a": value})


async def test_an_appointment_of_days_ago_can_still_go_to_another_coach(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    now = booked.start_time + timedelta(days=20)
    monkeypatch.setattr(services.clock, "now", lambda: now)
    moved = await services.move(org, booked.appointment_id, MoveWish(coach_id="coach-6"), **WHO)
    assert moved.coach_id == "coach-6"


async def taken_by_others(services: Services, org: int, booked: Appointment, move: MoveWish) -> None:
    """Somebody else has coach-4 where the appointment is to go."""
    assert isinstance(move.start_time, datetime)
    await services.book(wish(move.start_time, "cal-2", person=1, coach_id="coach-4"), caller(org), RateSeen())
    await services.gate.drain()


async def test_where_nobody_can_say_whether_it_is_being_moved_it_goes_where_it_has_a_place(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    """Every connection to Redis was in use: who went away now would leave the place taken until its deadline."""
    await taken_by_others(services, org, booked, later(booked))
    look = AsyncMock(side_effect=Unavailable("no connection to Redis was free"))
    with monkeypatch.context() as patch:
        patch.setattr(services.grid, "pending", look)
        moved = await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert look.await_count == 1
    assert (moved.column != booked.column, moved.version) == (True, 2)
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def test_where_nobody_can_say_whether_it_is_being_moved_and_it_has_no_place_it_may_be_asked_again(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    wanted = MoveWish(start_time=later(booked).start_time, coach_id="coach-4")
    await taken_by_others(services, org, booked, wanted)
    with monkeypatch.context() as patch:
        patch.setattr(services.grid, "pending", AsyncMock(side_effect=Unavailable("no connection to Redis was free")))
        with pytest.raises(Unavailable):
            await services.move(org, booked.appointment_id, wanted, **WHO)
    assert await services.grid.pending() == {}
    with pytest.raises(SlotUnavailable):
        await services.move(org, booked.appointment_id, wanted, **WHO)


async def test_a_move_whose_own_coach_it_could_not_give_up_goes_to_no_other(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    change, settle = services.appointments.change, services.move._settle
    outcomes = [ChangeOutcome.STALE]

    async def stale_once(wanted: Change) -> ChangeOutcome:
        return outcomes.pop() if outcomes else await change(wanted)

    monkeypatch.setattr("service.operations.move.PATIENCE_S", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(services.appointments, "change", stale_once)
        patch.setattr(settle, "repair_ended", AsyncMock(side_effect=Unavailable("no connection to Redis was free")))
        with pytest.raises(Unavailable):
            await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert await services.appointments.get(org, booked.appointment_id) == booked
    await steps.expire_pending(services)
    assert await services.reconcile() > 0
    moved = await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert (moved.column, moved.version) == (booked.column, 2)
    assert await steps.differences(services, org) == 0


async def test_a_move_does_not_wait_for_a_place_that_it_could_not_give_up_itself(
    services: Services, org: int, booked: Appointment, monkeypatch: Any
) -> None:
    """Another move of it was under way when it had its first place; that one has ended when it has its second."""
    await leave_a_move_unfinished(services, org, booked, monkeypatch)
    await steps.expire_pending(services)
    repair_ended, refused = services.reconcile._settle.repair_ended, list[str]()

    async def busy(org: int, column: int, placement: Any, local_day: int, token: str) -> None:
        if not refused:
            refused.append(token)
            monkeypatch.setattr(services.reconcile._settle, "repair_ended", repair_ended)
            assert await services.reconcile() == 1
            await taken_by_others(services, org, booked, later(booked))
            raise Unavailable("no connection to Redis was free")
        await repair_ended(org, column, placement, local_day, token)

    monkeypatch.setattr(services.reconcile._settle, "repair_ended", busy)
    moved = await services.move(org, booked.appointment_id, later(booked), **WHO)
    assert (moved.column != booked.column, moved.version) == (True, 2)
    assert list(await services.grid.pending()) == refused, "that one is left to the reconciler"
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await steps.differences(services, org) == 0
