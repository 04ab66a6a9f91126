"""An event of the outside is acknowledged once it is kept, and processed once however often it comes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from redis.exceptions import ResponseError

from service.db.appointments import Change, ChangeOutcome
from service.db.deliveries import IncomingEvent
from service.delivery.dispatcher import RetryPolicy
from service.delivery.incoming import Overdue
from service.errors import Unavailable
from service.operations.accept_calendar_event import AcceptCalendarEvent
from service.operations.apply_calendar_event import ApplyCalendarEvent
from service.operations.change import ATTEMPTS
from tests.delivery.bench import Bench
from tests.servers import eventually

PERIOD = {"start_time": "2190-01-06T10:00:00Z", "end_time": "2190-01-06T12:00:00Z"}
PAST = {"start_time": "2020-01-06T10:00:00Z", "end_time": "2020-01-06T12:00:00Z"}
EXISTING = "existing: must be one of reassign, cancel, keep"
ORDER = "end_time: must be after start_time"


@pytest.fixture
def accept(bench: Bench) -> AcceptCalendarEvent:
    """The operation the edge calls."""
    s = bench.services
    return AcceptCalendarEvent(s.incoming, s.scripts, s.shards)


async def state_of(bench: Bench, event_id: str) -> str:
    """Where the event's processing stands."""
    event = await bench.services.incoming.get(bench.org, event_id)
    assert event is not None
    return event.state


async def ended(bench: Bench, event_id: str) -> None:
    """Wait until an event is processed or dead, and off its stream."""

    async def over() -> bool:
        return await state_of(bench, event_id) in ("processed", "dead") and await bench.left("calendar-events") == (
            0,
            0,
            0,
        )

    await eventually(over, what=f"the end of {event_id}")


async def test_twenty_times_at_once_is_one_event_processed_once(bench: Bench, accept: AcceptCalendarEvent) -> None:
    (appointment,) = await bench.book(1)
    body = orjson.dumps(
        {
            "event_type": "appointment.cancelled",
            "appointment_id": appointment["appointment_id"],
            "reason": "sick",
        }
    )
    event_id = "evt with spaces  1"
    news = await asyncio.gather(
        *(accept(bench.org, event_id, "appointment.cancelled", body, "corr-7") for _ in range(20))
    )
    assert sorted(news) == [False] * 19 + [True]
    assert await bench.left("calendar-events") == (1, 0, 0)
    async with bench.worker():
        await ended(bench, event_id)
    rows = await bench.sql("SELECT * FROM webhook_events")
    assert [(row["event_id"], row["state"], row["attempts"]) for row in rows] == [(event_id, "processed", 1)]
    told = await bench.sql("SELECT * FROM events WHERE type = 'appointment.cancelled'")
    assert [(row["actor"], row["reason"], row["correlation_id"]) for row in told] == [("calendar", "sick", "corr-7")]


async def test_a_repeat_after_redis_forgot_it_is_enqueued_and_does_nothing(
    bench: Bench, accept: AcceptCalendarEvent
) -> None:
    (appointment,) = await bench.book(1)
    body = orjson.dumps({"appointment_id": appointment["appointment_id"]})
    async with bench.worker():
        assert await accept(bench.org, "e1", "appointment.confirmed", body, "corr")
        await ended(bench, "e1")
        # Applied again it would fail now.
        await bench.cancel(appointment)
        await bench.services.redis.flushall()
        assert not await accept(bench.org, "e1", "appointment.confirmed", body, "corr")
        await ended(bench, "e1")
    assert await bench.dead("calendar-events") == []
    found = await bench.services.change.get(bench.org, UUID(appointment["appointment_id"]))
    assert found.confirmed_at is not None
    assert found.version == 3


async def test_two_events_that_want_the_same_are_both_processed(bench: Bench, accept: AcceptCalendarEvent) -> None:
    (appointment,) = await bench.book(1)
    body = orjson.dumps({"appointment_id": appointment["appointment_id"]})
    async with bench.worker():
        for event_id in ("e1", "e2"):
            await accept(bench.org, event_id, "appointment.cancelled", body, "corr")
        for event_id in ("e1", "e2"):
            await ended(bench, event_id)
            assert await state_of(bench, event_id) == "processed"


@pytest.mark.parametrize(
    ("event_type", "body", "error"),
    [
        ("coach.vanished", {"coach_id": "coach-1"}, "event_type: coach.vanished is not known"),
        ("coach.available", {"coach_id": "coach-1"}, "start_time: is missing"),
        ("coach.unavailable", {"coach_id": "coach-1", **PERIOD, "existing": "explode"}, EXISTING),
        ("coach.unavailable", {"coach_id": "coach-1", **PERIOD, "end_time": "soon"}, "end_time: is not a time"),
        ("coach.unavailable", {"coach_id": "coach-1", **PERIOD, "end_time": PERIOD["start_time"]}, ORDER),
        ("coach.unavailable", {"coach_id": "coach-1", **PAST}, "end_time: is in the past"),
        ("coach.unavailable", {"coach_id": "nobody", **PERIOD}, "no coach 'nobody'"),
        ("coach.available", {"coach_id": "nobody", **PERIOD}, "no coach 'nobody'"),
        ("appointment.updated", {"appointment_id": str(UUID(int=5))}, f"no appointment {UUID(int=5)}"),
        ("appointment.completed", {"appointment_id": str(UUID(int=5))}, f"no appointment {UUID(int=5)}"),
        ("appointment.cancelled", {}, "appointment_id: is missing"),
        ("appointment.cancelled", {"appointment_id": "apt-1"}, "appointment_id: is not an appointment's id"),
        ("appointment.confirmed", {"appointment_id": str(UUID(int=5))}, f"no appointment {UUID(int=5)}"),
    ],
)
async def test_an_event_that_cannot_be_applied_is_dead_with_its_reason(
    bench: Bench, accept: AcceptCalendarEvent, event_type: str, body: dict[str, str], error: str
) -> None:
    async with bench.worker():
        await accept(bench.org, "e1", event_type, orjson.dumps(body), "corr")
        await ended(bench, "e1")
    event = await bench.services.incoming.get(bench.org, "e1")
    assert event is not None
    assert (event.state, event.error, event.attempts) == ("dead", error, 1)
    (letter,) = await bench.dead("calendar-events")
    assert letter == {"event": f"{bench.org} e1", "attempts": "1", "error": error}


async def test_an_event_that_can_be_put_off_nowhere_is_not_tried_more_often_than_allowed(
    bench: Bench, accept: AcceptCalendarEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is taken over as it was, with the number of an attempt that was recorded already."""
    tried: list[str] = []

    async def refused(*_: Any) -> int:
        raise ResponseError("OOM command not allowed when used memory > 'maxmemory'")

    async def away(_: ApplyCalendarEvent, event: IncomingEvent) -> None:
        tried.append(event.event_id)
        raise Unavailable("away")

    monkeypatch.setattr(bench.services.scripts, "retry_later", refused)
    monkeypatch.setattr(ApplyCalendarEvent, "__call__", away)
    await accept(bench.org, "evt-1", "appointment.cancelled", b"{}", "corr-7")
    async with bench.worker(policy=RetryPolicy(attempts=3, delay_ms=5), idle_ms=50):
        await ended(bench, "evt-1")
    assert tried == ["evt-1"] * 3
    (row,) = await bench.sql("SELECT state, attempts FROM webhook_events")
    assert tuple(row) == ("dead", 3)


async def test_a_final_appointment_cannot_be_confirmed_from_outside(bench: Bench, accept: AcceptCalendarEvent) -> None:
    (appointment,) = await bench.book(1)
    await bench.cancel(appointment)
    body = orjson.dumps({"appointment_id": appointment["appointment_id"]})
    async with bench.worker():
        await accept(bench.org, "e1", "appointment.confirmed", body, "corr")
        await ended(bench, "e1")
    assert await state_of(bench, "e1") == "dead"


async def test_one_that_others_keep_forestalling_is_tried_again(
    bench: Bench, accept: AcceptCalendarEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    (appointment,) = await bench.book(1)
    appointments = bench.services.change._appointments
    change, forestalled = appointments.change, iter(range(ATTEMPTS))

    async def too_late(wanted: Change) -> ChangeOutcome:
        return await change(wanted) if next(forestalled, None) is None else ChangeOutcome.STALE

    monkeypatch.setattr(appointments, "change", too_late)
    body = orjson.dumps({"appointment_id": appointment["appointment_id"]})
    async with bench.worker():
        await accept(bench.org, "e1", "appointment.confirmed", body, "corr")
        await ended(bench, "e1")
    event = await bench.services.incoming.get(bench.org, "e1")
    assert event is not None
    assert (event.state, event.attempts) == ("processed", 2)


async def test_an_event_whose_entry_was_lost_is_enqueued_again_and_one_on_its_way_is_not(
    bench: Bench, accept: AcceptCalendarEvent
) -> None:
    s = bench.services
    stream = bench.stream("calendar-events")
    overdue = Overdue(store=s.incoming, roster_store=s.roster_store, shards=s.shards, streams=[stream], clock=s.clock)
    (appointment,) = await bench.book(1)
    body = orjson.dumps({"appointment_id": appointment["appointment_id"]})
    await accept(bench.org, "lost", "appointment.confirmed", body, "corr")
    assert await overdue() == 0  # too young
    await bench.sql("UPDATE webhook_events SET received_at = now() - $1::interval", timedelta(minutes=2))
    assert await overdue() == 0  # in the stream
    (entry,) = await stream.read(1, 10)
    assert await overdue() == 0  # pending
    await stream.later(entry, 60_000, 2)
    assert await overdue() == 0  # due later
    await s.redis.flushall()
    assert await overdue() == 1
    assert await overdue() == 0
    async with bench.worker():
        await ended(bench, "lost")
    assert await state_of(bench, "lost") == "processed"


async def test_an_event_is_accepted_while_redis_is_away(bench: Bench, accept: AcceptCalendarEvent) -> None:
    async def refuse(*_: object) -> bool:
        raise ConnectionError

    accept._scripts.accept_event = refuse  # type: ignore[method-assign]
    assert await accept(bench.org, "e1", "appointment.confirmed", b"{}", "corr")
    assert await state_of(bench, "e1") == "received"
