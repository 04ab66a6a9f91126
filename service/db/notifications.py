"""What notifications need of Postgres: names, who is to be reminded, and where each notification stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from service.db.appointments import appointment_of_row
from service.db.connection import Database
from service.domain.appointment import Appointment
from service.domain.event import EventRef


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says beyond its event: names as they are now, and the appointment before it as JSON text."""

    calendar_name: str
    coach_name: str
    earlier: bytes | None
    earlier_coach_name: str | None


class DueReminder(msgspec.Struct, frozen=True):
    """An appointment whose contact was not reminded of its start, and when that start was last told."""

    appointment: Appointment
    told_at: datetime


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """An event and its delivery to the contact: `state` is None before the first attempt has ended.

    `type` is the value of an EventType, or the word of a newer release beside this one.
    """

    type: str
    state: str | None
    attempts: int
    error: str | None
    sent_at: datetime | None


class NotificationStore:
    """Reads what is told to contacts, and notes of what they need not be told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def circumstances(self, ref: EventRef, *, coach_id: str, calendar_id: str) -> Circumstances:
        """What to say beyond an event. Raises Unavailable."""
        row = await self._database.first(
            "circumstances", ref.org, ref.appointment_id, ref.sequence, coach_id, calendar_id
        )
        if row is None:
            raise AssertionError("an appointment's coach and calendar are never deleted")
        return Circumstances(
            calendar_name=row["calendar_name"],
            coach_name=row["coach_name"],
            earlier=row["earlier"],
            earlier_coach_name=row["earlier_coach_name"],
        )

    async def due(self, after: datetime, until: datetime, most: int) -> list[DueReminder]:
        """At most `most` scheduled appointments with `after` < start <= `until` still to be reminded of, soonest first.

        Of every organization.
        """
        rows = await self._database.fetch("due_reminders", after, until, most)
        return [DueReminder(appointment_of_row(row), row["told_at"]) for row in rows]

    async def need_none(self, appointments: Sequence[Appointment]) -> None:
        """Note that these starts need no reminder. Raises Unavailable or OutcomeUnknown."""
        await self._database.write(
            "need_no_reminder",
            [a.org for a in appointments],
            [a.appointment_id for a in appointments],
            [a.start_time for a in appointments],
        )

    async def of_appointment(self, org: int, appointment_id: UUID) -> list[Notification]:
        """Its events, oldest first, also those the contact does not hear of; none when there is no such appointment."""
        rows = await self._database.fetch("notifications_of", org, appointment_id)
        return [
            Notification(
                type=row["type"],
                state=row["state"],
                attempts=row["attempts"] or 0,
                error=row["last_error"],
                sent_at=row["delivered_at"],
            )
            for row in rows
        ]
