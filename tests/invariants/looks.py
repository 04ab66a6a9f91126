"""Looking at the service from outside: what is listed, what is booked, and whether anything overlaps."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from service.app import Services
from service.domain.appointment import Appointment
from service.domain.grid import instant_of
from service.operations.local_rates import RateSeen
from tests.wishes import caller, wish

_OVERLAPS = """
SELECT count(*) FROM appointments AS a JOIN appointments AS b USING (org_id, coach_no)
WHERE a.appointment_id < b.appointment_id AND a.occupied && b.occupied
    AND a.status IN ('scheduled', 'completed', 'no_show') AND b.status IN ('scheduled', 'completed', 'no_show')
"""


async def changed_roster(services: Services, sql: Any, org: int, *statements: str) -> None:
    """Change coaches or calendars by SQL, and let a process know of it as the service would."""
    for text in (*statements, "UPDATE organizations SET roster_version = roster_version + 1"):
        await sql.execute(text)
    await services.rosters.refresh(org, await services.rosters.get(org))


async def listed(services: Services, org: int, calendar: str, coach: str | None = None) -> set[tuple[datetime, str]]:
    """(start, coach) of everything a calendar lists from an hour ago to a week ahead, asked as the edge asks."""
    roster = await services.rosters.get(org)
    now = services.clock.now()
    one = None if coach is None else roster.coach(coach)
    free = await services.availability(
        roster, roster.calendar(calendar), one, now - timedelta(hours=1), now + timedelta(days=7)
    )
    return {(instant_of(cell), who.coach_id) for cell, coaches in free.slots() for who in coaches}


async def booked(services: Services, org: int, start: datetime, calendar: str = "cal-1", **more: Any) -> Appointment:
    """Book a start; the appointment as Postgres has it."""
    answer = await services.book(wish(start, calendar, **more), caller(org), RateSeen())
    return await services.change.get(org, UUID(orjson.loads(answer.body)["appointment_id"]))


async def cancelled(services: Services, appointment: Appointment) -> None:
    """Cancel an appointment."""
    await services.change.cancel(
        appointment.org, appointment.appointment_id, reason=None, actor="tests", correlation_id="corr-1"
    )


async def overlaps(sql: Any) -> int:
    """Pairs of live appointments of one coach whose occupied times overlap."""
    return await sql.fetchval(_OVERLAPS)
