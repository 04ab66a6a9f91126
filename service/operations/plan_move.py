"""What a wish to change an appointment means: where it would be then, measured against a roster.

Only what changes is measured: an appointment that goes to another coach keeps its time, whatever notice or start
grid the calendar asks for by now, and one that keeps its length keeps it although the calendar's has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from service.claims.messages import OwnTime, Release, Search, Side
from service.domain.appointment import Appointment, Status
from service.domain.assignment import Strategy
from service.domain.calendar import Roster
from service.domain.event import EventType
from service.domain.grid import CELL_MINUTES, Placement, instant_of
from service.errors import InvalidRequest, StateConflict
from service.operations.plan_booking import Plan, check_end, check_start, columns_of, local_day_of, zones_at
from service.operations.settle_change import placement_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveWish:
    """A checked wish to change an appointment; None and UNSET leave a field as it is. Times are aware.

    `others_only` asks for another coach than the one it has, whoever that is.
    """

    start_time: datetime | None = None
    end_time: datetime | None = None
    coach_id: str | None = None
    notes: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    others_only: bool = False


@dataclass(frozen=True, slots=True)
class MovePlan:
    """A move as it would be claimed: the plan of the new time, and what the appointment holds already."""

    before: Appointment
    plan: Plan
    own: OwnTime


def plan_move(before: Appointment, wish: MoveWish, roster: Roster, considered: bytes, now: datetime) -> MovePlan | None:
    """Where the wish would move the appointment, or None when it stays where it is.

    `considered` is who was considered when it was last assigned, packed. Raises NotFound or InvalidRequest.
    """
    calendar = roster.calendar(before.calendar_id)
    coach = None if wish.coach_id is None else roster.coach(wish.coach_id)
    start = before.start_time if wish.start_time is None else wish.start_time
    length = before.end_time - before.start_time
    if start != before.start_time:
        check_start(calendar, start, now)
    end = start + length if wish.end_time is None else wish.end_time
    stays = (start, end) == (before.start_time, before.end_time)
    if stays and not wish.others_only and (coach is None or coach.column == before.column):
        return None
    columns = columns_of(calendar, coach)
    if end - start != length:
        if end <= start:
            raise InvalidRequest([("end_time", "is not after the start")])
        check_end(calendar, start, end)
    interval = CELL_MINUTES if start == before.start_time else calendar.slot_interval
    zones = zones_at(roster, columns, start, interval)
    placement = (
        placement_of(before) if stays else Placement.of(start, end, calendar.buffer_before, calendar.buffer_after)
    )
    strategy = calendar.assignment if coach is None else Strategy.REQUESTED
    search = Search.OTHERS if wish.others_only else Search.KEEP if coach is None else Search.ANY
    own = OwnTime(before.appointment_id.hex, before.column, placement_of(before), before.local_day, considered, search)
    return MovePlan(before, Plan(roster, calendar, coach, placement, zones, strategy), own)


def plan_checked_move(
    before: Appointment, wish: MoveWish, roster: Roster, considered: bytes, now: datetime
) -> MovePlan | None:
    """`plan_move` of an appointment that may be moved. Raises StateConflict for one that is over or cancelled."""
    move = plan_move(before, wish, roster, considered, now)
    if move is not None and before.status is not Status.SCHEDULED:
        raise StateConflict(
            f"the appointment is {before.status.value} and cannot be moved", details={"status": before.status.value}
        )
    return move


def with_details(before: Appointment, wish: MoveWish) -> Appointment:
    """The appointment with the notes and metadata of the wish."""
    return msgspec.structs.replace(
        before,
        notes=before.notes if isinstance(wish.notes, UnsetType) else wish.notes,
        metadata=before.metadata if isinstance(wish.metadata, UnsetType) else wish.metadata,
    )


def moved(move: MovePlan, details: Appointment, column: int, considered: int, now: datetime) -> Appointment:
    """The appointment after a claim of the move was given `column`, chosen among `considered` coaches.

    A coach it keeps stays chosen as it was. A confirmation was of the time it had: at another time it must be given
    anew.
    """
    before, plan = move.before, move.plan
    coach = plan.roster.coach_by_column[column]
    kept = column == before.column
    same_time = plan.placement.starts_at == before.start_time and plan.placement.ends_at == before.end_time
    return msgspec.structs.replace(
        details,
        column=column,
        coach_id=coach.coach_id,
        start_time=plan.placement.starts_at,
        end_time=plan.placement.ends_at,
        occupied_start=instant_of(plan.placement.occupied_start),
        occupied_end=instant_of(plan.placement.occupied_end),
        local_day=local_day_of(plan, coach),
        strategy=before.strategy if kept else plan.strategy.value,
        considered=before.considered if kept else considered,
        confirmed_at=before.confirmed_at if same_time else None,
        version=before.version + 1,
        updated_at=now,
    )


def kind_of(before: Appointment, after: Appointment) -> EventType:
    """What a change is called: by its time, else by its coach, else it is an update."""
    if (before.start_time, before.end_time) != (after.start_time, after.end_time):
        return EventType.RESCHEDULED
    return EventType.UPDATED if before.column == after.column else EventType.REASSIGNED


def release_of_old(token: str, before: Appointment, after: Appointment) -> Release:
    """What a committed move frees: the time it left."""
    return _release(token, placement_of(before), before.local_day, Side.OLD, before, after)


def release_of_new(token: str, before: Appointment, after: Appointment) -> Release:
    """What a move that was not committed frees: the time it would have had."""
    return _release(token, placement_of(after), after.local_day, Side.NEW, before, after)


def _release(
    token: str, placement: Placement, local_day: int, side: Side, before: Appointment, after: Appointment
) -> Release:
    release = Release(before.org, token, placement, local_day, side=side)
    if before.column != after.column:
        return release
    keeping = placement_of(after if side is Side.OLD else before)
    return msgspec.structs.replace(release, keeping=keeping, counted=before.local_day != after.local_day)
