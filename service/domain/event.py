"""Events: one row for every committed change of an appointment, and whom it must reach.

An event's public id is made of what identifies it anyway, the appointment and its sequence, so it is the same
on every attempt, after every restart, and needs no column or index of its own.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from functools import cache
from uuid import UUID

import msgspec


class EventType(StrEnum):
    """What happened to an appointment."""

    CREATED = "appointment.created"
    UPDATED = "appointment.updated"
    RESCHEDULED = "appointment.rescheduled"
    REASSIGNED = "appointment.reassigned"
    CANCELLED = "appointment.cancelled"
    CONFIRMED = "appointment.confirmed"
    COMPLETED = "appointment.completed"
    NO_SHOW = "appointment.no_show"
    REMINDER = "appointment.reminder"


class EventRef(msgspec.Struct, frozen=True):
    """Which event: organization, appointment and sequence (1 for `created`, then counting up by one)."""

    org: int
    appointment_id: UUID
    sequence: int

    @property
    def event_id(self) -> str:
        """The public id, the same on every delivery."""
        return f"{self.appointment_id}.{self.sequence}"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A committed change with the full state it led to; `data` is the appointment as JSON text.

    `type` is the value of an EventType, or the word of a newer release beside this one.
    """

    ref: EventRef
    type: str
    occurred_at: datetime
    actor: str
    correlation_id: str
    reason: str | None
    data: bytes


class Destination(StrEnum):
    """The built-in destinations, by the name of their stream."""

    CRM = "crm"
    CALENDAR = "calendar-blocks"
    ENDPOINTS = "endpoints"
    """All endpoints an organization registered: what enters is handed on to each."""
    NOTIFICATIONS = "notifications"


_HEARD_BY: dict[str, tuple[Destination, ...]] = {
    EventType.CREATED: (Destination.CRM, Destination.CALENDAR, Destination.NOTIFICATIONS),
    EventType.UPDATED: (Destination.CRM,),
    EventType.RESCHEDULED: (Destination.CRM, Destination.CALENDAR, Destination.NOTIFICATIONS),
    EventType.REASSIGNED: (Destination.CRM, Destination.CALENDAR, Destination.NOTIFICATIONS),
    EventType.CANCELLED: (Destination.CRM, Destination.CALENDAR, Destination.NOTIFICATIONS),
    EventType.CONFIRMED: (Destination.CRM,),
    EventType.COMPLETED: (Destination.CRM,),
    EventType.NO_SHOW: (Destination.CRM,),
    EventType.REMINDER: (Destination.NOTIFICATIONS,),
}


@cache
def heard_by(event_type: str, *, calendar: bool, endpoints: bool) -> tuple[Destination, ...]:
    """The destinations that must hear of such an event of an organization.

    `calendar`: the external calendar knows its coaches; `endpoints`: it has registered some. Who hears of a word of a
    newer release only that one knows, and finds it undelivered.
    """
    heard = tuple(one for one in _HEARD_BY.get(event_type, ()) if calendar or one is not Destination.CALENDAR)
    return (*heard, Destination.ENDPOINTS) if endpoints else heard
