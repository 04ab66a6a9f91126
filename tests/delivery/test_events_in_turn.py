"""Calendar events about one appointment, or one coach, are applied in the order they were accepted in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import orjson
import pytest

from service.domain.appointment import Appointment
from service.errors import Unavailable
from service.operations.accept_calendar_event import AcceptCalendarEvent
from tests.delivery.bench import QUICK, Bench
from tests.delivery.test_incoming_events import ended, state_of
from tests.delivery.test_what_the_calendar_says import COACH, OTHER, at, now_is, periods, whole_day
from tests.servers import eventually

Tell: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def tell(bench: Bench) -> Tell:
    """Take an event in; it is answered when this comes back."""
    s = bench.services
    accept = AcceptCalendarEvent(s.incoming, s.scripts, s.shards)

    async def take(event_id: str, event_type: str, **body: Any) -> None:
        assert await accept(bench.org, event_id, event_type, orjson.dumps(body), "corr-9")

    return take


def failing(bench: Bench, patch: pytest.MonkeyPatch, start: datetime, times: int) -> None:
    """Moves to a start are answered that the service is unavailable so often."""
    move, left = bench.services.move._move, itertools.chain([True] * times, itertools.repeat(False))

    async def sometimes(org: int, appointment_id: UUID, wish: Any, *more: Any) -> Appointment:
        if wish.start_time == start and next(left):
            raise Unavailable("Redis did not answer")
        return await move(org, appointment_id, wish, *more)

    patch.setattr(bench.services.move, "_move", sometimes)


async def attempts(bench: Bench) -> dict[str, tuple[str, int]]:
    """Where each event stands, and after how many attempts."""
    rows = await bench.sql("SELECT event_id, state, attempts FROM webhook_events")
    return {row["event_id"]: (row["state"], row["attempts"]) for row in rows}


async def test_the_later_of_two_is_applied_last_also_when_the_first_is_tried_again(
    bench: Bench, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = await whole_day(bench)
    appointment = await at(bench, day[0])
    failing(bench, monkeypatch, day[8], 6)
    known = appointment["appointment_id"]
    async with bench.worker():
        await tell("first", "appointment.updated", appointment_id=known, start_time=day[8].isoformat())
        # An id may be spelt otherwise.
        await tell("second", "appointment.updated", appointment_id=known.upper(), start_time=day[16].isoformat())
        await ended(bench, "second")
    assert (await now_is(bench, appointment)).start_time == day[16]
    # Waiting for its turn is no attempt.
    assert await attempts(bench) == {"first": ("processed", 7), "second": ("processed", 1)}


async def test_each_of_many_appointments_ends_where_it_was_moved_last(bench: Bench, tell: Tell) -> None:
    day = await whole_day(bench)
    booked = [await at(bench, start, coach) for start in day[:6] for coach in (COACH, OTHER)]
    async with bench.worker():
        for number, one in enumerate(booked):
            for turn in (8, 16, 24):
                start = day[turn + number // 2].isoformat()
                body = {"appointment_id": one["appointment_id"], "start_time": start, "coach_id": one["coach_id"]}
                await tell(f"{number} {turn}", "appointment.updated", **body)
        for number in range(len(booked)):
            await ended(bench, f"{number} 24")
    ends = [(await now_is(bench, one)).start_time for one in booked]
    assert ends == [day[24 + number // 2] for number in range(len(booked))]


async def test_a_coach_who_was_away_and_came_back_is_there(bench: Bench, tell: Tell) -> None:
    day = await whole_day(bench)
    async with bench.worker():
        for number in range(12):
            period = {"start_time": day[2 * number].isoformat(), "end_time": day[2 * number + 2].isoformat()}
            for word in ("unavailable", "available"):
                await tell(f"{word} {number}", f"coach.{word}", coach_id=COACH, **period)
        await ended(bench, "available 11")
    assert await periods(bench) == []


async def test_what_concerns_another_does_not_wait(bench: Bench, tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    day = await whole_day(bench)
    held, other = await at(bench, day[0]), await at(bench, day[1])
    failing(bench, monkeypatch, day[8], 1000)
    async with bench.worker(policy=replace(QUICK, attempts=1000)):
        await tell("stuck", "appointment.updated", appointment_id=held["appointment_id"], start_time=day[8].isoformat())
        await tell("behind", "appointment.confirmed", appointment_id=held["appointment_id"])
        await tell("free", "appointment.confirmed", appointment_id=other["appointment_id"])
        period = {"start_time": day[20].isoformat(), "end_time": day[22].isoformat()}
        await tell("away", "coach.unavailable", coach_id=COACH, **period)

        async def others_are_done() -> bool:
            return [await state_of(bench, name) for name in ("free", "away")] == ["processed"] * 2

        await eventually(others_are_done, what="the events of others")
        assert await state_of(bench, "behind") == "received"


async def test_a_dead_one_holds_up_nobody_and_its_replay_has_the_turn_of_one_that_arrives_then(
    bench: Bench, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = await whole_day(bench)
    appointment = await at(bench, day[0])
    obstacle = await at(bench, day[8])
    known = appointment["appointment_id"]

    async def to(name: str, place: int) -> None:
        body = {"start_time": day[place].isoformat(), "coach_id": COACH}
        await tell(name, "appointment.updated", appointment_id=known, **body)

    async with bench.worker():
        await to("dead", 8)
        await to("next", 16)
        await ended(bench, "next")
    assert await state_of(bench, "dead") == "dead"
    assert (await now_is(bench, appointment)).start_time == day[16]

    await bench.cancel(obstacle)
    await to("before", 20)
    await bench.services.database.write("replay_webhook_event", bench.org, "dead")
    await to("after", 24)
    failing(bench, monkeypatch, day[8], 6)
    async with bench.worker():
        await asyncio.gather(*(ended(bench, name) for name in ("before", "dead", "after")))
    rows = await bench.sql(
        "SELECT data ->> 'start_time' AS start FROM events WHERE appointment_id = $1 AND sequence > 2"
        " ORDER BY sequence",
        UUID(known),
    )
    assert [datetime.fromisoformat(row["start"]) for row in rows] == [day[20], day[8], day[24]]


async def test_how_many_are_ahead_and_whether_one_is_tried_again_is_known(bench: Bench, tell: Tell) -> None:
    period = {"start_time": "2026-12-01T09:00:00Z", "end_time": "2026-12-01T10:00:00Z"}
    for name in ("first", "second", "third"):
        await tell(name, "coach.unavailable", coach_id=COACH, **period)
    await tell("another", "coach.unavailable", coach_id=OTHER, **period)
    incoming = bench.services.incoming

    async def lines() -> list[tuple[int, bool]]:
        found = [await incoming.get(bench.org, name) for name in ("first", "second", "third", "another")]
        return [(event.ahead, event.held_up) for event in found if event is not None]

    assert await lines() == [(0, False), (1, False), (2, False), (0, False)]
    await incoming.mark(bench.org, "first", "retrying", 1, "later")
    assert await lines() == [(0, False), (1, True), (2, True), (0, False)]
    await incoming.mark(bench.org, "first", "processed", 2, None)
    assert await lines() == [(0, False), (0, False), (1, False), (0, False)]


@pytest.mark.parametrize(
    ("event_type", "body", "concerns"),
    [
        (
            "appointment.updated",
            {"appointment_id": "0190A1B2-0000-7000-8000-00000000000A", "coach_id": "c"},
            "appointment 0190a1b2-0000-7000-8000-00000000000a",
        ),
        ("coach.available", {"coach_id": "Coach-1", "appointment_id": str(UUID(int=1))}, "coach Coach-1"),
        ("coach.available", {"coach_id": "x" * 100_000}, "coach " + "x" * 249),
        ("appointment.cancelled", {"appointment_id": "apt-1"}, None),
        ("appointment.cancelled", {}, None),
    ],
)
async def test_what_an_event_concerns_is_kept_with_it(
    bench: Bench, tell: Tell, event_type: str, body: dict[str, str], concerns: str | None
) -> None:
    await tell("e1", event_type, **body)
    assert [row["concerns"] for row in await bench.sql("SELECT concerns FROM webhook_events")] == [concerns]


async def test_an_id_that_is_none_is_taken_in_and_ends_as_dead(bench: Bench, tell: Tell) -> None:
    period = {"start_time": "2026-12-01T09:00:00Z", "end_time": "2026-12-01T10:00:00Z"}
    async with bench.worker():
        await tell("nul", "coach.unavailable", coach_id="a\0b", **period)
        await tell("long", "coach.unavailable", coach_id="c" * 5_000, **period)
        await tell("number", "coach.unavailable", coach_id=7, **period)
        for name in ("nul", "long", "number"):

            async def dead(name: str = name) -> bool:
                return await state_of(bench, name) == "dead"

            await eventually(dead, what=f"the end of {name}")
