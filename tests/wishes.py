"""What tests ask the booking operation for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from service.app import Services
from service.claims.messages import Rate
from service.domain.grid import day_of, day_start, instant_of
from service.operations.caller import Caller
from service.operations.plan_booking import BookingRequest


def caller(org: int) -> Caller:
    """A caller that may everything and is not limited."""
    return Caller(org, "tests", frozenset({"read", "write", "admin"}), Rate("tests", 0, 60_000), "corr-1")


def wish(
    start: datetime, calendar: str = "cal-1", person: int = 0, fingerprint: str = "0" * 32, **more: Any
) -> BookingRequest:
    """A wish for a start in a calendar by the `person`-th contact."""
    fields: dict[str, Any] = {
        "calendar_id": calendar,
        "start_time": start,
        "end_time": None,
        "contact_email": f"person{person}@example.com",
        "contact_name": None,
        "notes": None,
        "timezone": None,
        "coach_id": None,
        "metadata": {},
        "idempotency_key": None,
        "stands_for": lambda: fingerprint,
    }
    return BookingRequest(**{**fields, **more})


async def free_starts(services: Services, org: int, calendar: str = "cal-1") -> list[datetime]:
    """The free starts of seven days from tomorrow on: of whole days, so that the time of day changes nothing."""
    roster = await services.rosters.get(org)
    first = day_start(day_of(services.clock.now()) + 1)
    free = await services.availability(roster, roster.calendar(calendar), None, first, first + timedelta(days=7))
    return [instant_of(cell) for cell, _ in free.rows]
