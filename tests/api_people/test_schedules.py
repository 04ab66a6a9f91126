"""A schedule is replaced as a whole, counts at once and by the wall clock, and touches no appointment."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.app import Services
from tests.api.client import Client, assert_problem, booking
from tests.api_people.asking import booked, changed, clock_starts, differences, local, made, refused, seen, weekday

PATH = "/api/coaches/coach-1/schedule"
BERLIN = ZoneInfo("Europe/Berlin")


def windows(*pairs: str) -> list[dict[str, str]]:
    """Windows written as `09:00-12:30`."""
    return [dict(zip(("start", "end"), pair.split("-"), strict=True)) for pair in pairs]


def weekly(**days: list[dict[str, str]]) -> dict[str, Any]:
    """A week in which all days not named are closed."""
    names = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    return {name: days.get(name, []) for name in names}


async def test_a_schedule_is_shown_as_it_was_put(api: Client) -> None:
    sample = await seen(api, PATH)
    assert sample["weekly"] == weekly(**{d: windows("09:00-17:00") for d in list(weekly())[:5]})
    assert (sample["timezone"], sample["overrides"]) == ("America/New_York", [])
    body = {
        "timezone": "Europe/Berlin",
        "weekly": {"monday": windows("13:00-24:00", "09:00-12:30"), "sunday": windows("00:00-00:05")},
        "overrides": [
            {"date": "2026-12-25", "windows": []},
            {"date": "2026-12-24", "windows": windows("12:30-13:00", "09:00-12:30")},
        ],
    }
    for method in ("PUT", "POST"):
        answer = await changed(api, PATH, method, **body)
        assert answer == await seen(api, PATH)
        assert answer == {
            "coach_id": "coach-1",
            "timezone": "Europe/Berlin",
            "weekly": weekly(monday=windows("09:00-12:30", "13:00-24:00"), sunday=windows("00:00-00:05")),
            "overrides": [
                {"date": "2026-12-24", "windows": windows("09:00-12:30", "12:30-13:00")},
                {"date": "2026-12-25", "windows": []},
            ],
        }
    assert (await seen(api, "/api/coaches/coach-1"))["timezone"] == "Europe/Berlin"
    assert await changed(api, PATH, "PUT", weekly={}) == {
        "coach_id": "coach-1",
        "timezone": "Europe/Berlin",
        "weekly": weekly(),
        "overrides": [],
    }


async def test_every_refusal_names_its_place_and_changes_nothing(api: Client) -> None:
    before = await seen(api, PATH)
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, "weekly"),
        ({"weekly": {"monday": windows("09:00-12:00", "11:55-13:00")}}, "weekly.monday"),
        ({"weekly": {"friday": windows("09:00-12:00", "9:00-13:00")}}, "weekly.friday[1]"),
        ({"weekly": {"friday": windows("09:00-09:00")}}, "weekly.friday[0]"),
        ({"weekly": {"friday": windows("09:01-10:00")}}, "weekly.friday[0]"),
        ({"weekly": {"friday": windows("24:00-24:00")}}, "weekly.friday[0]"),
        ({"weekly": {"friday": windows("09:00-24:05")}}, "weekly.friday[0]"),
        ({"weekly": {}, "timezone": "Nowhere"}, "timezone"),
        ({"weekly": {}, "overrides": [{"date": "2026-13-01", "windows": []}]}, "overrides[0].date"),
        ({"weekly": {}, "overrides": [{"date": "2026-12-01", "windows": []}] * 2}, "overrides[1].date"),
        (
            {"weekly": {}, "overrides": [{"date": "2026-12-01", "windows": windows("09:00-10:00", "09:30-11:00")}]},
            "overrides[0].windows",
        ),
        ({"weekly": {"friday": [{"start": "09:00", "end": 10}]}}, "weekly.friday[0].end"),
        ({"weekly": {"friday": [{"start": "09:00"}]}}, "weekly.friday[0].end"),
        ({"weekly": {"funday": []}}, "weekly.funday"),
        ({"weekly": {}, "hours": 3}, "hours"),
    ]
    for body, field in bad:
        refused(await api("PUT", PATH, body), field)
    assert await seen(api, PATH) == before
    for query in ("", "?date=2026-1-4", "?date=20260104", "?date=9999-12-31"):
        refused(await api("GET", f"/api/coaches/coach-1/availability{query}"), "date")


async def test_a_change_is_in_the_very_next_answer_everywhere(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday = weekday(0)
    assert len(await clock_starts(second, "coach-1", monday)) == 31
    overrides = [{"date": str(monday + timedelta(days=7)), "windows": windows("06:00-06:30")}]
    await changed(api, PATH, "PUT", weekly=weekly(monday=windows("10:00-11:00", "12:00-12:30")), overrides=overrides)
    for client in (second, api):
        assert await clock_starts(client, "coach-1", monday) == ["10:00", "10:15", "10:30", "12:00"]
        assert await clock_starts(client, "coach-1", monday + timedelta(days=7)) == ["06:00"]
        assert await clock_starts(client, "coach-1", weekday(1)) == []
    outside = await second.book(booking(local(monday, "09:00"), coach_id="coach-1"))
    assert_problem(outside, 409, "SLOT_UNAVAILABLE")
    await changed(second, PATH, "PUT", weekly=weekly(tuesday=windows("09:00-10:00")))
    assert await clock_starts(api, "coach-1", monday) == []
    assert await clock_starts(api, "coach-1", weekday(1)) == ["09:00", "09:15", "09:30"]
    assert await differences(services, org) == 0


async def test_the_zone_of_a_schedule_moves_the_coachs_hours(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "09:00"), "cal-1", "coach-1")
    week = weekly(monday=windows("09:00-10:00", "23:00-24:00"))
    await changed(api, PATH, "PUT", timezone="Asia/Kolkata", weekly=week)
    starts = ["09:00", "09:15", "09:30", "23:00", "23:15", "23:30"]
    assert await clock_starts(second, "coach-1", monday, "Asia/Kolkata") == starts
    moved = await changed(api, "/api/coaches/coach-1", timezone="Pacific/Auckland")
    assert moved["timezone"] == "Pacific/Auckland"
    assert (await clock_starts(second, "coach-1", monday, "Pacific/Auckland"))[0] == "09:00"
    start = local(monday, "09:15", ZoneInfo("Pacific/Auckland"))
    await booked(second, start, "cal-1", "coach-1", 2)
    assert (await seen(api, f"/api/appointments/{appointment['appointment_id']}")) == appointment
    assert await differences(services, org) == 0


async def test_a_schedule_shrunk_over_appointments_keeps_them_and_their_time_stays_closed(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday = weekday(0)
    kept = await booked(api, local(monday, "09:00"), "cal-3", "coach-1")
    inside = await booked(api, local(monday, "13:00"), "cal-3", "coach-1", 1)
    await changed(api, PATH, "PUT", weekly=weekly(monday=windows("12:00-14:00")))
    assert await seen(api, f"/api/appointments/{kept['appointment_id']}") == kept
    starts = await clock_starts(second, "coach-1", monday, calendar_id="cal-3")
    assert starts == ["12:00", "12:15", "12:30", "12:45", "13:15", "13:30", "13:45"]
    for appointment in (kept, inside):
        assert (await api("DELETE", f"/api/appointments/{appointment['appointment_id']}")).status == 200
    for client in (second, api):
        starts = await clock_starts(client, "coach-1", monday, calendar_id="cal-3")
        assert (starts[0], starts[-1], len(starts)) == ("12:00", "13:45", 8)
    outside = await second.book(booking(local(monday, "09:00"), "cal-3", 2, coach_id="coach-1"))
    assert_problem(outside, 409, "SLOT_UNAVAILABLE")
    await changed(api, PATH, "PUT", weekly=weekly(monday=windows("09:00-10:00")))
    assert "09:00" in await clock_starts(second, "coach-1", monday, calendar_id="cal-3")
    assert await differences(services, org) == 0


async def test_new_hours_count_at_once_also_where_a_calendar_goes_as_far_as_may_be(api: Client, second: Client) -> None:
    await made(api, "/api/calendars", calendar_id="year", name="Year", max_days_ahead=366, coach_ids=["coach-1"])
    monday = weekday(0)
    assert (await clock_starts(second, "coach-1", monday, calendar_id="cal-3"))[0] == "09:00"
    await changed(api, PATH, "PUT", weekly=weekly(monday=windows("12:00-14:00")))
    assert (await clock_starts(second, "coach-1", monday, calendar_id="cal-3"))[0] == "12:00"


async def test_a_coachs_day_is_as_long_as_its_zone_makes_it(api: Client) -> None:
    all_day = {name: windows("00:00-24:00") for name in weekly()}
    await changed(api, PATH, "PUT", timezone="Europe/Berlin", weekly=all_day)
    year = {"calendar_id": "year", "name": "Year", "max_days_ahead": 366, "slot_duration": 15}
    await made(api, "/api/calendars", **year, coach_ids=["coach-1"])
    for day, hours in ((date(2027, 3, 27), 24), (date(2027, 3, 28), 23), (date(2027, 10, 31), 25)):
        answer = await seen(api, f"/api/coaches/coach-1/availability?date={day}&calendar_id=year")
        length = (date.fromisoformat(answer["to"][:10]) - date.fromisoformat(answer["from"][:10])).days
        assert (length, answer["from"].endswith("Z")) == (1, True)
        # Of a repeated hour the first occurrence is offered, so 25 hours offer 24.
        assert answer["total_available"] == min(hours, 24) * 4, (day, hours)
