"""What there is to book: the calendars a key sees, and how to make some in an organization that has none.

Small organizations are soon full, and a load test that is answered only 409 measures little; so the one that is made
here has many coaches that are never closed, and one small team for a sale.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from loadtest.load.api import Api

COACHES = 48
SMALL_TEAM = 4
DAILY_LIMIT = 288
HORIZON_DAYS = 30
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Calendar: its part of the coaches (None: the small team), duration, interval, buffer after. Teams overlap, so
# calendars contend.
CALENDARS = (("load-wide", 1.0, 30, 30, 0), ("load-half", 0.5, 45, 15, 5), ("load-few", None, 30, 30, 0))


@dataclass(frozen=True)
class Calendar:
    """One calendar: its team, how long its appointments take, and how far ahead it can be booked."""

    calendar_id: str
    coach_ids: tuple[str, ...]
    slot_duration_min: int
    max_days_ahead: int


@dataclass(frozen=True)
class World:
    """The calendars of one key, those with coaches; `few` is the smallest of them."""

    calendars: tuple[Calendar, ...]

    @property
    def few(self) -> Calendar:
        """The calendar with the fewest coaches."""
        return min(self.calendars, key=lambda one: (len(one.coach_ids), one.calendar_id))


def read_world(api: Api) -> World:
    """The calendars that can be booked. Raises Unanswered, or ValueError when there are none."""
    rows = api.pages("/api/calendars", "calendars")
    calendars = tuple(_calendar(row) for row in rows if row["coach_ids"])
    if not calendars:
        raise ValueError("the key sees no calendar that has coaches: make one, or take another key")
    return World(calendars)


def _calendar(row: dict[str, Any]) -> Calendar:
    return Calendar(row["calendar_id"], tuple(row["coach_ids"]), row["slot_duration"], row["max_days_ahead"])


def furnish(api: Api, coaches: int = COACHES) -> None:
    """Make the coaches and calendars of an empty organization; needs an `admin` key. Raises Unanswered."""
    every_day = {day: [{"start": "00:00", "end": "24:00"}] for day in WEEKDAYS}
    coach_ids = [f"load-coach-{number:02}" for number in range(1, coaches + 1)]
    for number, coach_id in enumerate(coach_ids):
        coach = {
            "coach_id": coach_id,
            "name": f"Coach {number + 1}",
            "email": f"{coach_id}@example.com",
            "timezone": "UTC",
            "score": 0.5 + number / 100,
            "max_daily_appointments": DAILY_LIMIT,
        }
        api.ask("POST", "/api/coaches", coach, expected=201)
        api.ask("PUT", f"/api/coaches/{coach_id}/schedule", {"timezone": "UTC", "weekly": every_day})
    for calendar_id, part, duration, interval, buffer_after in CALENDARS:
        calendar = {
            "calendar_id": calendar_id,
            "name": calendar_id,
            "slot_duration": duration,
            "slot_interval": interval,
            "buffer_after": buffer_after,
            "min_notice_minutes": 0,
            "max_days_ahead": HORIZON_DAYS,
            "coach_ids": coach_ids[: SMALL_TEAM if part is None else round(coaches * part)],
        }
        api.ask("POST", "/api/calendars", calendar, expected=201)


def run_name() -> str:
    """A name for one run, good for an organization and for the addresses of its contacts."""
    return f"load-{datetime.now(UTC):%m%d-%H%M%S}-{os.getpid()}"


def first_starts(api: Api, calendar: Calendar, count: int) -> list[str]:
    """The first `count` free starts of tomorrow and after. Raises Unanswered."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    path = f"/api/availability?calendar_id={calendar.calendar_id}&group_by=start&days=7&from={tomorrow}"
    return [slot["start_time"] for slot in api.ask("GET", path)["slots"][:count]]
