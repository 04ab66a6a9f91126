"""One reminder for each appointment and start, whoever makes it, however often, whatever happened in between."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from service.app import Services, open_services
from service.config import Settings
from service.db.statements import statement
from service.delivery.destinations import Destination
from service.domain.appointment import Appointment
from service.errors import VersionMismatch
from service.operations import remind as remind_module
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from tests.delivery.bench import Bench
from tests.notifications.conftest import MovedClock
from tests.notifications.post_office import PostOffice, all_sent
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

DAY = timedelta(days=1)


async def book(services: Services, org: int, start: datetime, person: int = 0) -> dict[str, Any]:
    """An appointment at a start."""
    return orjson.loads((await services.book(wish(start, person=person), caller(org), RateSeen())).body)


async def starts(services: Services, org: int, clock: MovedClock, after: timedelta) -> list[datetime]:
    """The free starts later than `after` from now, each once."""
    free = sorted(set(await free_starts(services, org)))
    return [start for start in free if start > clock.now() + after]


async def move(services: Services, org: int, appointment: dict[str, Any], to: datetime) -> Appointment:
    """Move an appointment to another start."""
    appointment_id = UUID(appointment["appointment_id"])
    return await services.move(org, appointment_id, MoveWish(start_time=to), actor="tests", correlation_id="corr-m")


async def reminded(bench: Bench) -> list[tuple[str, datetime]]:
    """(appointment, start) of every reminder that was made."""
    rows = await bench.sql("SELECT appointment_id, data FROM events WHERE type = 'appointment.reminder'")
    found = [(row["appointment_id"], orjson.loads(row["data"])) for row in rows]
    return [(str(appointment), datetime.fromisoformat(data["start_time"])) for appointment, data in found]


async def test_a_reminder_comes_a_day_before_and_only_once(
    bench: Bench, office: PostOffice, mail: Destination, clock: MovedClock
) -> None:
    services, org = bench.services, bench.org
    start = (await starts(services, org, clock, 2 * DAY))[0]
    booked = await book(services, org, start)
    clock.time = start - DAY - timedelta(seconds=1)
    assert await services.remind() == 0
    clock.time = start - DAY
    assert await services.remind() == 1
    clock.forward(timedelta(hours=1))
    assert await services.remind() == 0
    assert await reminded(bench) == [(booked["appointment_id"], start)]
    async with bench.worker(notifications=mail):
        await eventually(lambda: len(office.letters) == 2, what="both letters")
        told = "SELECT destination FROM deliveries WHERE sequence = 2"

        async def noted() -> bool:
            return [row["destination"] for row in await bench.sql(told)] == ["notifications"]

        await eventually(noted, what="its delivery, and no other of this event")
    confirmation, reminder = office.letters
    assert reminder.read["Subject"].startswith("Reminder: ")
    assert "this is a reminder of your appointment" in reminder.text
    assert reminder.method == "REQUEST"
    assert (reminder.entry["UID"], reminder.entry["DTSTART"].dt) == (confirmation.entry["UID"], start)
    (history,) = [e for e in await services.appointments.history(org, UUID(booked["appointment_id"])) if e.sequence > 1]
    assert (history.sequence, history.actor) == (2, "reminders")
    assert orjson.loads(history.data) == {
        **booked,
        "version": 2,
        "updated_at": orjson.loads(history.data)["updated_at"],
    }


async def test_three_workers_at_once_and_a_restart_remind_of_each_start_once(
    bench: Bench, clock: MovedClock, mail_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, org = bench.services, bench.org
    monkeypatch.setattr(remind_module, "BATCH", 7)
    free = await starts(services, org, clock, DAY)
    one, next_one = sorted({start.date() for start in free})[1:3]  # whole days, whatever the hour is now
    wanted = [start for start in free if start.date() == one][:20] + [s for s in free if s.date() == next_one][:10]
    booked = [await book(services, org, start, person) for person, start in enumerate(wanted)]
    clock.time = wanted[0] - timedelta(hours=1)
    due = [start for start in wanted if start <= clock.now() + DAY]
    assert due == wanted[:20]
    async with AsyncExitStack() as stack:
        workers = [services]
        workers += [await stack.enter_async_context(open_services(mail_settings, clock=clock)) for _ in range(2)]
        made = await asyncio.gather(*(worker.remind() for worker in workers for _ in range(2)))
    assert sum(made) == len(due)
    async with open_services(mail_settings, clock=clock) as after_a_restart:
        assert await after_a_restart.remind() == 0
    found = await reminded(bench)
    assert sorted(found) == sorted((b["appointment_id"], s) for b, s in zip(booked, wanted, strict=True) if s in due)
    gaps = await bench.sql(
        "SELECT appointment_id FROM events GROUP BY appointment_id HAVING max(sequence) <> count(*)"
        " UNION ALL SELECT appointment_id FROM appointments AS a"
        " WHERE version <> (SELECT max(sequence) FROM events AS e WHERE e.appointment_id = a.appointment_id)"
    )
    assert gaps == []


async def test_a_move_is_reminded_of_anew_and_coming_back_is_not(bench: Bench, clock: MovedClock) -> None:
    services, org = bench.services, bench.org
    free = await starts(services, org, clock, 2 * DAY)
    first = free[0]
    second = next(start for start in free if start > first + 2 * DAY)
    booked = await book(services, org, first)
    clock.time = first - DAY
    assert await services.remind() == 1
    await move(services, org, booked, second)
    assert await services.remind() == 0
    clock.time = second - DAY
    assert await services.remind() == 1
    assert await reminded(bench) == [(booked["appointment_id"], first), (booked["appointment_id"], second)]
    # Away and back: of this start it was reminded already.
    third = next(start for start in await starts(services, org, clock, 2 * DAY) if start > second)
    await move(services, org, booked, third)
    await move(services, org, booked, second)
    assert await services.remind() == 0
    assert len(await reminded(bench)) == 2


async def test_a_reminder_that_comes_later_than_it_used_to_is_none_for_a_start_of_which_there_was_one(
    bench: Bench, clock: MovedClock, mail_settings: Settings
) -> None:
    services, org = bench.services, bench.org
    free = await starts(services, org, clock, 3 * DAY)
    first, second = free[0], free[1]
    booked = await book(services, org, first)
    async with open_services(replace(mail_settings, reminder_hours_before=48.0), clock=clock) as early:
        clock.time = first - 2 * DAY
        assert await early.remind() == 1
        await move(services, org, booked, second)
        clock.time = second - 2 * DAY
        assert await early.remind() == 1
    await move(services, org, booked, first)
    clock.time = first - DAY
    assert await services.remind() == 0
    assert [start for _, start in await reminded(bench)] == [first, second]


async def test_who_was_just_told_is_not_reminded(bench: Bench, clock: MovedClock) -> None:
    services, org = bench.services, bench.org
    soon = (await starts(services, org, clock, timedelta(hours=3)))[0]
    clock.time = soon - timedelta(hours=23)
    booked = await book(services, org, soon)
    later = await book(services, org, (await starts(services, org, clock, 2 * DAY))[0], person=1)
    assert await services.remind() == 0
    await move(services, org, later, (await starts(services, org, clock, timedelta(hours=3)))[0])
    assert await services.remind() == 0
    clock.time = soon - timedelta(minutes=1)
    assert await services.remind() == 0
    assert await reminded(bench) == []
    # It is noted on the row, so that it is not looked at again, and the version stays.
    (row,) = await bench.sql(
        "SELECT version, reminded_for FROM appointments WHERE appointment_id = $1", UUID(booked["appointment_id"])
    )
    assert (row["version"], row["reminded_for"]) == (1, [soon])


async def test_what_was_cancelled_or_has_begun_is_not_reminded_of(bench: Bench, clock: MovedClock) -> None:
    services, org = bench.services, bench.org
    free = await starts(services, org, clock, 2 * DAY)
    cancelled, missed = [await book(services, org, start, n) for n, start in enumerate(free[:2])]
    await bench.cancel(cancelled)
    clock.time = free[0] - DAY
    assert await services.remind() == 0
    # The workers were away until it began.
    clock.time = datetime.fromisoformat(missed["start_time"])
    assert await services.remind() == 0
    assert await reminded(bench) == []


async def test_a_reminder_that_could_not_be_sent_in_time_is_not_sent_late(
    bench: Bench, office: PostOffice, mail: Destination, clock: MovedClock
) -> None:
    services, org = bench.services, bench.org
    start = (await starts(services, org, clock, 2 * DAY))[0]
    await book(services, org, start)
    clock.time = start - DAY
    assert await services.remind() == 1
    clock.time = start
    async with bench.worker(notifications=mail):

        async def dead() -> bool:
            return len(await bench.dead("notifications")) == 1

        await eventually(dead, what="a dead letter")
    (letter,) = await bench.dead("notifications")
    assert letter["error"] == "too late: the appointment has begun"
    assert len(office.letters) == 1


async def test_a_reminder_whose_announcement_was_lost_is_sent_all_the_same(
    bench: Bench, office: PostOffice, mail: Destination, clock: MovedClock
) -> None:
    services, org = bench.services, bench.org
    start = (await starts(services, org, clock, 2 * DAY))[0]
    await book(services, org, start)
    clock.time = start - DAY
    assert await services.remind() == 1
    await services.redis.flushall()
    clock.forward(timedelta(minutes=5))
    async with bench.worker(notifications=mail, remind=services.remind, sweep_s=0.05, overdue_s=0.0):
        await eventually(lambda: len(office.letters) == 2, what="both letters")
        await all_sent(bench)
    assert [letter.heading("Subject").split(":")[0] for letter in office.letters] == ["Booked", "Reminder"]


async def test_changes_that_meet_a_reminder_are_made_after_it(bench: Bench, clock: MovedClock) -> None:
    services, org = bench.services, bench.org
    free = await starts(services, org, clock, DAY)
    booked = [await book(services, org, start, person) for person, start in enumerate(free[:12])]
    target = [start for start in free if start > free[0] + 2 * DAY]
    clock.time = free[0] - timedelta(hours=1)

    async def change(number: int) -> None:
        appointment_id = UUID(booked[number]["appointment_id"])
        match number % 3:
            case 0:
                await services.move(
                    org, appointment_id, MoveWish(start_time=target[number]), actor="t", correlation_id="c"
                )
            case 1:
                await bench.cancel(booked[number])
            case _:
                await services.move(org, appointment_id, MoveWish(notes="hello"), actor="t", correlation_id="c")

    await asyncio.gather(services.remind(), *(change(number) for number in range(12)), services.remind())
    rows = await bench.sql("SELECT appointment_id, array_agg(type ORDER BY sequence) AS types, max(sequence) AS last"
                           " FROM events GROUP BY appointment_id")  # fmt: skip
    for row in rows:
        assert row["last"] == len(row["types"])
        assert row["types"].count("appointment.reminder") <= 1
        changes = {"appointment.rescheduled", "appointment.cancelled", "appointment.updated"}
        assert len(changes & set(row["types"])) == 1
        after_cancelling = row["types"][row["types"].index("appointment.cancelled") + 1 :] if (
            "appointment.cancelled" in row["types"]) else []  # fmt: skip
        assert after_cancelling == []


async def test_a_change_made_from_before_the_reminder_is_told_so(bench: Bench, clock: MovedClock) -> None:
    services, org = bench.services, bench.org
    start = (await starts(services, org, clock, 2 * DAY))[0]
    booked = await book(services, org, start)
    clock.time = start - DAY
    assert await services.remind() == 1
    with pytest.raises(VersionMismatch):
        await services.move(
            org,
            UUID(booked["appointment_id"]),
            MoveWish(notes="hello"),
            actor="tests",
            correlation_id="c",
            versions=frozenset({1}),
        )


async def test_the_index_finds_who_is_due(bench: Bench) -> None:
    """Of the many appointments that are past or far, none is looked at."""
    async with bench.services.database.writing() as connection:
        await connection.execute("SET enable_seqscan = off")
        try:
            now = bench.services.clock.now()
            rows = await connection.fetch(f"EXPLAIN {statement('due_reminders')}", now, now + DAY, 100)
        finally:
            await connection.execute("RESET enable_seqscan")
    assert "Index Scan using appointments_to_remind" in "\n".join(row[0] for row in rows)
