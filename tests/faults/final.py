"""The end of a run as it is: rows of Postgres, what is left in Redis, counters, the comparison, the CRM's receipts.

The values are here; `end_state.py` reads them once, after the heal and the quiet, so that the checks are functions
of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

LIVE = frozenset({"scheduled", "completed", "no_show"})
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CoachRow:
    """A coach: its limit of a local day, its zone, and its weekly windows of that zone."""

    org: str
    coach_no: int
    coach_id: str
    timezone: str
    daily_limit: int
    windows: tuple[tuple[int, int, int], ...]  # weekday (0 = Monday), first and last minute

    def is_open(self, start: datetime, end: datetime) -> bool:
        """Whether the time lies within one of its windows, by its wall clock."""
        local, last = self.local(start), self.local(end - timedelta(microseconds=1))
        minute = local.hour * 60 + local.minute
        length = (end - start) / timedelta(minutes=1)
        return local.date() == last.date() and any(
            weekday == local.weekday() and first <= minute and minute + length <= until
            for weekday, first, until in self.windows
        )

    def local(self, moment: datetime) -> datetime:
        """A moment on its wall clock; the date is the one that its limit counts on."""
        return moment.astimezone(ZoneInfo(self.timezone))


@dataclass(frozen=True)
class CalendarRow:
    """A calendar: minutes, and the columns of its team."""

    org: str
    calendar_id: str
    slot_duration: int
    slot_interval: int
    buffer_before: int
    buffer_after: int
    team: frozenset[int]

    @property
    def length(self) -> timedelta:
        """How long its appointments are."""
        return timedelta(minutes=self.slot_duration)

    def occupied(self, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """The time an appointment takes with its buffers."""
        return start - timedelta(minutes=self.buffer_before), end + timedelta(minutes=self.buffer_after)


@dataclass(frozen=True)
class AppointmentRow:
    """An appointment as Postgres has it at the end; `status` void is a tombstone, without a calendar."""

    org: str
    appointment_id: str
    calendar_id: str | None
    coach_no: int
    coach_id: str
    starts_at: datetime
    ends_at: datetime
    occupied: tuple[datetime, datetime]
    local_day: date
    status: str
    version: int
    idempotency_key: str | None


@dataclass(frozen=True)
class EventRow:
    """One committed change; `data` is the appointment after it, as it was answered."""

    org: str
    appointment_id: str
    sequence: int
    type: str
    occurred_at: datetime
    correlation_id: str
    data: Mapping[str, Any]

    @property
    def event_id(self) -> str:
        """The id under which it is announced."""
        return f"{self.appointment_id}.{self.sequence}"


@dataclass(frozen=True)
class Final:
    """Everything the checks read."""

    coaches: tuple[CoachRow, ...] = ()
    calendars: tuple[CalendarRow, ...] = ()
    appointments: tuple[AppointmentRow, ...] = ()
    events: tuple[EventRow, ...] = ()
    # (appointment id, sequence, destination) -> state
    deliveries: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    # what should be empty and is not: "stream:crm", "pending", "way:crm", "grid_repairs" ... -> how many
    leftovers: Mapping[str, int] = field(default_factory=dict)
    # (series, labels sorted by name) -> value
    metrics: Mapping[tuple[str, Labels], float] = field(default_factory=dict)
    verify_code: int = 0
    verify_text: str = ""
    # connections of the service to Postgres: state, seconds of its transaction, query
    activity: tuple[Mapping[str, Any], ...] = ()
    most_connections: int = 0
    # event id -> monotonic times at which the CRM said that it has it
    receipts: Mapping[str, list[float]] = field(default_factory=dict)
    # event id -> distinct (path, body) the CRM was sent under it
    receipt_bodies: Mapping[str, set[tuple[str, bytes]]] = field(default_factory=dict)
    # (what, status, seconds) of the last look at the endpoints; status 0: no answer
    probes: tuple[tuple[str, int, float], ...] = ()
    # processes alive, and how many there should be: "api", "worker"
    processes: Mapping[str, int] = field(default_factory=dict)
    expected_processes: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def coach(self) -> Mapping[tuple[str, str], CoachRow]:
        """Coaches by (organization, coach id)."""
        return {(coach.org, coach.coach_id): coach for coach in self.coaches}

    @cached_property
    def calendar(self) -> Mapping[tuple[str, str], CalendarRow]:
        """Calendars by (organization, calendar id)."""
        return {(calendar.org, calendar.calendar_id): calendar for calendar in self.calendars}

    @cached_property
    def team(self) -> Mapping[tuple[str, str], tuple[CoachRow, ...]]:
        """The coaches a calendar is booked through, by (organization, calendar id)."""
        return {
            at: tuple(coach for coach in self.coaches if coach.org == at[0] and coach.coach_no in calendar.team)
            for at, calendar in self.calendar.items()
        }

    def value(self, series: str, **labels: str) -> float:
        """A metric's value; 0 when it is not there."""
        return self.metrics.get((series, tuple(sorted(labels.items()))), 0.0)


async def read_final(machine: Any) -> Final:
    """Read all of it from a machine that is healed and quiet; nobody else may ask the API meanwhile."""
    from tests.faults.end_state import read

    return await read(machine)
