"""Whatever a crash leaves pending is ended one way or the other, once, when its deadline has passed."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import orjson
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from service.app import Services
from service.claims.scripts import ReleaseOutcome
from service.db.commit import CommitOutcome
from service.domain.appointment import Status
from service.errors import SlotUnavailable, Unavailable
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import BookingRequest
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

_COMMIT_WAITS_FOR_LOCK_1 = """
CREATE FUNCTION wait_for_lock_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait_for_lock_1 AFTER INSERT ON appointments DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_for_lock_1();
"""
_WAITING = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = $1 AND datname = current_database()"


@pytest.fixture
async def request_of_4(services: Services, org: int) -> BookingRequest:
    """A wish that only coach-4 can fulfil, so that one claim more or less shows."""
    start = (await free_starts(services, org, "cal-2"))[7]
    return wish(start, "cal-2", coach_id="coach-4")


async def test_died_before_the_insert_the_slot_is_offered_again_and_the_late_insert_loses(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    request = replace(request_of_4, idempotency_key="key")
    left = await steps.claim(services, org, request)
    assert await services.reconcile() == 0, "before its deadline a claim is left alone"
    with pytest.raises(SlotUnavailable):
        await services.book(request_of_4, caller(org), RateSeen())
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0
    assert await services.grid.deficits(org, 6) == [0] * 6
    assert (await steps.commit(services, left)).outcome is CommitOutcome.EXPIRED
    assert await steps.announced(services) == []
    # The same request under the same key is carried out now, and the tombstone shows nowhere.
    booked = await services.book(request, caller(org), RateSeen())
    assert not booked.replayed
    assert await services.appointments.get(org, left.appointment.appointment_id) is None
    assert await steps.differences(services, org) == 0


async def test_died_between_commit_and_settle_it_is_heard_of_and_its_answer_kept(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    request = replace(request_of_4, idempotency_key="key")
    left = await steps.claim(services, org, request)
    assert (await steps.commit(services, left)).outcome is CommitOutcome.TAKEN
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await services.reconcile() == 0
    event = f"{org} {left.token} 1"
    assert await steps.announced(services) == [event]
    assert await steps.announced(services, "calendar-blocks") == [event]
    again = await services.book(request, caller(org), RateSeen())
    assert (again.replayed, again.body) == (True, left.booking.data)
    assert await steps.differences(services, org) == 0


async def test_a_commit_still_under_way_at_the_deadline_wins_and_is_settled(
    services: Services, org: int, request_of_4: BookingRequest, sql: Any
) -> None:
    """The reconciler sees no row yet; its tombstone waits for the insert of the same id, and then gives way."""
    left = await steps.claim(services, org, request_of_4)
    await steps.expire_pending(services)
    await sql.execute(_COMMIT_WAITS_FOR_LOCK_1)
    await sql.execute("SELECT pg_advisory_lock(1)")
    late = asyncio.ensure_future(steps.commit(services, left))
    await eventually(lambda: sql.fetchval(_WAITING, "advisory"), what="the commit under way")
    round_of_it = asyncio.ensure_future(services.reconcile())
    await eventually(lambda: sql.fetchval(_WAITING, "transactionid"), what="the tombstone waiting for the commit")
    await sql.execute("SELECT pg_advisory_unlock(1)")
    assert (await late).outcome is CommitOutcome.TAKEN
    assert await round_of_it == 1
    assert await steps.announced(services) == [f"{org} {left.token} 1"]
    assert not await _free(services, org, left.appointment.start_time)
    assert await steps.differences(services, org) == 0
    assert await sql.fetchval("SELECT count(*) FROM appointments") == 1


async def test_two_reconcilers_at_once_end_a_claim_once(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    lost = await steps.claim(services, org, request_of_4)
    starts = await free_starts(services, org)
    kept = await steps.claim(services, org, wish(starts[20]))
    await steps.commit(services, kept)
    await steps.expire_pending(services)
    entries = await services.grid.pending()
    for _ in range(2):
        for token, entry in entries.items():
            await services.reconcile._claim(token, entry)
    assert set(await steps.announced(services)) == {f"{org} {kept.token} 1"}
    assert await steps.differences(services, org) == 0
    deficits = await services.grid.deficits(org, 6)
    assert sum(deficits) == 0
    assert deficits[kept.appointment.column] < 0
    assert (await steps.commit(services, lost)).outcome is CommitOutcome.EXPIRED


async def _booked(services: Services, org: int, request: BookingRequest) -> UUID:
    booked = await services.book(request, caller(org), RateSeen())
    await services.gate.drain()
    return UUID(orjson.loads(booked.body)["appointment_id"])


async def test_died_between_the_cancellation_and_its_release_the_time_is_freed(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    appointment = await services.change.get(org, await _booked(services, org, request_of_4))
    token = await steps.note_release(services, appointment)
    await steps.commit_cancellation(services, appointment, token)
    assert not await _free(services, org, appointment.start_time)
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await _free(services, org, appointment.start_time)
    assert await steps.differences(services, org) == 0
    assert await services.grid.deficits(org, 6) == [0] * 6
    assert (await steps.announced(services))[-1] == f"{org} {appointment.appointment_id.hex} 2"


async def test_a_change_of_a_newer_release_is_ended_like_any_other_and_announced_by_that_release(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    """Beside it a process of this one may be who finds what a crash left."""
    appointment = await services.change.get(org, await _booked(services, org, request_of_4))
    token = await steps.note_release(services, appointment)
    await steps.commit_cancellation(services, appointment, token)
    async with services.database.writing() as sql:
        await sql.execute("UPDATE events SET type = 'appointment.withdrawn' WHERE token = $1", token)
    before = await steps.announced(services)
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    assert await _free(services, org, appointment.start_time)
    assert await steps.differences(services, org) == 0
    assert await steps.announced(services) == before


async def test_a_release_whose_cancellation_never_came_is_dropped_and_frees_nothing(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    appointment = await services.change.get(org, await _booked(services, org, request_of_4))
    before = await steps.announced(services)
    await steps.note_release(services, appointment)
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    assert not await _free(services, org, appointment.start_time)
    assert await steps.differences(services, org) == 0
    assert await steps.announced(services) == before
    assert (await services.change.get(org, appointment.appointment_id)).status is Status.SCHEDULED


async def test_a_note_that_is_dropped_leaves_nothing_taken_of_a_cancellation_that_came_first(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    """A repair meanwhile saw the note, and took its time for taken."""
    appointment = await services.change.get(org, await _booked(services, org, request_of_4))
    await steps.note_release(services, appointment)
    await services.change.cancel(org, appointment.appointment_id, reason=None, actor="tests", correlation_id="corr-1")
    await services.keeper.repair(org, [appointment.column], [appointment.local_day])
    assert not await _free(services, org, appointment.start_time)
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await _free(services, org, appointment.start_time)
    assert await steps.differences(services, org) == 0


async def test_one_that_cannot_be_ended_keeps_no_other_waiting(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, bury, refused = await free_starts(services, org), services.appointments.bury_claim, list[UUID]()
    for number in range(2):
        await steps.claim(services, org, wish(starts[20], person=number))

    async def refuse_one(of: int, token: UUID, *place: Any) -> bool:
        if not refused:
            refused.append(token)
            raise Unavailable("away")
        return await bury(of, token, *place)

    await steps.expire_pending(services)
    monkeypatch.setattr(services.appointments, "bury_claim", refuse_one)
    assert await services.reconcile() == 1
    assert list(await services.grid.pending()) == [one.hex for one in refused]
    assert await services.reconcile() == 1
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0


async def test_a_token_consumed_twice_frees_nothing_of_whoever_came_after(
    services: Services, org: int, request_of_4: BookingRequest
) -> None:
    appointment = await services.change.get(org, await _booked(services, org, request_of_4))
    token = await steps.note_release(services, appointment)
    await steps.commit_cancellation(services, appointment, token)
    entries = await services.grid.pending()
    assert await services.gate.release(steps.release_of(appointment, token)) is ReleaseOutcome.RELEASED
    successor = await services.book(request_of_4, caller(org), RateSeen())
    assert orjson.loads(successor.body)["coach_id"] == "coach-4"
    # Both the process that was slow and a reconciler that had read the entry before come late.
    assert await services.gate.release(steps.release_of(appointment, token)) is ReleaseOutcome.ABSENT
    await services.reconcile._release(token.hex, entries[token.hex])
    assert not await _free(services, org, appointment.start_time)
    assert await steps.differences(services, org) == 0


async def test_a_process_that_wakes_while_its_cancellation_is_ended_frees_nothing(
    services: Services, org: int, request_of_4: BookingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reconciler has put the time right and not yet dropped the token, and somebody has booked it: it is theirs."""
    appointment = await services.change.get(org, await _booked(services, org, request_of_4))
    token = await steps.note_release(services, appointment)
    await steps.commit_cancellation(services, appointment, token)
    await steps.expire_pending(services)
    put_right = services.reconcile._settle.repair_ended
    woke: list[ReleaseOutcome] = []

    async def put_right_and_wake(*arguments: Any) -> None:
        await put_right(*arguments)
        await services.book(request_of_4, caller(org), RateSeen())
        woke.append(await services.gate.release(steps.release_of(appointment, token)))
        assert not await _free(services, org, appointment.start_time)

    monkeypatch.setattr(services.reconcile._settle, "repair_ended", put_right_and_wake)
    assert await services.reconcile() == 1
    assert woke == [ReleaseOutcome.LATE]
    assert token.hex not in await services.grid.pending()
    assert await steps.differences(services, org) == 0


async def _free(services: Services, org: int, start: datetime) -> bool:
    """Whether coach-4 is listed at a start of cal-2."""
    roster = await services.rosters.get(org)
    calendar, coach = roster.calendar("cal-2"), roster.coach("coach-4")
    free = await services.availability(roster, calendar, coach, start, start + timedelta(minutes=1))
    return free.total == 1


async def test_what_cannot_be_ended_is_told_in_one_line_a_round_and_ended_in_a_later_one(
    services: Services, org: int, monkeypatch: Any
) -> None:
    starts = await free_starts(services, org)
    left = {(await steps.claim(services, org, wish(start))).token for start in starts[8:13]}
    await steps.expire_pending(services)
    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(services.gate, "release", AsyncMock(side_effect=Unavailable("Redis refused")))
        for _ in range(2):
            assert await services.reconcile() == 0
    assert [line["error"] for line in lines if line["event"] == "not reconciled"] == ["Redis refused"] * 2
    assert set(await services.grid.pending()) == left
    assert await services.reconcile() == 5
    assert await services.grid.pending() == {}
