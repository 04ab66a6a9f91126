"""Appointments inside time off are given to others by the usual rule, cancelled or kept, as asked; each says so."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from service.app import Services
from tests.api.client import Client, booking
from tests.api_people.asking import booked, changed, clock_starts, differences, local, made, weekday
from tests.invariants.looks import overlaps
from tests.time_off.asking import COACH, OTHER, away, back, outcomes, shown, story


async def inside(api: Client, day: date, *clocks: str, calendar: str = "cal-3") -> list[dict[str, Any]]:
    """Appointments of the coach at wall times."""
    return [await booked(api, local(day, clock), calendar, COACH, person) for person, clock in enumerate(clocks)]


@pytest.fixture
async def undisturbed(services: Services, org: int) -> Any:
    """Called at the end: nothing overlaps, and the grid is what Postgres says."""

    async def look() -> None:
        async with services.database.writing() as connection:
            assert await overlaps(connection) == 0
        assert await differences(services, org) == 0
        findings = await services.rebuild.verify(lambda _: None)
        assert [found for found in findings if not found.holds] == []

    return look


async def test_they_are_given_to_another_free_coach_at_the_same_time(
    api: Client, second: Client, undisturbed: Any
) -> None:
    monday = weekday(0)
    early, at_ten, late = await inside(api, monday, "09:45", "10:00", "12:00")
    answer = await away(second, COACH, monday, "10:00", "12:00", reason="dentist")
    assert outcomes(answer) == {at_ten["appointment_id"]: ("reassigned", OTHER)}
    now = await shown(api, at_ten)
    assert now == {
        **at_ten,
        "coach_id": OTHER,
        "version": 2,
        "updated_at": now["updated_at"],
        "assignment": now["assignment"],
    }
    assert await story(api, at_ten) == [("appointment.created", None), ("appointment.reassigned", "dentist")]
    for untouched in (early, late):
        assert await shown(api, untouched) == untouched
    assert "10:00" not in await clock_starts(second, OTHER, monday, calendar_id="cal-3")
    await back(api, COACH, answer["time_off_id"])
    assert "10:00" in await clock_starts(second, COACH, monday, calendar_id="cal-3")
    assert await shown(api, at_ten) == now
    await undisturbed()


async def test_one_that_reaches_into_the_period_is_inside_and_one_that_touches_it_is_not(
    api: Client, second: Client
) -> None:
    monday = weekday(0)
    team = {"calendar_id": "hour", "name": "Hour", "slot_duration": 60, "coach_ids": [COACH, OTHER]}
    await made(api, "/api/calendars", **team)
    clocks = ("09:00", "10:00", "11:00", "13:00", "14:00")
    appointments = await inside(api, monday, *clocks, calendar="hour")
    answer = await away(second, COACH, monday, "10:59", "13:01")
    reached = [one["appointment_id"] for one in appointments[1:4]]
    assert outcomes(answer) == dict.fromkeys(reached, ("reassigned", OTHER))
    assert list(outcomes(answer)) == reached, "in order of time"


async def test_whoever_nobody_can_take_is_kept_and_daily_limits_hold(
    api: Client, second: Client, undisturbed: Any
) -> None:
    monday = weekday(0)
    await changed(api, f"/api/coaches/{OTHER}", max_daily_appointments=3)
    clocks = [f"{hour:02}:00" for hour in range(10, 15)]
    appointments = await inside(api, monday, *clocks)
    taken = await booked(second, local(monday, "11:00"), "cal-3", OTHER, 9)
    answer = await away(second, COACH, monday, "10:00", "15:00")
    found = outcomes(answer)
    assert set(found) == {one["appointment_id"] for one in appointments}
    assert Counter(found.values()) == {("reassigned", OTHER): 2, ("kept", COACH): 3}
    assert found[appointments[1]["appointment_id"]] == ("kept", COACH)
    for one in appointments:
        outcome, coach = found[one["appointment_id"]]
        now = await shown(api, one)
        assert (now["coach_id"], now["status"]) == (coach, "scheduled")
        told = await story(api, one)
        assert told[1:] == ([("appointment.reassigned", "the coach is away")] if outcome == "reassigned" else [])
        if outcome == "kept":
            assert now == one
    assert await shown(api, taken) == taken
    assert await clock_starts(second, OTHER, monday, calendar_id="cal-3") == []
    await undisturbed()


async def test_a_coach_that_is_away_too_is_given_nothing(api: Client, second: Client) -> None:
    monday = weekday(0)
    (appointment,) = await inside(api, monday, "10:00")
    await away(api, OTHER, monday, "10:10", "10:20")
    answer = await away(second, COACH, monday, "09:00", "11:00")
    assert outcomes(answer) == {appointment["appointment_id"]: ("kept", COACH)}


async def test_they_are_cancelled_and_their_time_stays_closed_until_the_end(
    api: Client, second: Client, undisturbed: Any
) -> None:
    monday = weekday(0)
    appointments = await inside(api, monday, "10:00", "11:00")
    answer = await away(second, COACH, monday, "10:00", "12:00", existing="cancel", reason="ill")
    assert outcomes(answer) == {one["appointment_id"]: ("cancelled", COACH) for one in appointments}
    for one in appointments:
        now = await shown(api, one)
        assert (now["status"], now["version"], now["cancelled_at"] is not None) == ("cancelled", 2, True)
        assert await story(api, one) == [("appointment.created", None), ("appointment.cancelled", "ill")]
    starts = await clock_starts(second, COACH, monday, calendar_id="cal-3")
    assert [clock for clock in starts if "10:00" <= clock < "12:00"] == []
    await undisturbed()
    await back(api, COACH, answer["time_off_id"])
    assert len(await clock_starts(second, COACH, monday, calendar_id="cal-3")) == 32
    await undisturbed()


async def test_they_are_kept_and_what_they_free_inside_does_not_open(
    api: Client, second: Client, undisturbed: Any
) -> None:
    monday = weekday(0)
    appointments = await inside(api, monday, "10:00", "11:00")
    answer = await away(second, COACH, monday, "10:00", "12:00", existing="keep")
    assert outcomes(answer) == {one["appointment_id"]: ("kept", COACH) for one in appointments}
    for one in appointments:
        assert await shown(api, one) == one
        assert await story(api, one) == [("appointment.created", None)]
    assert (await api("DELETE", f"/api/appointments/{appointments[0]['appointment_id']}")).status == 200
    starts = await clock_starts(second, COACH, monday, calendar_id="cal-3")
    assert [clock for clock in starts if "10:00" <= clock < "12:00"] == []
    await undisturbed()
    await back(api, COACH, answer["time_off_id"])
    starts = await clock_starts(second, COACH, monday, calendar_id="cal-3")
    assert "10:00" in starts
    assert "11:00" not in starts
    await undisturbed()


@pytest.mark.parametrize("existing", ["reassign", "cancel", "keep"])
async def test_what_is_over_or_cancelled_or_somebody_elses_is_left_alone(
    api: Client, second: Client, existing: str
) -> None:
    monday = weekday(0)
    cancelled, finished, missed = await inside(api, monday, "10:00", "10:30", "11:00")
    others = (await api.book(booking(local(monday, "10:00"), "cal-2", coach_id="coach-2"))).json
    for one, end in ((cancelled, "cancel"), (finished, "complete"), (missed, "no-show")):
        assert (await api("POST", f"/api/appointments/{one['appointment_id']}/{end}")).status == 200
    before = [await shown(api, one) for one in (cancelled, finished, missed, others)]
    answer = await away(second, COACH, monday, "09:00", "17:00", existing=existing)
    assert answer["affected"] == []
    assert [await shown(api, one) for one in before] == before


async def test_a_period_of_several_days_treats_them_all_in_order_of_time(
    api: Client, second: Client, undisturbed: Any
) -> None:
    monday = weekday(0)
    days = [monday + timedelta(days=n) for n in range(5)]
    appointments = [one for day in days for one in await inside(api, day, "09:00", "16:45")]
    answer = await made(
        second,
        f"/api/coaches/{COACH}/time-off",
        start_time=local(monday, "00:00"),
        end_time=local(days[-1] + timedelta(days=1), "00:00"),
    )
    wanted = {one["appointment_id"]: ("reassigned", OTHER) for one in appointments}
    assert list(outcomes(answer).items()) == list(wanted.items())
    await undisturbed()


async def test_what_is_over_is_history_and_what_is_going_on_is_not(api: Client, services: Services, org: int) -> None:
    over, going_on = await inside(api, weekday(0), "10:00", "11:00")
    now = datetime.now(UTC)
    async with services.database.writing() as connection:
        for one, minutes in ((over, 60), (going_on, 5)):
            await connection.execute(
                "UPDATE appointments SET starts_at = $2, ends_at = $3, occupied = tstzrange($2, $3)"
                " WHERE appointment_id = $1",
                UUID(one["appointment_id"]),
                now - timedelta(minutes=minutes),
                now - timedelta(minutes=minutes - 30),
            )
    period = {"start_time": (now - timedelta(days=3)).isoformat(), "end_time": (now + timedelta(hours=1)).isoformat()}
    answer = await made(api, f"/api/coaches/{COACH}/time-off", **period, existing="keep")
    assert outcomes(answer) == {going_on["appointment_id"]: ("kept", COACH)}
