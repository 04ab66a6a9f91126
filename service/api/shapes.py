"""The shapes of requests and answers. What validates a request is also what `/openapi.json` shows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Notes = Annotated[str, Meta(max_length=5000)]
Reason = Annotated[str, Meta(max_length=1000)]


class BookAppointment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wish for an appointment. Times are RFC 3339; one without offset is wall-clock time of `timezone`.

    The contact is named by its address, or by its id.
    """

    calendar_id: Id
    start_time: datetime
    end_time: datetime | None = None
    contact_email: str | None = None
    contact_id: Id | None = None
    contact_name: Name | None = None
    notes: Notes | None = None
    timezone: str | None = None
    coach_id: Id | None = None
    metadata: dict[str, Any] = {}


class MoveAppointmentShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of an appointment; what is left out stays as it is. Times as in a booking.

    Another time keeps the length unless `end_time` is given, and the coach if that one is free.
    """

    start_time: datetime | UnsetType = UNSET
    end_time: datetime | UnsetType = UNSET
    timezone: str | UnsetType = UNSET
    coach_id: Id | UnsetType = UNSET
    notes: Notes | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class CancelAppointment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an appointment is cancelled."""

    reason: Reason | None = None


class CalendarEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the external calendar; fields it needs depend on its type, others are ignored."""

    event_type: str
    event_id: str | None = None
    appointment_id: str | None = None
    coach_id: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    reason: Reason | None = None
    existing: str | None = None
    notes: Notes | None = None


class Assignment(msgspec.Struct, frozen=True):
    """How the coach was chosen."""

    strategy: str
    reason: str


class AppointmentShape(msgspec.Struct, frozen=True, kw_only=True):
    """An appointment."""

    appointment_id: str
    calendar_id: str
    coach_id: str
    contact_id: str
    contact_email: str
    contact_name: str | None
    start_time: datetime
    end_time: datetime
    timezone: str
    status: str
    notes: str | None
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime
    confirmed_at: datetime | None
    cancelled_at: datetime | None
    assignment: Assignment


class AppointmentPage(msgspec.Struct, frozen=True):
    """Some appointments, by start."""

    appointments: list[AppointmentShape]
    next_cursor: str | None


class ConsideredShape(msgspec.Struct, frozen=True):
    """A coach that was considered: what it was owed before and its share, in appointments."""

    coach_id: str
    deficit: float
    share: float
    won: bool


class ExplainedAssignment(msgspec.Struct, frozen=True):
    """Why this coach."""

    strategy: str
    reason: str
    considered: list[ConsideredShape]


class PastEventShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to an appointment, and the appointment after it."""

    event_id: str
    sequence: int
    type: str
    occurred_at: datetime
    actor: str
    correlation_id: str
    reason: str | None
    appointment: AppointmentShape
    assignment: ExplainedAssignment | None = None


class AppointmentHistory(msgspec.Struct, frozen=True):
    """Everything that happened to an appointment, oldest first."""

    history: list[PastEventShape]


class SlotShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A free start: of one coach, or with `group_by=start` how many coaches are free."""

    start_time: datetime
    end_time: datetime
    coach_id: str | None = None
    available: int | None = None
    coach_ids: list[str] | None = None


class AvailabilityShape(msgspec.Struct, frozen=True, kw_only=True):
    """Free slots of a window."""

    slots: list[SlotShape]
    total_available: int
    to: datetime
    timezone: str
    from_: datetime = msgspec.field(name="from")


class EventAccepted(msgspec.Struct, frozen=True):
    """An incoming event was taken."""

    received: bool
    event_id: str


class EventState(msgspec.Struct, frozen=True):
    """Where an incoming event's processing stands."""

    event_id: str
    event_type: str
    state: str
    attempts: int
    error: str | None


class CoachShare(msgspec.Struct, frozen=True):
    """One coach's part of the distribution."""

    coach_id: str
    name: str
    email: str
    score: float
    appointments_count: int
    utilization: float
    share: float
    expected_share: float


class DistributionShape(msgspec.Struct, frozen=True):
    """How appointments are spread."""

    distribution: list[CoachShare]
    fairness_score: float
    jain_index: float
    total_appointments: int


class ProblemShape(msgspec.Struct, frozen=True):
    """A failure, as application/problem+json."""

    status: int
    title: str
    error: str
    message: str
    details: dict[str, Any]
    correlation_id: str
    timestamp: datetime


class HealthShape(msgspec.Struct, frozen=True):
    """The state of the service and of what it depends on."""

    status: str
    dependencies: dict[str, str] = {}
