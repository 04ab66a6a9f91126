"""An event of the calendar that cannot mean anything is refused at once, with the field's name; others are taken."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.api.client import Client
from tests.api_people.asking import refused

PATH = "/api/webhooks/calendar"
AN_ID = str(UUID(int=5))
PERIOD = {"start_time": "2030-01-07T10:00:00Z", "end_time": "2030-01-07T11:00:00Z"}
FAR_AWAY = {"start_time": "9999-12-01T10:00:00Z", "end_time": "9999-12-02T10:00:00Z"}
A_COACH = {"coach_id": "coach-1", **PERIOD}
UPDATED = {"event_type": "appointment.updated", "appointment_id": AN_ID}


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({"event_type": kind, **A_COACH, **wrong}, field)
        for kind in ("coach.unavailable", "coach.available")
        for wrong, field in (
            ({"coach_id": None}, "coach_id"),
            ({"start_time": None}, "start_time"),
            ({"end_time": None}, "end_time"),
            ({"start_time": "soon"}, "start_time"),
            ({"start_time": "2030-01-07T10:00:00"}, "start_time"),
            ({"end_time": "2030-01-07T11:00:00"}, "end_time"),
            ({"end_time": PERIOD["start_time"]}, "end_time"),
            ({"end_time": "2030-01-06T10:00:00Z"}, "end_time"),
            ({"start_time": "0001-01-01T00:00:00+14:00"}, "start_time"),
            ({"existing": "explode"}, "existing"),
            ({"reason": 7}, "reason"),
        )
    ),
    ({"event_type": "coach.unavailable", **A_COACH, "end_time": "2031-01-08T10:00:01Z"}, "end_time"),
    ({"event_type": "coach.unavailable", **A_COACH, **FAR_AWAY}, "end_time"),
    *(
        ({"event_type": f"appointment.{word}"}, "appointment_id")
        for word in ("updated", "completed", "no_show", "cancelled", "confirmed")
    ),
    ({**UPDATED, "start_time": "2030-01-07T10:00:00"}, "start_time"),
    ({**UPDATED, "end_time": "2030-01-07T10:00:00"}, "end_time"),
    ({**UPDATED, **PERIOD, "end_time": "2030-01-07T10:00:00Z"}, "end_time"),
    ({**UPDATED, "notes": 12}, "notes"),
    ({**UPDATED, "notes": "x" * 5001}, "notes"),
]
TAKEN: list[dict[str, Any]] = [
    {"event_type": "coach.unavailable", **A_COACH, "end_time": "2031-01-08T10:00:00Z"},
    {"event_type": "coach.available", **A_COACH, "end_time": "2060-01-08T10:00:00+05:30", "existing": None},
    {**UPDATED, "start_time": PERIOD["start_time"], "notes": "later"},
    {**UPDATED, "end_time": PERIOD["end_time"], "coach_id": "coach-2"},
    {**UPDATED, "room": {"number": 12}},
    {"event_type": "appointment.completed", "appointment_id": AN_ID},
]


async def test_what_cannot_be_meant_is_refused(api: Client) -> None:
    for body, field in REFUSED:
        refused(await api("POST", PATH, body, headers={"X-Idempotency-Key": "evt-1"}), field)
    assert (await api("GET", "/api/webhooks/events/evt-1")).status == 404


async def test_a_time_without_offset_is_not_told_of_a_zone_that_events_do_not_have(api: Client) -> None:
    body = {"event_type": "coach.available", **A_COACH, "start_time": "2030-01-07T10:00:00", "event_id": "evt-1"}
    answer = await api("POST", PATH, body)
    assert answer.json["details"]["fields"] == [{"field": "start_time", "message": "needs an offset"}]


async def test_what_can_be_meant_is_taken(api: Client) -> None:
    for number, body in enumerate(TAKEN):
        event_id = f"evt-{number}"
        answer = await api("POST", PATH, body, headers={"X-Idempotency-Key": event_id})
        assert (answer.status, answer.json) == (200, {"received": True, "event_id": event_id})
        state = (await api("GET", f"/api/webhooks/events/{event_id}")).json
        assert (state["event_type"], state["state"]) == (body["event_type"], "received")
