"""The sample data is that of the challenge, as everybody sees it: coaches, hours, calendars, teams and keys."""

from __future__ import annotations

import pytest

from tests.api.client import Client, assert_problem
from tests.api_people.asking import seen

COACHES = {
    "coach-1": ("Alice Johnson", "alice@example.com", 0.85),
    "coach-2": ("Bob Smith", "bob@example.com", 0.72),
    "coach-3": ("Carol Davis", "carol@example.com", 0.90),
    "coach-4": ("David Wilson", "david@example.com", 0.65),
    "coach-5": ("Eve Martinez", "eve@example.com", 0.58),
    "coach-6": ("Frank Thompson", "frank@example.com", 0.78),
}
CALENDARS = {
    "cal-1": ("Sales Consultation", 30, ["coach-1", "coach-2", "coach-3", "coach-5", "coach-6"]),
    "cal-2": ("Technical Interview", 45, ["coach-2", "coach-4", "coach-6"]),
    "cal-3": ("Quick Check-in", 15, ["coach-1", "coach-3"]),
}


async def test_the_coaches_and_their_hours(api: Client) -> None:
    coaches = (await seen(api, "/api/coaches"))["coaches"]
    assert {one["coach_id"]: (one["name"], one["email"], one["score"]) for one in coaches} == COACHES
    assert {(one["timezone"], one["max_daily_appointments"], one["active"]) for one in coaches} == {
        ("America/New_York", 10, True)
    }
    workdays = ("monday", "tuesday", "wednesday", "thursday", "friday")
    for coach in COACHES:
        schedule = await seen(api, f"/api/coaches/{coach}/schedule")
        hours = {day: [(one["start"], one["end"]) for one in windows] for day, windows in schedule["weekly"].items()}
        assert hours == {**{day: [("09:00", "17:00")] for day in workdays}, "saturday": [], "sunday": []}
        assert schedule["overrides"] == []


async def test_the_calendars_and_their_teams(api: Client) -> None:
    calendars = (await seen(api, "/api/calendars"))["calendars"]
    shown = {one["calendar_id"]: (one["name"], one["slot_duration"], one["coach_ids"]) for one in calendars}
    assert shown == CALENDARS
    assert {(one["slot_interval"], one["assignment"], one["max_duration"]) for one in calendars} == {
        (15, "balanced", None)
    }


@pytest.mark.parametrize(
    ("key", "limit", "admin"),
    [("test-key-123", "100", False), ("dev-key-456", "500", False), ("prod-key-789", "1000", True)],
)
async def test_the_keys_and_what_they_may(api: Client, key: str, limit: str, admin: bool) -> None:
    client = api.with_key(key)
    read = await client("GET", "/api/coaches")
    assert (read.status, read.headers["X-RateLimit-Limit"]) == (200, limit)
    assert (await client("POST", "/api/contacts", {"email": "ada@example.com"})).status == 201
    administered = await client("PATCH", "/api/coaches/coach-1", {"specialty": "sales"})
    if admin:
        assert administered.status == 200
    else:
        assert_problem(administered, 403, "FORBIDDEN")
