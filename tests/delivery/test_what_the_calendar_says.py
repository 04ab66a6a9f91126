"""What the external calendar says of appointments and of coaches is done, once, and seen in the answers."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import orjson
import pytest

from service.app import build_time_off
from service.domain.appointment import Appointment
from service.domain.grid import instant_of
from service.errors import Unavailable
from service.operations.accept_calendar_event import AcceptCalendarEvent
from service.operations.local_rates import RateSeen
from service.operations.time_off import Absence, TimeOff
from service.operations.treat_appointments import Existing
from tests.delivery.bench import Bench
from tests.delivery.test_incoming_events import ended, state_of
from tests.wishes import caller, wish

COACH, OTHER = "coach-1", "coach-3"  # the team of cal-3

Tell: TypeAlias = Callable[..., Awaitable[str]]


@pytest.fixture
def time_off(bench: Bench) -> TimeOff:
    """The operation, as the worker has it."""
    return build_time_off(bench.services)


@pytest.fixture
def tell(bench: Bench) -> Tell:
    """Take an event in and wait for its end: its state."""
    s = bench.services
    accept = AcceptCalendarEvent(s.incoming, s.scripts, s.shards)
    numbers = itertools.count()

    async def take(event_type: str, event_id: str | None = None, **body: Any) -> str:
        event_id = event_id or f"event-{next(numbers)}"
        await accept(bench.org, event_id, event_type, orjson.dumps(body), "corr-9")
        async with bench.worker():
            await ended(bench, event_id)
        return await state_of(bench, event_id)

    return take


async def starts(bench: Bench, coach: str = COACH) -> list[datetime]:
    """The coach's free starts in cal-3 on the first day that is free as a whole."""
    s = bench.services
    roster = await s.rosters.get(bench.org)
    now = s.clock.now()
    free = await s.availability(
        roster, roster.calendar("cal-3"), roster.coach(coach), now + timedelta(days=1), now + timedelta(days=6)
    )
    return [instant_of(cell) for cell, _ in free.rows]


async def whole_day(bench: Bench) -> list[datetime]:
    """The 32 starts of the coach's first whole day."""
    found = await starts(bench)
    days = [list(group) for _, group in itertools.groupby(found, key=lambda start: start.date())]
    return next(day for day in days if len(day) == 32)


async def at(bench: Bench, start: datetime, coach: str = COACH) -> dict[str, Any]:
    """An appointment with a coach."""
    answer = await bench.services.book(wish(start, "cal-3", coach_id=coach), caller(bench.org), RateSeen())
    return orjson.loads(answer.body)


async def now_is(bench: Bench, appointment: dict[str, Any]) -> Appointment:
    """The appointment as it is now."""
    return await bench.services.change.get(bench.org, UUID(appointment["appointment_id"]))


async def told(bench: Bench, appointment: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """(type, actor, reason) of what happened to an appointment after it was booked."""
    rows = await bench.sql(
        "SELECT type, actor, reason FROM events WHERE appointment_id = $1 AND sequence > 1 ORDER BY sequence",
        UUID(appointment["appointment_id"]),
    )
    return [tuple(row) for row in rows]


async def periods(bench: Bench) -> list[tuple[datetime, datetime, str]]:
    """(start, end, source) of all time off."""
    rows = await bench.sql("SELECT starts_at, ends_at, source FROM time_off ORDER BY starts_at, ends_at")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("word", ["completed", "no_show"])
async def test_how_an_appointment_ended(bench: Bench, tell: Tell, word: str) -> None:
    appointment = await at(bench, (await whole_day(bench))[0])
    body = {"appointment_id": appointment["appointment_id"]}
    assert await tell(f"appointment.{word}", **body) == "processed"
    assert await tell(f"appointment.{word}", **body) == "processed"
    assert (await now_is(bench, appointment)).status == word
    assert await told(bench, appointment) == [(f"appointment.{word}", "calendar", None)]
    assert await tell("appointment.cancelled", **body) == "dead"


async def test_an_appointment_is_moved_and_keeps_its_length(bench: Bench, tell: Tell) -> None:
    day = await whole_day(bench)
    appointment = await at(bench, day[0])
    body = {"appointment_id": appointment["appointment_id"], "start_time": day[8].isoformat()}
    assert await tell("appointment.updated", **body) == "processed"
    moved = await now_is(bench, appointment)
    assert (moved.start_time, moved.end_time, moved.coach_id) == (day[8], day[8] + timedelta(minutes=15), COACH)
    assert (day[0] in await starts(bench), day[8] in await starts(bench)) == (True, False)
    # Said again, and with the end it has, there is nothing to do.
    assert await tell("appointment.updated", **body, end_time=moved.end_time.isoformat()) == "processed"
    assert await told(bench, appointment) == [("appointment.rescheduled", "calendar", None)]
    given = {"appointment_id": appointment["appointment_id"], "coach_id": OTHER, "notes": "bring the papers"}
    assert await tell("appointment.updated", **given) == "processed"
    moved = await now_is(bench, appointment)
    assert (moved.coach_id, moved.notes, moved.start_time) == (OTHER, "bring the papers", day[8])


async def test_an_update_that_concerns_nothing_of_ours_changes_nothing(bench: Bench, tell: Tell) -> None:
    appointment = await at(bench, (await whole_day(bench))[0])
    assert await tell("appointment.updated", appointment_id=appointment["appointment_id"], room="12") == "processed"
    assert (await now_is(bench, appointment)).version == 1


async def test_a_move_onto_a_taken_time_is_dead_at_once_and_changes_nothing(bench: Bench, tell: Tell) -> None:
    day = await whole_day(bench)
    appointment = await at(bench, day[0])
    await at(bench, day[8])
    body = {"appointment_id": appointment["appointment_id"], "start_time": day[8].isoformat(), "coach_id": COACH}
    assert await tell("appointment.updated", "taken", **body) == "dead"
    event = await bench.services.incoming.get(bench.org, "taken")
    assert event is not None
    assert (event.attempts, event.error) == (1, "nobody who could take this time is free")
    assert (await now_is(bench, appointment)).version == 1


async def test_a_coach_is_unavailable_and_available_again(bench: Bench, tell: Tell) -> None:
    day = await whole_day(bench)
    given, kept = await at(bench, day[4]), await at(bench, day[5])
    await at(bench, day[5], OTHER)
    period = {"coach_id": COACH, "start_time": day[4].isoformat(), "end_time": day[8].isoformat()}
    assert await tell("coach.unavailable", **period, reason="ill") == "processed"
    assert set(day[4:8]) & set(await starts(bench)) == set()
    assert await periods(bench) == [(day[4], day[8], "calendar")]
    assert (await now_is(bench, given)).coach_id == OTHER
    assert await told(bench, given) == [("appointment.reassigned", "calendar", "ill")]
    assert (await now_is(bench, kept)).version == 1
    assert await tell("coach.available", **period) == "processed"
    assert set(day[4:8]) - set(await starts(bench)) == {day[5]}
    assert await periods(bench) == []
    assert (await now_is(bench, given)).coach_id == OTHER


@pytest.mark.parametrize(("existing", "status", "said"), [("cancel", "cancelled", 1), ("keep", "scheduled", 0)])
async def test_what_is_inside_is_cancelled_or_kept_as_the_calendar_says(
    bench: Bench, tell: Tell, existing: str, status: str, said: int
) -> None:
    day = await whole_day(bench)
    appointment = await at(bench, day[4])
    period = {"coach_id": COACH, "start_time": day[4].isoformat(), "end_time": day[8].isoformat()}
    assert await tell("coach.unavailable", **period, existing=existing) == "processed"
    now = await now_is(bench, appointment)
    assert (now.status, now.coach_id) == (status, COACH)
    assert await told(bench, appointment) == [("appointment.cancelled", "calendar", "the coach is away")] * said


async def test_available_cuts_what_the_calendar_said_and_leaves_what_the_api_said(
    bench: Bench, tell: Tell, time_off: TimeOff
) -> None:
    day = await whole_day(bench)

    async def away(first: int, last: int) -> None:
        start, end = day[first].isoformat(), day[last].isoformat()
        assert await tell("coach.unavailable", coach_id=COACH, start_time=start, end_time=end) == "processed"

    for first, last in ((0, 6), (4, 20), (8, 12), (14, 18), (24, 28)):
        await away(first, last)
    wish = Absence(start=day[11], end=day[13], reason=None, existing=Existing.KEEP, source="api")
    await time_off.close(bench.org, COACH, wish, actor="tests", correlation_id="corr")
    body = {"coach_id": COACH, "start_time": day[5].isoformat(), "end_time": day[16].isoformat()}
    for event_id in ("open", "again"):
        assert await tell("coach.available", event_id, **body) == "processed"
        assert [(day.index(start), day.index(end), source) for start, end, source in await periods(bench)] == [
            (0, 5, "calendar"),
            (4, 5, "calendar"),
            (11, 13, "api"),
            (16, 18, "calendar"),
            (16, 20, "calendar"),
            (24, 28, "calendar"),
        ]
    closed = [*range(5), *range(11, 13), *range(16, 20), *range(24, 28)]
    assert [place for place, start in enumerate(day) if start not in await starts(bench)] == closed


async def test_an_event_applied_twice_makes_one_period_and_goes_on_with_what_is_left(
    bench: Bench, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = await whole_day(bench)
    appointments = [await at(bench, day[4]), await at(bench, day[5])]
    move, outages = bench.services.move._move, itertools.chain([True] * 13, itertools.repeat(False))

    async def often_away(*arguments: Any) -> Appointment:
        if next(outages):
            raise Unavailable("Redis did not answer")
        return await move(*arguments)

    monkeypatch.setattr(bench.services.move, "_move", often_away)
    period = {"coach_id": COACH, "start_time": day[4].isoformat(), "end_time": day[8].isoformat()}
    assert await tell("coach.unavailable", "flaky", **period) == "processed"
    event = await bench.services.incoming.get(bench.org, "flaky")
    assert event is not None
    assert event.attempts > 1
    assert await periods(bench) == [(day[4], day[8], "calendar")]
    for one in appointments:
        assert (await now_is(bench, one)).coach_id == OTHER
        assert len(await told(bench, one)) == 1
