"""Calendars are created and changed; every field of one counts in the very next answer about availability."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from service.app import Services
from service.domain.grid import day_of
from service.operations.rosters import grid_days
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

PATH = "/api/calendars/cal-1"


async def test_a_new_calendar_is_shown_as_it_was_made_and_can_be_booked_at_once(api: Client, second: Client) -> None:
    fields = {
        "calendar_id": "skin",
        "name": "Skin",
        "slot_duration": 20,
        "slot_interval": 10,
        "max_duration": 60,
        "buffer_before": 5,
        "buffer_after": 10,
        "min_notice_minutes": 7,
        "max_days_ahead": 20,
        "assignment": "score",
    }
    answer = await api("POST", "/api/calendars", {**fields, "coach_ids": ["coach-4", "coach-1"]})
    assert (answer.status, answer.headers["Location"]) == (201, "/api/calendars/skin")
    calendar = answer.json
    assert calendar == await seen(api, "/api/calendars/skin")
    assert {name: calendar[name] for name in fields} == fields
    assert calendar["coach_ids"] == ["coach-1", "coach-4"]
    monday = weekday(0)
    assert len(await clock_starts(second, "coach-4", monday, calendar_id="skin")) == 47
    await booked(second, local(monday, "10:10"), "skin", "coach-4")
    free = await clock_starts(api, "coach-4", monday, calendar_id="skin")
    # The neighbour's buffers count on both sides of one that begins there.
    assert [start for start in free if "09:30" <= start <= "11:00"] == ["09:30", "10:50", "11:00"]


async def test_a_calendar_made_with_a_name_only_is_what_the_settings_say(api: Client) -> None:
    calendar = await made(api, "/api/calendars", name="Plain")
    assert len(calendar["calendar_id"]) == 36
    assert {**calendar, "calendar_id": "", "created_at": 0, "updated_at": 0} == {
        "calendar_id": "",
        "name": "Plain",
        "slot_duration": 30,
        "slot_interval": 15,
        "max_duration": None,
        "buffer_before": 0,
        "buffer_after": 0,
        "min_notice_minutes": 120,
        "max_days_ahead": 30,
        "assignment": "balanced",
        "coach_ids": [],
        "created_at": 0,
        "updated_at": 0,
    }
    assert await api.slots(calendar_id=calendar["calendar_id"]) == []


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a\0"}, "name"),
    *(({field: bad}, field) for field in ("slot_duration", "slot_interval") for bad in (0, 3, 7, 1445, -5, "30", 7.5)),
    *(({"max_duration": bad}, "max_duration") for bad in (5, 33, 1445)),
    *(({field: bad}, field) for field in ("buffer_before", "buffer_after") for bad in (-5, 4, 245)),
    *(({"min_notice_minutes": bad}, "min_notice_minutes") for bad in (-1, 10**7, 10**20)),
    *(({"max_days_ahead": bad}, "max_days_ahead") for bad in (0, 367)),
    ({"assignment": "requested"}, "assignment"),
    ({"coach_ids": ["coach-1", "nobody"]}, "coach_ids"),
    ({"coach_ids": ["a\0"]}, "coach_ids"),
    ({"colour": "red"}, "colour"),
]


async def test_every_refusal_names_its_field_and_changes_nothing(api: Client) -> None:
    before = await seen(api, "/api/calendars?limit=200")
    for fields, field in BAD_FIELDS:
        refused(await api("POST", "/api/calendars", {"name": "X", "calendar_id": "x", **fields}), field)
        refused(await api("PATCH", PATH, fields), field)
    refused(await api("POST", "/api/calendars", {}), "name")
    refused(await api("POST", "/api/calendars", {"name": "X", "calendar_id": "a/b"}), "calendar_id")
    refused(await api("PATCH", PATH, {"calendar_id": "other"}), "calendar_id")
    refused(await api("PATCH", PATH, {"slot_duration": None}), "slot_duration")
    assert await seen(api, "/api/calendars?limit=200") == before
    await changed(api, PATH, max_duration=45)
    refused(await api("PATCH", PATH, {"slot_duration": 60}), "slot_duration")
    assert (await changed(api, PATH, slot_duration=60, max_duration=None))["max_duration"] is None


async def test_an_id_is_given_once_also_in_a_race(api: Client) -> None:
    wish = {"calendar_id": "one", "name": "One"}
    answers = await asyncio.gather(*(api("POST", "/api/calendars", wish) for _ in range(8)))
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 7}
    lost = next(answer for answer in answers if answer.status == 409)
    assert assert_problem(lost, 409, "ALREADY_EXISTS")["details"] == {"field": "calendar_id"}


async def test_each_field_counts_at_once(api: Client, second: Client, services: Services, org: int) -> None:
    monday = weekday(0)

    async def starts() -> list[str]:
        found = await clock_starts(second, "coach-1", monday, calendar_id="cal-1")
        assert found == await clock_starts(api, "coach-1", monday, calendar_id="cal-1")
        return found

    assert len(await starts()) == 31
    await changed(api, PATH, slot_interval=60)
    assert len(await starts()) == 8
    off_grid = await second.book(booking(local(monday, "09:15")))
    refused(off_grid, "start_time")
    await changed(api, PATH, slot_interval=15, slot_duration=120)
    assert (await starts())[-1] == "15:00"
    kept = await booked(second, local(monday, "12:00"), "cal-1", "coach-1")
    await changed(api, PATH, slot_duration=30)
    assert [start for start in await starts() if "11:00" <= start <= "14:30"] == [
        *("11:00", "11:15", "11:30", "14:00", "14:15", "14:30")
    ]
    await changed(api, PATH, buffer_before=30)
    assert [start for start in await starts() if "11:00" <= start <= "14:30"] == ["11:00", "11:15", "11:30", "14:30"]
    await changed(api, PATH, buffer_before=0, buffer_after=15)
    assert [start for start in await starts() if "11:00" <= start <= "14:00"] == ["11:00", "11:15", "14:00"]
    ahead = (monday - datetime.now(UTC).date()).days
    await changed(api, PATH, min_notice_minutes=(ahead + 2) * 1440)
    assert await starts() == []
    await changed(api, PATH, min_notice_minutes=0, max_days_ahead=1)
    assert await starts() == []
    refused(await second.book(booking(local(monday, "14:00"))), "start_time")
    await changed(api, PATH, max_days_ahead=30)
    assert "14:00" in await starts()
    assert (await seen(api, f"/api/appointments/{kept['appointment_id']}")) == kept
    await changed(api, PATH, coach_ids=["coach-4"])
    assert await starts() == []
    slots = await second.slots(calendar_id="cal-1")
    assert {slot["coach_id"] for slot in slots} == {"coach-4"}
    assert (await seen(api, "/api/coaches/coach-1"))["calendar_ids"] == ["cal-3"]
    assert (await changed(api, PATH, assignment="score", coach_ids=[]))["coach_ids"] == []
    assert await second.slots(calendar_id="cal-1") == []
    assert await differences(services, org) == 0


async def test_days_a_longer_horizon_left_behind_do_not_come_back(api: Client, services: Services, org: int) -> None:
    horizons = {f"cal-{n}": f"/api/calendars/cal-{n}" for n in (1, 2, 3)}
    await changed(api, PATH, max_days_ahead=60)
    far = weekday(0, 45)
    assert await clock_starts(api, "coach-1", far, calendar_id="cal-1") != []
    roster = await services.rosters.get(org)
    days = grid_days(roster, day_of(services.clock.now()))
    await services.keeper.derive(org, days)
    for path in horizons.values():
        await changed(api, path, max_days_ahead=3)
    left = grid_days(await services.rosters.get(org), day_of(services.clock.now()))
    assert left.stop < days.stop
    assert await services.grid.missing_days(org, range(left.stop, days.stop)) == list(range(left.stop, days.stop))
    await changed(api, "/api/coaches/coach-1/schedule", "PUT", weekly={})
    await changed(api, PATH, max_days_ahead=60)
    assert await clock_starts(api, "coach-1", far, calendar_id="cal-1") == []
    assert await clock_starts(api, "coach-2", far, calendar_id="cal-1") != []


async def test_a_list_pages_completely(api: Client) -> None:
    for number in range(4):
        await made(api, "/api/calendars", calendar_id=f"more-{number}", name="More")
    found = await pages(api, "/api/calendars", "calendars", 3)
    assert [len(page) for page in found] == [3, 3, 1]
    ids = [calendar["calendar_id"] for page in found for calendar in page]
    assert ids == ["cal-1", "cal-2", "cal-3", *(f"more-{n}" for n in range(4))]
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(found[2][0]["created_at"]) < timedelta(minutes=1)
