"""What an answer must say, beyond its status. Every function raises Broken with the promise in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from loadtest.load.outcomes import Answer, Broken
from loadtest.load.world import Calendar

REPLAYED = "idempotent-replayed"


def instant(text: str) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(text)


def hold(fact: bool, promise: str, seen: object) -> None:
    """Raise Broken with `promise` unless `fact`."""
    if not fact:
        raise Broken(promise, seen)


def is_booking(answer: Answer, calendar: Calendar, wish: Mapping[str, str]) -> None:
    """A 201 is the appointment that was wished for: that start, a coach of that calendar, its place and tag named."""
    body = fields(answer)
    is_appointment(answer, calendar, wish["start_time"], "scheduled", 1)
    hold(body["contact_email"] == wish["contact_email"], "a booking is for who asked", body["contact_email"])
    place = f"/api/appointments/{body['appointment_id']}"
    hold(answer.headers.get("location") == place, "a booking names its place", answer.headers.get("location"))


def is_appointment(answer: Answer, calendar: Calendar, start: str, status: str, version: int) -> None:
    """An appointment at that start, in that state and version, with a coach of its calendar."""
    body = fields(answer)
    hold(instant(body["start_time"]) == instant(start), "an appointment starts when it was wished", body["start_time"])
    hold(body["coach_id"] in calendar.coach_ids, "the coach is of the calendar's team", body["coach_id"])
    hold(body["calendar_id"] == calendar.calendar_id, "an appointment keeps its calendar", body["calendar_id"])
    hold(body["status"] == status, f"the appointment is {status}", body["status"])
    hold(body["version"] == version, f"the appointment has version {version}", body["version"])
    tag = answer.headers.get("etag")
    hold(tag == f'"v{version}"', "the entity tag is the version", tag)


def is_replay(answer: Answer, first: Answer) -> None:
    """The same key got the same status and the very same bytes, and says that it is a replay."""
    hold(answer.status == first.status, "a replay has the first answer's status", answer.status)
    hold(answer.raw == first.raw, "a replay is the first answer, byte for byte", answer.raw[:200])
    hold(answer.headers.get(REPLAYED) == "true", "a replay says that it is one", dict(answer.headers))


def is_availability(answer: Answer, calendar: Calendar, *, by_start: bool) -> None:
    """Sorted rows of the calendar's team, counted right, each as long as its appointments."""
    body = fields(answer)
    slots = body["slots"]
    order = [(instant(slot["start_time"]), slot.get("coach_id", "")) for slot in slots]
    hold(order == sorted(set(order)), "slots are sorted and come once", order[:3])
    counted = sum(slot["available"] for slot in slots) if by_start else len(slots)
    hold(counted == body["total_available"], "the total is that of the rows", (counted, body["total_available"]))
    strangers = {slot["coach_id"] for slot in slots if not by_start} - set(calendar.coach_ids)
    hold(not strangers, "only the calendar's coaches are offered", strangers)
    wrong = [
        slot
        for slot in slots
        if (instant(slot["end_time"]) - instant(slot["start_time"])).total_seconds() != 60 * calendar.slot_duration_min
    ]
    hold(not wrong, "a slot is as long as the calendar says", wrong[:1])


def is_list(answer: Answer, calendar: Calendar, status: str) -> None:
    """Appointments by start, all of that calendar and in that state."""
    rows = fields(answer)["appointments"]
    starts = [instant(row["start_time"]) for row in rows]
    hold(starts == sorted(starts), "a list is sorted by start", starts[:3])
    others = [row for row in rows if row["calendar_id"] != calendar.calendar_id or row["status"] != status]
    hold(not others, "a list holds what was asked for and nothing else", others[:1])


def fields(answer: Answer) -> dict[str, Any]:
    """The body's fields."""
    body = answer.body
    hold(isinstance(body, dict), "an answer is a JSON object", answer.raw[:120])
    return body
