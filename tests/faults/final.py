"""The end of a run as it is: rows of Postgres, what is left in Redis, counters, the comparison, the CRM's receipts.

Read once, after the heal and the quiet, straight from the servers (not through the proxies), so that the checks
are functions of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any


@dataclass(frozen=True)
class CoachRow:
    """A coach: its limit of a local day, its zone, and whether it is open at a moment (weekly windows)."""

    org: str
    coach_no: int
    coach_id: str
    timezone: str
    daily_limit: int
    windows: tuple[tuple[int, int, int], ...]  # weekday (0 = Monday), first and last minute


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


@dataclass(frozen=True)
class AppointmentRow:
    """An appointment as Postgres has it at the end; `status` void is a tombstone."""

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


@dataclass(frozen=True)
class Final:
    """Everything the checks read."""

    coaches: tuple[CoachRow, ...] = ()
    calendars: tuple[CalendarRow, ...] = ()
    appointments: tuple[AppointmentRow, ...] = ()
    events: tuple[EventRow, ...] = ()
    # (appointment id, sequence, destination) -> state
    deliveries: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    # (org, key) -> (status, appointment id or None): records of keys that are not bookings'
    answers: Mapping[tuple[str, str], tuple[int | None, str | None]] = field(default_factory=dict)
    # what should be empty and is not: "stream:crm", "pending", "way:crm", "grid_repairs" ... -> how many
    leftovers: Mapping[str, int] = field(default_factory=dict)
    # (series, labels sorted by name) -> value
    metrics: Mapping[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)
    verify_code: int = 0
    verify_text: str = ""
    # connections of the service to Postgres: state, seconds of its transaction, query
    activity: tuple[Mapping[str, Any], ...] = ()
    # event id -> monotonic times at which the CRM said that it has it
    receipts: Mapping[str, list[float]] = field(default_factory=dict)
    # (what, status, seconds) of the last look at the endpoints
    probes: tuple[tuple[str, int, float], ...] = ()
    # processes alive by name: "serve", "worker"
    processes: Mapping[str, int] = field(default_factory=dict)
    expected_processes: Mapping[str, int] = field(default_factory=dict)


async def read_final(machine: Any) -> Final:
    """Read all of it from a machine that is healed and quiet."""
    raise NotImplementedError
