"""A move the reconciler has given up is never committed, however late its process wakes; a committed one stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from service.app import Services, build_time_off
from service.db.appointments import Change, ChangeOutcome
from service.domain.appointment import Appointment
from service.domain.grid import instant_of
from service.domain.zones import zone
from service.errors import OutcomeUnknown
from service.operations.plan_move import MoveWish
from service.operations.time_off import Absence, Away
from service.operations.treat_appointments import Existing
from tests.invariants.looks import booked, changed_roster
from tests.operations import steps
from tests.operations.test_move import WHO
from tests.servers import eventually

_TOMBSTONES = "SELECT count(*)::integer FROM appointments WHERE status = 'void'"
_WAITING = """
SELECT count(*)::integer FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()
"""
_CHANGES_WAIT_FOR_LOCK_1 = """
CREATE FUNCTION wait_for_lock_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait_for_lock_1 AFTER UPDATE ON appointments DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_for_lock_1();
"""


@pytest.fixture
async def days(services: Services, org: int) -> list[list[datetime]]:
    """The starts at which coach-3 is free, by local date, of dates that have not begun."""
    roster = await services.rosters.get(org)
    coach, now = roster.coach("coach-3"), services.clock.now()
    free = await services.availability(roster, roster.calendar("cal-1"), coach, now, now + timedelta(days=7))
    found: dict[date, list[datetime]] = {}
    there = zone(coach.timezone)
    for cell, _ in free.rows:
        start = instant_of(cell)
        found.setdefault(start.astimezone(there).date(), []).append(start)
    return [starts for day, starts in found.items() if day > now.astimezone(there).date()]


@pytest.fixture
async def first(services: Services, org: int, days: list[list[datetime]]) -> Appointment:
    """An appointment of coach-3 on the first of those dates."""
    await services.keeper.fill(org)
    made = await booked(services, org, days[0][0], coach_id="coach-3")
    await services.gate.drain()
    return made


def stands_still(
    services: Services, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]
) -> list[ChangeOutcome]:
    """Let the first change stand still before it is sent until `meanwhile` is over; what became of each change."""
    change = services.appointments.change
    outcomes: list[ChangeOutcome] = []
    stood: list[Change] = []

    async def late(wanted: Change) -> ChangeOutcome:
        if not stood:
            stood.append(wanted)
            await steps.expire_pending(services)
            assert await services.reconcile() == 1
            await meanwhile()
            await services.heal()
            await services.gate_store.forget(0)  # no note of the coach-day is left
        outcomes.append(await change(wanted))
        return outcomes[-1]

    monkeypatch.setattr(services.appointments, "change", late)
    return outcomes


async def test_what_was_given_away_meanwhile_is_not_taken_beside_a_daily_limit(
    services: Services,
    org: int,
    days: list[list[datetime]],
    first: Appointment,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = "UPDATE coaches SET max_daily_appointments = 1 WHERE coach_id = 'coach-3'"
    await changed_roster(services, sql, org, limit)
    await services.heal()

    async def somebody_books() -> None:
        await booked(services, org, days[1][-1], coach_id="coach-3", person=1)

    outcomes = stands_still(services, monkeypatch, somebody_books)
    moved = await services.move(org, first.appointment_id, MoveWish(start_time=days[1][0]), **WHO)
    assert outcomes == [ChangeOutcome.STALE, ChangeOutcome.DONE]
    assert moved.coach_id != "coach-3", "its own has no place left on that date"
    counts = await sql.fetch(
        "SELECT count(*) FROM appointments WHERE coach_no = $1 AND status = 'scheduled' GROUP BY local_day",
        first.column,
    )
    assert [row["count"] for row in counts] == [1]
    await services.gate.drain()
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0
    assert await sql.fetchval(_TOMBSTONES) == 1


async def test_it_does_not_land_in_a_time_off_that_was_finished_meanwhile(
    services: Services,
    org: int,
    days: list[list[datetime]],
    first: Appointment,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away: list[Away] = []
    start, end = days[1][0], days[1][0] + timedelta(hours=2)

    async def coach_goes() -> None:
        absence = Absence(start=start, end=end, reason=None, existing=Existing.CANCEL, source="api")
        away.append(await build_time_off(services).close(org, "coach-3", absence, **WHO))

    outcomes = stands_still(services, monkeypatch, coach_goes)
    moved = await services.move(org, first.appointment_id, MoveWish(start_time=start), **WHO)
    assert outcomes == [ChangeOutcome.STALE, ChangeOutcome.DONE]
    assert [(one.finished, one.affected) for one in away] == [(True, [])]
    assert moved.coach_id != "coach-3"
    inside = "SELECT count(*) FROM appointments WHERE coach_no = $1 AND status = 'scheduled' AND starts_at = $2"
    assert await sql.fetchval(inside, first.column, start) == 0
    assert await steps.differences(services, org) == 0


async def test_a_commit_that_waits_for_the_gate_sees_the_tombstone_put_there_meanwhile(
    services: Services,
    org: int,
    days: list[list[datetime]],
    first: Appointment,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The statement began before there was a tombstone; who gives the move up waits for the gate behind it."""
    outcomes: list[ChangeOutcome] = []
    change = services.appointments.change

    async def noted(wanted: Change) -> ChangeOutcome:
        outcomes.append(await change(wanted))
        return outcomes[-1]

    monkeypatch.setattr(services.appointments, "change", noted)
    await sql.execute("SELECT pg_advisory_lock(hashtext('booking gate'))")
    moving = asyncio.ensure_future(services.move(org, first.appointment_id, MoveWish(start_time=days[1][0]), **WHO))
    await eventually(lambda: _is(sql, _WAITING, 1), what="the commit waiting for the gate")
    await steps.expire_pending(services)
    ending = asyncio.ensure_future(services.reconcile())
    await eventually(lambda: _is(sql, _TOMBSTONES, 1), what="the tombstone")
    await sql.execute("SELECT pg_advisory_unlock(hashtext('booking gate'))")
    moved = await moving
    assert await ending == 1
    assert outcomes == [ChangeOutcome.STALE, ChangeOutcome.DONE]
    assert (moved.start_time, moved.version) == (days[1][0], 2)
    assert await steps.differences(services, org) == 0


async def test_a_commit_that_saw_no_tombstone_is_waited_for_and_carried_out(
    services: Services, org: int, days: list[list[datetime]], first: Appointment, sql: Any
) -> None:
    await sql.execute(_CHANGES_WAIT_FOR_LOCK_1)
    await sql.execute("SELECT pg_advisory_lock(1)")
    moving = asyncio.ensure_future(services.move(org, first.appointment_id, MoveWish(start_time=days[1][0]), **WHO))
    await eventually(lambda: _is(sql, _WAITING, 1), what="the commit under way")
    await steps.expire_pending(services)
    ending = asyncio.ensure_future(services.reconcile())
    await eventually(lambda: _is(sql, _WAITING, 2), what="who ends it waiting for the commit")
    await sql.execute("SELECT pg_advisory_unlock(1)")
    moved = await moving
    assert await ending == 1
    assert services.metrics.reconciled.labels("move carried out")._value.get() == 1
    assert (moved.start_time, moved.coach_id, moved.version) == (days[1][0], "coach-3", 2)
    assert await services.appointments.get(org, first.appointment_id) == moved
    assert await steps.differences(services, org) == 0


@pytest.mark.parametrize("reached", [True, False])
async def test_a_commit_whose_answer_was_lost_and_that_is_ended_before_it_is_repeated_stays_as_it_ended(
    services: Services,
    org: int,
    days: list[list[datetime]],
    first: Appointment,
    sql: Any,
    reached: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = services.database.write
    lost: list[str] = []

    async def lose(name: str, *arguments: Any) -> list[Any]:
        if name != "change_appointment" or lost:
            return await write(name, *arguments)
        lost.append(name)
        if reached:
            await write(name, *arguments)
        await steps.expire_pending(services)
        assert await services.reconcile() == 1
        raise OutcomeUnknown("lost")

    monkeypatch.setattr(services.database, "write", lose)
    moving = services.move(org, first.appointment_id, MoveWish(start_time=days[1][0]), **WHO)
    if reached:
        moved = await moving
        assert (moved.start_time, moved.coach_id, moved.version) == (days[1][0], "coach-3", 2)
    else:
        with pytest.raises(OutcomeUnknown):
            await moving
        moved = first
    assert lost
    assert await services.appointments.get(org, first.appointment_id) == moved
    assert await sql.fetchval(_TOMBSTONES) == (0 if reached else 1)
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def test_a_move_that_nobody_gives_up_is_made_at_once(
    services: Services, org: int, days: list[list[datetime]], first: Appointment, sql: Any
) -> None:
    moved = await services.move(org, first.appointment_id, MoveWish(start_time=days[1][0]), **WHO)
    assert (moved.start_time, moved.coach_id, moved.version) == (days[1][0], "coach-3", 2)
    back = await services.move(org, first.appointment_id, MoveWish(start_time=days[0][0]), **WHO)
    assert (back.start_time, back.coach_id, back.version) == (days[0][0], "coach-3", 3)
    assert await sql.fetchval(_TOMBSTONES) == 0
    assert await steps.differences(services, org) == 0


async def _is(sql: Any, query: str, number: int) -> bool:
    return await sql.fetchval(query) == number
