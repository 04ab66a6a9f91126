"""Lists show every appointment once, by start, a page at a time, and only what the filters let through."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.app import Services
from tests.appointments.conftest import Api
from tests.wishes import free_starts


async def fill(api: Api, services: Services, org: int) -> list[dict[str, Any]]:
    """Twelve appointments of four contacts in two calendars, the third one cancelled."""
    made: list[dict[str, Any]] = []
    for number in range(12):
        calendar = "cal-2" if number % 3 == 0 else "cal-1"
        start = (await free_starts(services, org, calendar))[number * 6]
        body = {
            "calendar_id": calendar,
            "start_time": start.isoformat(),
            "contact_email": f"Person{number % 4}@Example.com",
        }
        status, booked = await api("POST", "/api/appointments", body)
        assert status == 201, booked
        made.append(booked)
    _, made[2] = await api("DELETE", f"/api/appointments/{made[2]['appointment_id']}")
    return made


async def ids(api: Api, query: str) -> list[str]:
    status, answer = await api("GET", f"/api/appointments?{query}")
    assert status == 200, answer
    return [appointment["appointment_id"] for appointment in answer["appointments"]]


async def test_pages_put_together_are_the_whole_list(api: Api, services: Services, org: int) -> None:
    made = await fill(api, services, org)
    whole = sorted(made, key=lambda a: (a["start_time"], a["appointment_id"]))
    status, answer = await api("GET", "/api/appointments")
    assert (status, answer["next_cursor"]) == (200, None)
    assert answer["appointments"] == whole
    for limit in (1, 5, 11, 12):
        seen: list[str] = []
        cursor = ""
        while True:
            _, page = await api("GET", f"/api/appointments?limit={limit}{cursor}")
            assert len(page["appointments"]) <= limit
            seen += [appointment["appointment_id"] for appointment in page["appointments"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == [appointment["appointment_id"] for appointment in whole]


async def test_each_filter_lets_through_what_it_names(api: Api, services: Services, org: int) -> None:
    made = await fill(api, services, org)
    zone = ZoneInfo("America/New_York")

    def local_day(appointment: dict[str, Any]) -> str:
        return datetime.fromisoformat(appointment["start_time"]).astimezone(zone).date().isoformat()

    day, coach = local_day(made[5]), made[5]["coach_id"]
    start, end = sorted(a["start_time"] for a in made)[3], sorted(a["start_time"] for a in made)[8]
    cases = {
        f"coach_id={coach}": [a for a in made if a["coach_id"] == coach],
        "calendar_id=cal-2": [a for a in made if a["calendar_id"] == "cal-2"],
        "contact_email=person1@EXAMPLE.com": [a for a in made if a["contact_email"] == "person1@example.com"],
        "status=cancelled": [made[2]],
        "status=scheduled": [a for a in made if a is not made[2]],
        f"date={day}&timezone=America/New_York": [a for a in made if local_day(a) == day],
        f"coach_id={coach}&date={day}&timezone=America/New_York": [
            a for a in made if local_day(a) == day and a["coach_id"] == coach
        ],
        f"from={start}&to={end}": [a for a in made if start <= a["start_time"] < end],
        "contact_email=nobody@example.com": [],
    }
    for query, wanted in cases.items():
        expected = [a["appointment_id"] for a in sorted(wanted, key=lambda a: (a["start_time"], a["appointment_id"]))]
        assert await ids(api, query) == expected, query


async def test_times_are_in_utc_or_in_the_zone_that_the_request_names(api: Api, services: Services, org: int) -> None:
    start = (await free_starts(services, org))[6]
    for zone in ({}, {"timezone": "Asia/Tokyo"}):
        body = {"calendar_id": "cal-1", "start_time": start.isoformat(), "contact_email": "ada@example.com", **zone}
        status, booked = await api("POST", "/api/appointments", body)
        assert status == 201
    utc = start.isoformat().replace("+00:00", "Z")
    tokyo, new_york = (start.astimezone(ZoneInfo(name)).isoformat() for name in ("Asia/Tokyo", "America/New_York"))
    assert booked["start_time"] == tokyo
    cases = {
        "": {"UTC": utc, "Asia/Tokyo": utc},
        "?timezone=America/New_York": {"UTC": new_york, "Asia/Tokyo": new_york},
    }
    for query, wanted in cases.items():
        _, page = await api("GET", f"/api/appointments{query}")
        assert {one["timezone"]: one["start_time"] for one in page["appointments"]} == wanted
        _, seen = await api("GET", f"/api/appointments/{booked['appointment_id']}{query}")
        assert seen["start_time"] == wanted["Asia/Tokyo"]
    _, past = await api("GET", f"/api/appointments/{booked['appointment_id']}/history")
    _, feed = await api("GET", f"/api/events?appointment_id={booked['appointment_id']}")
    for kept in (past["history"][0]["appointment"], feed["events"][0]["data"]["appointment"]):
        assert (kept["start_time"], kept["timezone"]) == (utc, "Asia/Tokyo")
    _, cancelled = await api("DELETE", f"/api/appointments/{booked['appointment_id']}")
    assert (cancelled["start_time"], cancelled["timezone"]) == (utc, "Asia/Tokyo")
    status, refused = await api("GET", f"/api/appointments/{booked['appointment_id']}?timezone=Mars")
    assert (status, refused["details"]["fields"][0]["field"]) == (400, "timezone")


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("limit=0", 400, "limit"),
        ("limit=201", 400, "limit"),
        ("cursor=abc", 400, "cursor"),
        ("cursor=%00", 400, "cursor"),
        ("status=void", 400, "status"),
        ("date=tomorrow", 400, "date"),
        ("date=2026-02-30", 400, "date"),
        ("date=2026-12-01&from=2026-12-01", 400, "date"),
        ("contact_email=nobody", 400, "contact_email"),
        ("timezone=Mars/Olympus", 400, "timezone"),
        ("sort=up", 400, "sort"),
        ("coach_id=coach-99", 404, None),
        ("calendar_id=cal-99", 404, None),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused_by_name(
    api: Api, query: str, status: int, field: str | None
) -> None:
    answered, answer = await api("GET", f"/api/appointments?{query}")
    assert answered == status, answer
    if field is not None:
        assert answer["details"]["fields"][0]["field"] == field


async def test_another_organization_sees_none_of_it(api: Api, services: Services, org: int) -> None:
    made = await fill(api, services, org)
    async with services.database.transaction() as connection:
        other = await connection.fetchval("INSERT INTO organizations (name) VALUES ('other') RETURNING org_id")
    await services.keys.add(other, "foreign", "foreign", frozenset({"read", "write", "admin"}), 0)
    foreign = {"X-API-Key": "foreign"}
    assert await api("GET", "/api/appointments", **foreign) == (200, {"appointments": [], "next_cursor": None})
    _, page = await api("GET", "/api/appointments?limit=1")
    status, answer = await api("GET", f"/api/appointments?cursor={page['next_cursor']}", **foreign)
    assert (status, answer["appointments"]) == (200, [])
    one = made[0]["appointment_id"]
    for method, path in [
        ("GET", f"/api/appointments/{one}/history"),
        ("POST", f"/api/appointments/{one}/confirm"),
        ("POST", f"/api/appointments/{one}/complete"),
        ("POST", f"/api/appointments/{one}/no-show"),
        ("POST", f"/api/appointments/{one}/cancel"),
        ("DELETE", f"/api/appointments/{one}"),
        ("GET", f"/api/appointments/{one}"),
    ]:
        status, answer = await api(method, path, **foreign)
        assert (status, answer["error"]) == (404, "NOT_FOUND"), path
