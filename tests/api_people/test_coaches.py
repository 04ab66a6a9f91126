"""Coaches are created, changed and deactivated; each change is in the next answer and touches no appointment."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from service.app import Services
from tests.api.client import Client, assert_problem, booking
from tests.api_people.asking import (
    booked,
    changed,
    clock_starts,
    differences,
    local,
    made,
    pages,
    refused,
    seen,
    weekday,
)
from tests.api_people.conftest import READER, STRANGER

DORA = {"coach_id": "dora", "name": "Dora", "email": "Dora@Example.com"}


async def test_a_new_coach_is_shown_as_it_was_made(api: Client) -> None:
    more = {"specialty": "hearts", "timezone": "Europe/Berlin", "score": 0.123456, "calendar_ids": ["cal-2", "cal-2"]}
    answer = await api("POST", "/api/coaches", {**DORA, **more})
    assert (answer.status, answer.headers["Location"]) == (201, "/api/coaches/dora")
    coach = answer.json
    assert coach == await seen(api, "/api/coaches/dora")
    assert {**coach, "created_at": 0, "updated_at": 0} == {
        "coach_id": "dora",
        "name": "Dora",
        "email": "dora@example.com",
        "specialty": "hearts",
        "timezone": "Europe/Berlin",
        "score": 0.123456,
        "max_daily_appointments": 10,
        "active": True,
        "calendar_ids": ["cal-2"],
        "created_at": 0,
        "updated_at": 0,
    }
    assert len((await made(api, "/api/coaches", name="No id", email="no@id.example"))["coach_id"]) == 36


async def test_a_new_coach_can_be_booked_at_once(api: Client, second: Client) -> None:
    await made(api, "/api/coaches", **DORA, timezone="America/New_York", calendar_ids=["cal-1"], score=1)
    monday = weekday(0)
    starts = await clock_starts(second, "dora", monday, calendar_id="cal-1")
    assert (starts[0], starts[-1], len(starts)) == ("09:00", "16:30", 31)
    assert await clock_starts(api, "dora", weekday(5), calendar_id="cal-1") == []
    await booked(second, local(monday, "09:00"), "cal-1", "dora")
    assert (await clock_starts(api, "dora", monday, calendar_id="cal-1"))[0] == "09:30"


async def test_hours_given_with_a_coach_replace_the_clinics(api: Client) -> None:
    await made(api, "/api/coaches", **DORA, working_hours_start="22:00", working_hours_end="24:00")
    monday = weekday(0)
    assert (await clock_starts(api, "dora", monday, "UTC"))[-1] == "23:30"
    await changed(api, "/api/coaches/dora", working_hours_start="08:00", working_hours_end="08:45")
    assert await clock_starts(api, "dora", monday, "UTC") == ["08:00", "08:15"]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"coach_id": ""}, "coach_id"),
    ({"coach_id": "a b"}, "coach_id"),
    ({"coach_id": "a\n"}, "coach_id"),
    ({"coach_id": "é"}, "coach_id"),
    ({"coach_id": "x" * 129}, "coach_id"),
    ({"coach_id": ".."}, "coach_id"),
    ({"coach_id": "distribution"}, "coach_id"),
    ({"name": ""}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"name": None}, "name"),
    ({"email": "nobody"}, "email"),
    ({"specialty": 3}, "specialty"),
    ({"timezone": "Mars/Olympus"}, "timezone"),
    ({"score": 1.01}, "score"),
    ({"score": -0.01}, "score"),
    ({"max_daily_appointments": 289}, "max_daily_appointments"),
    ({"max_daily_appointments": -1}, "max_daily_appointments"),
    ({"working_hours_start": "9:00", "working_hours_end": "17:00"}, "working_hours_start"),
    ({"working_hours_start": "09:03", "working_hours_end": "17:00"}, "working_hours_start"),
    ({"working_hours_start": "09:00", "working_hours_end": "09:00"}, "working_hours_end"),
    ({"calendar_ids": ["cal-1", "nowhere"]}, "calendar_ids"),
    ({"calendar_ids": "cal-1"}, "calendar_ids"),
    ({"colour": "red"}, "colour"),
]


async def test_every_refusal_names_its_field_and_changes_nothing(api: Client) -> None:
    before = await seen(api, "/api/coaches?limit=200")
    for fields, field in BAD_FIELDS:
        refused(await api("POST", "/api/coaches", {**DORA, **fields}), field)
        if "coach_id" not in fields:
            refused(await api("PATCH", "/api/coaches/coach-1", fields), field)
    refused(await api("POST", "/api/coaches", {"name": "Dora"}), "email")
    refused(await api("PATCH", "/api/coaches/coach-1", {"coach_id": "other"}), "coach_id")
    refused(await api("PATCH", "/api/coaches/coach-1", {"working_hours_end": "12:00"}), "working_hours_start")
    assert await seen(api, "/api/coaches?limit=200") == before


async def test_an_id_or_address_is_given_once_also_in_a_race(api: Client) -> None:
    same_id = [{**DORA, "email": f"dora{n}@example.com"} for n in range(8)]
    same_address = [{"name": "Eve", "email": "EVE@one.example"} for _ in range(8)]
    for wishes, field in ((same_id, "coach_id"), (same_address, "email")):
        answers = await asyncio.gather(*(api("POST", "/api/coaches", wish) for wish in wishes))
        assert Counter(answer.status for answer in answers) == {201: 1, 409: 7}
        lost = next(answer for answer in answers if answer.status == 409)
        assert assert_problem(lost, 409, "ALREADY_EXISTS")["details"] == {"field": field}
    taken = await api("PATCH", "/api/coaches/coach-1", {"email": "BOB@example.com"})
    assert_problem(taken, 409, "ALREADY_EXISTS")


async def test_a_change_changes_what_it_names(api: Client) -> None:
    before = await seen(api, "/api/coaches/coach-1")
    assert await changed(api, "/api/coaches/coach-1") == before
    after = await changed(
        api, "/api/coaches/coach-1", name="Alicia", specialty="skin", score=0.25, calendar_ids=["cal-2"]
    )
    assert after == await seen(api, "/api/coaches/coach-1")
    assert after["updated_at"] > before["updated_at"]
    named = {"name": "Alicia", "specialty": "skin", "score": 0.25, "calendar_ids": ["cal-2"]}
    assert after == {**before, **named, "updated_at": after["updated_at"]}
    assert (await changed(api, "/api/coaches/coach-1", specialty=None))["specialty"] is None
    assert "coach-1" not in (await seen(api, "/api/calendars/cal-1"))["coach_ids"]
    monday = weekday(0)
    assert await clock_starts(api, "coach-1", monday, calendar_id="cal-1") == []
    assert await clock_starts(api, "coach-1", monday, calendar_id="cal-2") != []


async def test_a_deactivated_coach_is_offered_nowhere_and_keeps_its_appointments(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday = weekday(0)
    kept = await booked(api, local(monday, "10:00"), "cal-1", "coach-1")
    answer = await api("DELETE", "/api/coaches/coach-1")
    assert (answer.status, answer.json["active"]) == (200, False)
    assert (await api("DELETE", "/api/coaches/coach-1")).status == 200
    for client in (api, second):
        slots = [*await client.slots(calendar_id="cal-1"), *await client.slots()]
        assert slots
        assert "coach-1" not in {slot["coach_id"] for slot in slots}
    refused(await api.book(booking(local(monday, "11:00"), coach_id="coach-1")), "coach_id")
    assert (await seen(api, f"/api/appointments/{kept['appointment_id']}"))["status"] == "scheduled"
    assert "coach-1" not in (await seen(api, "/api/calendars/cal-1"))["coach_ids"]
    assert [c["coach_id"] for c in (await seen(api, "/api/coaches?active=false"))["coaches"]] == ["coach-1"]
    assert await differences(services, org) == 0
    assert (await changed(api, "/api/coaches/coach-1", active=True))["active"] is True
    assert "10:00" not in await clock_starts(second, "coach-1", monday, calendar_id="cal-1")
    assert "10:30" in await clock_starts(second, "coach-1", monday, calendar_id="cal-1")


async def test_a_lowered_daily_limit_hides_the_day_and_a_raised_one_shows_it(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday, tuesday = weekday(0), weekday(1)
    for person, clock in enumerate(("10:00", "11:00")):
        await booked(api, local(monday, clock), "cal-1", "coach-1", person)
    full = await clock_starts(api, "coach-1", monday)
    await changed(api, "/api/coaches/coach-1", max_daily_appointments=2)
    for client in (api, second):
        assert await clock_starts(client, "coach-1", monday) == []
        assert await clock_starts(client, "coach-1", tuesday) != []
    answer = await second.book(booking(local(monday, "14:00"), person=3, coach_id="coach-1"))
    assert_problem(answer, 409, "SLOT_UNAVAILABLE")
    await changed(api, "/api/coaches/coach-1", max_daily_appointments=3)
    assert await clock_starts(second, "coach-1", monday) == full
    await booked(second, local(monday, "14:00"), "cal-1", "coach-1", 3)
    assert await clock_starts(api, "coach-1", monday) == []
    await changed(api, "/api/coaches/coach-1", max_daily_appointments=0)
    assert await clock_starts(api, "coach-1", tuesday) == []
    assert await differences(services, org) == 0


async def test_lists_page_completely_and_refuse_foreign_cursors(api: Client) -> None:
    found = await pages(api, "/api/coaches", "coaches", 4)
    assert [[c["coach_id"] for c in page] for page in found] == [
        ["coach-1", "coach-2", "coach-3", "coach-4"],
        ["coach-5", "coach-6"],
    ]
    assert [len(page) for page in await pages(api, "/api/coaches", "coaches", 3)] == [3, 3]
    other = (await seen(api, "/api/calendars?limit=1"))["next_cursor"]
    for cursor in ("x", "%C3%A9", other, "Y29hY2hlczp4"):
        refused(await api("GET", f"/api/coaches?cursor={cursor}"), "cursor")
    for limit in ("0", "201", "many"):
        refused(await api("GET", f"/api/coaches?limit={limit}"), "limit")
    refused(await api("GET", "/api/coaches?active=maybe"), "active")


WRITES = [
    ("POST", "/api/coaches", DORA),
    ("PATCH", "/api/coaches/coach-1", {"name": "X"}),
    ("DELETE", "/api/coaches/coach-1", None),
    ("PUT", "/api/coaches/coach-1/schedule", {"weekly": {}}),
    ("POST", "/api/coaches/coach-1/schedule", {"weekly": {}}),
    ("POST", "/api/calendars", {"name": "X"}),
    ("PATCH", "/api/calendars/cal-1", {"name": "X"}),
]
READS = ["/api/coaches/coach-1", "/api/coaches/coach-1/schedule", "/api/coaches/coach-1/availability?date=2027-01-04"]


async def test_writes_need_admin(api: Client, services: Services, org: int) -> None:
    await services.keys.add(org, "writer", "writer", frozenset({"read", "write"}), 0)
    for method, path, body in WRITES:
        for key in (READER, "writer"):
            assert_problem(await api.with_key(key)(method, path, body), 403, "FORBIDDEN")
        assert_problem(await api.with_key(None)(method, path, body), 401, "AUTHENTICATION_FAILED")


async def test_another_organizations_coaches_and_calendars_are_not_found(api: Client) -> None:
    stranger = api.with_key(STRANGER)
    for path in [*READS, "/api/calendars/cal-1"]:
        assert (await api.with_key(READER)("GET", path)).status == 200
        assert_problem(await stranger("GET", path), 404, "NOT_FOUND")
    for method, path, body in WRITES:
        if path.count("/") > 2:
            assert_problem(await stranger(method, path, body), 404, "NOT_FOUND")
    assert await seen(stranger, "/api/coaches") == {"coaches": [], "next_cursor": None}
    assert await seen(stranger, "/api/calendars") == {"calendars": [], "next_cursor": None}
    refused(await stranger("POST", "/api/coaches", {**DORA, "calendar_ids": ["cal-1"]}), "calendar_ids")
    refused(await stranger("POST", "/api/calendars", {"name": "X", "coach_ids": ["coach-1"]}), "coach_ids")
    # The same ids and addresses are free there.
    await made(stranger, "/api/coaches", name="Other", coach_id="coach-1", email="alice@example.com")
    assert (await seen(api, "/api/coaches/coach-1"))["name"] == "Alice Johnson"


@pytest.mark.parametrize("path", ["/api/coaches/nobody", "/api/coaches/no%00body", "/api/calendars/%ED%A0%80"])
async def test_what_does_not_exist_is_not_found(api: Client, path: str) -> None:
    assert_problem(await api("GET", path), 404, "NOT_FOUND")
    assert_problem(await api("PATCH", path, {"name": "X"}), 404, "NOT_FOUND")
