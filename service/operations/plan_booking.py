"""What a wish for an appointment means: measured against a roster, and as the appointment it becomes.

Everything that can be refused without asking Redis or Postgres is refused here, with the field's name.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeAlias

import msgspec
from uuid_utils.compat import uuid5

from service.domain.appointment import Appointment, Status
from service.domain.assignment import Strategy
from service.domain.calendar import Calendar, Coach, Roster, aligned_groups, earliest_start, latest_start
from service.domain.grid import CELL_MINUTES, Placement, instant_of
from service.errors import InvalidRequest


class BookingRequest(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A checked wish for an appointment; times are aware. `stands_for` makes the fingerprint, when it is asked for."""

    calendar_id: str
    start_time: datetime
    end_time: datetime | None
    contact_email: str
    contact_name: str | None
    notes: str | None
    timezone: str | None
    coach_id: str | None
    metadata: dict[str, Any]
    idempotency_key: str | None
    stands_for: Callable[[], str]

    @cached_property
    def fingerprint(self) -> str:
        """What stands for the request under its idempotency key: 32 hex digits."""
        return self.stands_for()


# (zone index or None, local day number) of each zone, as `SlotClaim` takes them.
Zones: TypeAlias = tuple[tuple[int | None, int], ...]


class Plan(msgspec.Struct, frozen=True):
    """A request measured against a roster: what would be claimed."""

    roster: Roster
    calendar: Calendar
    coach: Coach | None
    placement: Placement
    zones: Zones
    strategy: Strategy


def plan_of(request: BookingRequest, roster: Roster, now: datetime) -> Plan:
    """What the request would take. Raises NotFound or InvalidRequest."""
    calendar = roster.calendar(request.calendar_id)
    coach = None if request.coach_id is None else roster.coach(request.coach_id)
    start = request.start_time
    check_start(calendar, start, now)
    if request.end_time is None:
        end = start + timedelta(minutes=calendar.slot_duration)
    else:
        end = request.end_time
        check_end(calendar, start, end)
    zones = zones_at(roster, columns_of(calendar, coach), start, calendar.slot_interval)
    placement = Placement.of(start, end, calendar.buffer_before, calendar.buffer_after)
    strategy = Strategy.REQUESTED if coach is not None else calendar.assignment
    return Plan(roster, calendar, coach, placement, zones, strategy)


def check_start(calendar: Calendar, start: datetime, now: datetime) -> None:
    """Raise InvalidRequest for a start in the past, too soon or too far ahead."""
    if start < now:
        raise InvalidRequest([("start_time", "is in the past")])
    if start < earliest_start(calendar, now):
        raise InvalidRequest([("start_time", f"needs at least {calendar.min_notice_minutes} minutes' notice")])
    if start > latest_start(calendar, now):
        raise InvalidRequest([("start_time", f"is more than {calendar.max_days_ahead} days ahead")])


def check_end(calendar: Calendar, start: datetime, end: datetime) -> None:
    """Raise InvalidRequest for another duration than the calendar's where it allows none, or not this one."""
    if end == start + timedelta(minutes=calendar.slot_duration):
        return
    if calendar.max_duration is None:
        raise InvalidRequest([("end_time", f"this calendar's appointments take {calendar.slot_duration} minutes")])
    minutes = (end - start) / timedelta(minutes=1)
    if minutes % CELL_MINUTES or not CELL_MINUTES <= minutes <= calendar.max_duration:
        raise InvalidRequest(
            [("end_time", f"must be a multiple of 5 minutes after the start, at most {calendar.max_duration}")]
        )


def columns_of(calendar: Calendar, coach: Coach | None) -> tuple[int, ...]:
    """The columns that may take a booking: the team's, or the one of a coach that was asked for.

    Raises InvalidRequest for a coach that is not of the team.
    """
    if coach is None:
        return calendar.team
    if coach.column not in calendar.team:
        raise InvalidRequest([("coach_id", f"{coach.coach_id!r} is not booked through {calendar.calendar_id!r}")])
    return (coach.column,)


def zones_at(roster: Roster, columns: tuple[int, ...], start: datetime, interval: int) -> Zones:
    """The zones of the columns whose start grid of `interval` minutes has the start.

    Raises InvalidRequest when none has.
    """
    on_grid = not (start.second or start.microsecond or start.minute % CELL_MINUTES)
    groups = aligned_groups(roster.zone_groups(columns), start, interval) if on_grid else ()
    if not on_grid or (columns and not groups):
        raise InvalidRequest([("start_time", f"is not on the calendar's grid of {interval} minutes")])
    # One zone in the whole roster needs no mask in the script.
    one_zone = len(roster.zones) == 1
    return tuple((None if one_zone else group.number, day) for group, day in groups)


def appointment_of(
    request: BookingRequest, plan: Plan, appointment_id: uuid.UUID, column: int, considered: int, now: datetime
) -> Appointment:
    """The appointment a claim of `plan` becomes: the winner's column, how many were considered, made at `now`."""
    coach = plan.roster.coach_by_column[column]
    return Appointment(
        org=plan.roster.org,
        appointment_id=appointment_id,
        calendar_number=plan.calendar.number or 0,
        calendar_id=plan.calendar.calendar_id,
        column=column,
        coach_id=coach.coach_id,
        contact_id=contact_id_of(plan.roster.org, request.contact_email),
        contact_email=request.contact_email,
        contact_name=request.contact_name,
        start_time=plan.placement.starts_at,
        end_time=plan.placement.ends_at,
        occupied_start=instant_of(plan.placement.occupied_start),
        occupied_end=instant_of(plan.placement.occupied_end),
        local_day=local_day_of(plan, coach),
        timezone=request.timezone,
        status=Status.SCHEDULED,
        notes=request.notes,
        metadata=request.metadata,
        version=1,
        created_at=now,
        updated_at=now,
        strategy=plan.strategy.value,
        considered=considered,
    )


def local_day_of(plan: Plan, coach: Coach) -> int:
    """The day an appointment of `plan` counts on when the coach gets it."""
    number = plan.roster.zone_numbers[coach.timezone]
    return next(day for zone, day in plan.zones if zone is None or zone == number)


def contact_id_of(org: int, email: str) -> uuid.UUID:
    """A contact's id: UUIDv5 of the organization and the lower-cased address, so an address is one contact."""
    return uuid5(_CONTACTS, f"{org}:{email.lower()}")


_CONTACTS = uuid.UUID("8a2f3f0e-6c43-5d0b-9d0f-0d9d5f0a4a11")
