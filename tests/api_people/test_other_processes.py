"""What one process was told of people, the next request through another one knows."""

from __future__ import annotations

from typing import Any

from service.app import Services
from tests.api.client import Client, booking
from tests.api_people.asking import made
from tests.wishes import free_starts


async def test_a_new_calendar_and_coach_are_known_to_every_process(
    api: Client, second: Client, services: Services, org: int
) -> None:
    starts = await free_starts(services, org)
    start = starts[20].isoformat()
    assert (await second.book(booking(start, "cal-1"))).status == 201, "its roster is there"
    words: dict[str, Any] = {"name": "New", "email": "new@example.com", "timezone": "America/New_York"}
    await made(api, "/api/coaches", coach_id="new", **words)
    await made(api, "/api/calendars", calendar_id="new-cal", name="New", slot_duration=30, coach_ids=["new"])
    assert (await second("GET", "/api/appointments?calendar_id=new-cal")).status == 200
    answer = await second.book(booking(start, "new-cal", 1))
    assert (answer.status, answer.json["coach_id"]) == (201, "new")
    await made(api, "/api/coaches", coach_id="newer", name="N", email="n@example.com", timezone="America/New_York")
    await api("PATCH", "/api/calendars/new-cal", {"coach_ids": ["new", "newer"]})
    path = f"/api/appointments/{answer.json['appointment_id']}"
    moved = await second("PATCH", path, {"coach_id": "newer"})
    assert (moved.status, moved.json["coach_id"]) == (200, "newer"), moved.raw
    await made(api, "/api/coaches", coach_id="newest", name="N", email="m@example.com", timezone="America/New_York")
    assert (await second("GET", "/api/appointments?coach_id=newest")).status == 200
    assert (await second("GET", "/api/coaches/newest/availability?date=2026-12-01")).status == 200
    explained = await second("GET", f"/api/availability/explain?calendar_id=new-cal&start_time={start[:19]}Z")
    assert explained.status == 200
