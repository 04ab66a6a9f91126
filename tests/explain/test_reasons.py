"""Each reason is told of the coaches it holds for and of no other, and the first of several is the one that is told."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import uuid4

import pytest

from service.app import Services
from tests.explain.conftest import NEW_YORK, Api, StillClock, all_but, clock_change, days_before, later, shown
from tests.operations import steps
from tests.wishes import wish


async def away(sql: Any, table: str, org: int, column: int, start: datetime, end: datetime) -> None:
    if table == "time_off":
        text = "INSERT INTO time_off (time_off_id, org_id, coach_no, starts_at, ends_at) VALUES ($1, $2, $3, $4, $5)"
        await sql.execute(text, uuid4(), org, column, start, end)
    else:
        text = "INSERT INTO external_busy (org_id, coach_no, starts_at, ends_at) VALUES ($1, $2, $3, $4)"
        await sql.execute(text, org, column, start, end)


async def test_too_soon_and_too_far_hold_for_all_alike_whatever_else_holds(
    api: Api, services: Services, org: int, sql: Any, ten: datetime, clock: StillClock
) -> None:
    await sql.execute("UPDATE coaches SET max_daily_appointments = 0 WHERE coach_no = 0")
    await shown(services, org)
    now = clock.now()
    assert await api.explained(later(ten, -24 * 60)) == all_but("notice")  # the past
    assert await api.explained(now + timedelta(minutes=119)) == all_but("notice")
    assert await api.explained(now + timedelta(days=30, minutes=1)) == all_but("horizon")
    clock.instant = later(ten, -120)  # exactly the notice
    assert await api.explained(ten) == all_but("free", coach_1="daily_limit")
    clock.instant = later(ten, -120 + 1 / 60)
    assert await api.explained(ten) == all_but("notice")
    clock.instant = ten - timedelta(days=30)
    assert await api.explained(ten) == all_but("free", coach_1="daily_limit")
    clock.instant = ten - timedelta(days=30, seconds=1)
    assert await api.explained(ten) == all_but("horizon")


async def test_the_start_grid_is_that_of_each_coachs_zone(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    assert await api.explained(later(ten, 5)) == all_but("grid")
    assert await api.explained(later(ten, 0.5)) == all_but("grid")
    assert await api.explained(ten - timedelta(microseconds=5)) == all_but("grid")  # a cell's end is not its start
    await sql.execute("UPDATE coaches SET timezone = 'Asia/Kathmandu' WHERE coach_no IN (0, 1)")
    await sql.execute("UPDATE weekly_windows SET start_minute = 0, end_minute = 1440 WHERE coach_no = 0")
    await sql.execute("UPDATE calendars SET slot_interval = 60 WHERE calendar_no = 1")
    await shown(services, org)
    assert await api.explained(ten) == all_but("free", coach_1="grid", coach_2="grid")
    assert await api.explained(later(ten, 15)) == all_but("grid", coach_1="free", coach_2="outside_hours")


async def test_hours_of_the_week_and_hours_of_a_date_are_told_apart(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    assert await api.explained(later(ten, 6.5 * 60)) == all_but("free")
    assert await api.explained(later(ten, 6.75 * 60)) == all_but("outside_hours")  # half an hour from 16:45
    text = "INSERT INTO schedule_overrides (org_id, coach_no, local_date, windows) VALUES ($1, $2, $3, $4)"
    await sql.execute(text, org, 0, ten.date(), [])
    await sql.execute(text, org, 1, ten.date(), [18 * 60, 20 * 60])
    await sql.execute(text, org, 2, ten.date() + timedelta(days=1), [])
    await shown(services, org)
    assert await api.explained(ten) == all_but("free", coach_1="override", coach_2="override")
    assert await api.explained(later(ten, 9 * 60)) == all_but("outside_hours", coach_2="free")
    assert await api.explained(ten + timedelta(days=1)) == all_but("free", coach_3="override")


async def test_an_appointment_across_midnight_needs_the_hours_of_both_days(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    midnight = datetime.combine(ten.date() + timedelta(days=1), time(), UTC)
    await sql.execute("UPDATE coaches SET timezone = 'UTC' WHERE coach_no IN (0, 1)")
    await sql.execute("UPDATE weekly_windows SET start_minute = 0, end_minute = 1440 WHERE coach_no IN (0, 1)")
    await sql.execute("DELETE FROM weekly_windows WHERE coach_no = 0 AND weekday = $1", midnight.weekday())
    await shown(services, org)
    both = all_but("outside_hours", coach_1="free", coach_2="free")
    assert await api.explained(later(midnight, -30)) == both
    assert await api.explained(later(midnight, -15)) == all_but("outside_hours", coach_2="free")


async def test_of_an_hour_the_clocks_repeat_only_the_first_is_within_the_hours(
    api: Api, services: Services, org: int, sql: Any, clock: StillClock
) -> None:
    await sql.execute("INSERT INTO weekly_windows VALUES ($1, 0, 6, 0, 1440)", org)
    first = clock_change(clock.now())
    seen: list[bool] = []
    for change in (first, clock_change(first)):
        clock.instant = days_before(change)
        await shown(services, org)
        repeated = bool(change.astimezone(NEW_YORK).fold)
        reasons = [(await api.explained(later(change, minutes)))["coach-1"] for minutes in (-30, 0, 30, 60)]
        assert reasons == ["free", *["outside_hours" if repeated else "free"] * 2, "free"]
        seen.append(repeated)
    assert sorted(seen) == [False, True]


async def test_the_first_of_several_reasons_is_told(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    for minutes in (0, 60):
        await api.book(later(ten, minutes), coach_id="coach-1")
    await sql.execute("UPDATE calendars SET buffer_before = 15 WHERE calendar_no = 1")
    told: list[tuple[str, str]] = []

    async def look() -> None:
        await shown(services, org)
        after = await api.explained(later(ten, 30), coach_id="coach-1")
        told.append(((await api.explained(ten, coach_id="coach-1"))["coach-1"], after["coach-1"]))

    await look()
    for text in (
        "UPDATE coaches SET max_daily_appointments = 2 WHERE coach_no = 0",
        "INSERT INTO external_busy SELECT $1, 0, $2::timestamptz + interval '29 minutes', $2 + interval '31 minutes'",
        "INSERT INTO time_off (time_off_id, org_id, coach_no, starts_at, ends_at)"
        " SELECT gen_random_uuid(), $1, 0, $2::timestamptz - interval '1 hour', $2 + interval '31 minutes'",
        "INSERT INTO schedule_overrides SELECT $1, 0, ($2::timestamptz AT TIME ZONE 'America/New_York')::date, '{}'",
        "DELETE FROM weekly_windows WHERE coach_no = 0",
        "UPDATE coaches SET timezone = 'Asia/Kathmandu' WHERE coach_no = 0",
    ):
        await sql.execute(text, *[org, ten][: text.count("$1") + text.count("$2::")])
        if "Kathmandu" in text:
            await sql.execute("UPDATE calendars SET slot_interval = 60 WHERE calendar_no = 1")
        await look()
    reasons = ["daily_limit", "external_busy", "time_off", "override", "outside_hours", "grid"]
    assert told == [("appointment", "buffer"), *zip(reasons, reasons, strict=True)]


@pytest.mark.parametrize("table", ["time_off", "external_busy"])
async def test_an_absence_counts_where_it_touches_the_appointment_not_its_buffers(
    api: Api, services: Services, org: int, sql: Any, ten: datetime, table: str
) -> None:
    await sql.execute("UPDATE calendars SET buffer_before = 15, buffer_after = 15 WHERE calendar_no = 1")
    await away(sql, table, org, 0, later(ten, -60), later(ten, 1))
    await away(sql, table, org, 1, later(ten, 29), later(ten, 60))
    await away(sql, table, org, 2, later(ten, -60), ten)
    await away(sql, table, org, 4, later(ten, 30), later(ten, 60))
    await shown(services, org)
    assert await api.explained(ten) == all_but("free", coach_1=table, coach_2=table)


async def test_a_daily_limit_is_of_the_coachs_own_date(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    await sql.execute("UPDATE coaches SET timezone = 'Asia/Singapore' WHERE coach_no = 1")
    await sql.execute("UPDATE weekly_windows SET start_minute = 0, end_minute = 1440 WHERE coach_no IN (0, 1)")
    await sql.execute("UPDATE coaches SET max_daily_appointments = 1 WHERE coach_no IN (0, 1)")
    await shown(services, org)
    for coach in ("coach-1", "coach-2"):
        await api.book(later(ten, -60), coach_id=coach)
    assert await api.explained(later(ten, -15)) == all_but("free", coach_1="daily_limit", coach_2="daily_limit")
    # Two in the afternoon of New York is the next date in Singapore, by any of its clocks.
    assert await api.explained(later(ten, 4 * 60)) == all_but("free", coach_1="daily_limit")


async def test_only_buffers_in_the_way_are_told_as_such(
    api: Api, services: Services, org: int, sql: Any, ten: datetime
) -> None:
    await sql.execute("UPDATE calendars SET buffer_before = 30, buffer_after = 15 WHERE calendar_no = 1")
    await shown(services, org)
    booked = await api.book(ten, coach_id="coach-1")  # occupied from 9:30 to 10:45
    reasons = [(await api.explained(later(ten, step * 15)))["coach-1"] for step in range(-4, 7)]
    # From 9:00: two buffers, then the appointment itself, then two buffers until 11:15.
    assert reasons == ["buffer"] * 3 + ["appointment"] * 3 + ["buffer"] * 3 + ["free"] * 2
    # A calendar without buffers of its own meets only those of the other.
    reasons = [(await api.explained(later(ten, step * 15), "cal-3"))["coach-1"] for step in range(-4, 5)]
    assert reasons == ["free"] * 2 + ["buffer"] * 2 + ["appointment"] * 2 + ["buffer"] + ["free"] * 2
    await api("POST", f"/api/appointments/{booked['appointment_id']}/cancel")
    assert await api.explained(ten) == all_but("free")


async def test_a_booking_under_way_is_a_claim_until_it_is_committed(
    api: Api, services: Services, org: int, ten: datetime
) -> None:
    assert await api.explained(ten) == all_but("free")  # so the grid has the day
    claimed = await steps.claim(services, org, wish(ten, coach_id="coach-2"))
    assert await api.explained(ten) == all_but("free", coach_2="claim")
    await steps.commit(services, claimed)
    assert await api.explained(ten) == all_but("free", coach_2="appointment")
