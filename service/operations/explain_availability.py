"""Explaining a start: for each coach of a calendar the first reason that rules it out, or that it is free.

Who is free is asked of the grid, by the very search that lists free slots; so what is called free is what is listed.
Only for the others the reason is looked up in Postgres. The two are read one after the other: where the grid says
taken and Postgres knows no reason, something changed in between or a booking is under way, and another look tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from service.clock import Clock
from service.db.explain import HindranceStore
from service.db.rosters import RosterStore
from service.domain.calendar import Calendar, Coach, Roster, earliest_start, latest_start
from service.domain.grid import CELLS_PER_DAY, Placement, columns_in, instant_of
from service.domain.plane import cells_mask
from service.domain.schedule import WeeklySchedule, open_cells
from service.domain.zones import aligned, local_date, zone
from service.errors import Unavailable
from service.operations.find_availability import FindAvailability
from service.operations.plan_booking import check_end, columns_of

LOOKS = 4


class Reason(StrEnum):
    """Why a coach cannot be booked at a start, in the order in which reasons are looked for; the last: it can."""

    NOTICE = "notice"
    HORIZON = "horizon"
    GRID = "grid"
    OUTSIDE_HOURS = "outside_hours"
    OVERRIDE = "override"
    TIME_OFF = "time_off"
    EXTERNAL_BUSY = "external_busy"
    DAILY_LIMIT = "daily_limit"
    APPOINTMENT = "appointment"
    BUFFER = "buffer"
    CLAIM = "claim"
    FREE = "free"


_SENTENCES = {
    Reason.NOTICE: "The start is past, or sooner than the calendar's notice of {calendar.min_notice_minutes} min.",
    Reason.HORIZON: "The start is further ahead than the calendar can be booked (days: {calendar.max_days_ahead}).",
    Reason.GRID: "Appointments begin every {calendar.slot_interval} min from midnight in {coach.timezone}.",
    Reason.OUTSIDE_HOURS: "The time is not wholly within the coach's working hours ({coach.timezone}).",
    Reason.OVERRIDE: "The weekly hours would allow it, but that date has hours of its own.",
    Reason.TIME_OFF: "The coach has time off then.",
    Reason.EXTERNAL_BUSY: "The coach's external calendar says busy then.",
    Reason.DAILY_LIMIT: "The coach has reached its limit of appointments that day ({coach.max_daily_appointments}).",
    Reason.APPOINTMENT: "The coach has another appointment then.",
    Reason.BUFFER: "The time is too close to another appointment of the coach for the buffers between them.",
    Reason.CLAIM: "A booking or a change that concerns this time is under way; ask again in a moment.",
    Reason.FREE: "The coach can be booked then.",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A start somebody wonders about, in UTC; `coach_id` None asks for the whole team, `end_time` None for the
    calendar's duration."""

    calendar_id: str
    start_time: datetime
    end_time: datetime | None
    coach_id: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One coach's reason, and the same as a sentence for a person."""

    coach: Coach
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found for the slot `[start, end)`; verdicts by coach id."""

    start: datetime
    end: datetime
    verdicts: tuple[Verdict, ...]


class ExplainAvailability:
    """Answers why a start is not offered."""

    def __init__(self, find: FindAvailability, rosters: RosterStore, hindrances: HindranceStore, clock: Clock) -> None:
        self._find = find
        self._rosters = rosters
        self._hindrances = hindrances
        self._clock = clock

    async def __call__(self, roster: Roster, question: Question) -> Explanation:
        """The first reason that rules each coach out.

        Raises NotFound (calendar, coach), InvalidRequest (a coach not of the team, an end the calendar does not
        allow) or Unavailable.
        """
        start = question.start_time
        explanation: Explanation | None = None
        for _ in range(LOOKS):
            calendar, coaches = _asked(roster, question)
            reasons = _by_rule(calendar, coaches, start, self._clock.now())
            left = [coach for coach in coaches if coach.column not in reasons]
            if left:
                one = left[0] if question.coach_id is not None else None
                free = await self._find(roster, calendar, one, start, start + timedelta(seconds=1))
                if free.roster is not roster:  # the search went on by a newer roster: its team and zones count
                    roster = free.roster
                    continue
                columns = {column for _, row in free.rows for column in columns_in(row, roster.width)}
                reasons.update((coach.column, Reason.FREE) for coach in left if coach.column in columns)
                taken = [coach for coach in left if coach.column not in columns]
                reasons.update(await self._on_record(roster, calendar, taken, start))
            verdicts = (_verdict(coach, reasons[coach.column], calendar) for coach in coaches)
            end = start + timedelta(minutes=calendar.slot_duration)
            explanation = Explanation(start, end, tuple(verdicts))
            if Reason.CLAIM not in reasons.values():
                break
        if explanation is None:
            raise Unavailable("the roster kept changing while the start was looked at")
        return explanation

    async def _on_record(
        self, roster: Roster, calendar: Calendar, coaches: list[Coach], start: datetime
    ) -> dict[int, Reason]:
        """The first reason Postgres knows for each of the coaches, by column; `claim` where it knows none."""
        if not coaches:
            return {}
        end = start + timedelta(minutes=calendar.slot_duration)
        placement = Placement.of(start, end, calendar.buffer_before, calendar.buffer_after)
        days = _days(placement)
        schedules = await self._rosters.schedules(roster, [c.column for c in coaches], days.start, days.stop - 1)
        hindrances = await self._hindrances.of_slot(
            roster.org,
            {coach.column: local_date(start, zone(coach.timezone)) for coach in coaches},
            (start, end),
            (instant_of(placement.occupied_start), instant_of(placement.occupied_end)),
        )
        found: dict[int, Reason] = {}
        for coach in coaches:
            words = hindrances.get(coach.column, set())
            closed = _hours(schedules[coach.column], placement)
            found[coach.column] = closed or next((word for word in Reason if word in words), Reason.CLAIM)
        return found


def _asked(roster: Roster, question: Question) -> tuple[Calendar, list[Coach]]:
    """The calendar with the duration asked for, and the coaches in question by id."""
    calendar = roster.calendar(question.calendar_id)
    one = None if question.coach_id is None else roster.coach(question.coach_id)
    coaches = (roster.coach_by_column[column] for column in columns_of(calendar, one))
    if question.end_time is not None:
        check_end(calendar, question.start_time, question.end_time)
        minutes = (question.end_time - question.start_time) // timedelta(minutes=1)
        calendar = replace(calendar, slot_duration=minutes)
    return calendar, sorted(coaches, key=lambda coach: coach.coach_id)


def _by_rule(calendar: Calendar, coaches: Iterable[Coach], start: datetime, now: datetime) -> dict[int, Reason]:
    """What rules coaches out without a look at anybody's time, by column: the same limits as a booking's."""
    if start <= now or start < earliest_start(calendar, now):
        return {coach.column: Reason.NOTICE for coach in coaches}
    if start > latest_start(calendar, now):
        return {coach.column: Reason.HORIZON for coach in coaches}
    return {
        coach.column: Reason.GRID
        for coach in coaches
        if not aligned(start, zone(coach.timezone), calendar.slot_interval)
    }


def _hours(schedule: WeeklySchedule, placement: Placement) -> Reason | None:
    """Whether the hours leave the slot out, and whether the hours of that very date are what does."""
    if _works(schedule, placement):
        return None
    plain = WeeklySchedule(schedule.timezone, schedule.weekly)
    return Reason.OVERRIDE if _works(plain, placement) else Reason.OUTSIDE_HOURS


def _works(schedule: WeeklySchedule, placement: Placement) -> bool:
    """Whether every cell of the appointment itself lies within the hours."""
    return not any(
        cells_mask(day, placement.start, placement.end) & ~open_cells(schedule, day) for day in _days(placement)
    )


def _days(placement: Placement) -> range:
    """The UTC days of the appointment itself."""
    return range(placement.start // CELLS_PER_DAY, (placement.end - 1) // CELLS_PER_DAY + 1)


def _verdict(coach: Coach, reason: Reason, calendar: Calendar) -> Verdict:
    return Verdict(coach, reason, _SENTENCES[reason].format(calendar=calendar, coach=coach))
