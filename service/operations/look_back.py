"""Looking at appointments: pages of them, and the history of one."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from service.db.appointments import AppointmentFilter, AppointmentStore, PastEvent
from service.domain.appointment import Appointment
from service.domain.calendar import Roster
from service.errors import InvalidRequest, NotFound

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Page:
    """Some appointments, and the cursor of the next page (None at the end)."""

    appointments: list[Appointment]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ConsideredCoach:
    """A coach that was considered: its deficit before and its share of the booking, in appointments."""

    coach_id: str
    deficit: float
    share: float
    won: bool


class LookBack:
    """Reads what was booked."""

    def __init__(self, appointments: AppointmentStore) -> None:
        self._appointments = appointments

    async def page(self, wanted: AppointmentFilter, limit: int, cursor: str | None) -> Page:
        """A page by start, then id. Raises InvalidRequest for a cursor that is not one of ours."""
        after = None if cursor is None else _after(cursor)
        found = await self._appointments.page(wanted, limit + 1, after)
        if len(found) <= limit:
            return Page(found, None)
        last = found[limit - 1]
        return Page(found[:limit], _cursor(last.start_time, last.appointment_id))

    async def history(self, org: int, appointment_id: UUID) -> list[PastEvent]:
        """What happened to an appointment, oldest first. Raises NotFound."""
        events = await self._appointments.history(org, appointment_id)
        if not events:
            raise NotFound(f"no appointment {appointment_id}")
        return events


def considered_coaches(event: PastEvent, winner: str, roster: Roster) -> list[ConsideredCoach]:
    """Everybody who was considered in an event, by the ids the outside knows."""
    units = 1_000_000
    return [
        ConsideredCoach(
            coach_id=(coach_id := roster.coach_by_column[one.column].coach_id),
            deficit=one.deficit / units,
            share=one.share / units,
            won=coach_id == winner,
        )
        for one in event.considered
    ]


def _cursor(start: datetime, appointment_id: UUID) -> str:
    micros = (start - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(micros.to_bytes(8, "big", signed=True) + appointment_id.bytes).decode().rstrip("=")


def _after(cursor: str) -> tuple[datetime, UUID]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if len(raw) != 24:
            raise ValueError
        return _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big", signed=True)), UUID(bytes=raw[8:])
    except (ValueError, binascii.Error, OverflowError):
        raise InvalidRequest([("cursor", "is not a cursor of this list")]) from None
