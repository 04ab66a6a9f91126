"""What the model knows of an organization, and what the wall clock says of it. All instants are UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

from service.domain.assignment import Strategy

Windows: TypeAlias = tuple[tuple[int, int], ...]
Period: TypeAlias = tuple[datetime, datetime]
STEP = timedelta(minutes=5)


@dataclass(frozen=True, eq=False)  # known by itself, for the memory of `_works_at`
class Hours:
    """When a coach works, in minutes of the local day: by weekday (Monday first), and on dates that differ."""

    zone: str
    weekly: tuple[Windows, ...]
    overrides: tuple[tuple[date, Windows], ...] = ()


@dataclass(frozen=True)
class Coach:
    """A coach; `away` are its periods of time off by their numbers."""

    coach_id: str
    column: int
    hours: Hours
    score: int
    daily_limit: int
    active: bool = True
    away: tuple[tuple[int, Period], ...] = ()


@dataclass(frozen=True)
class Calendar:
    """What can be booked; minutes, and days of `horizon`. The team may name coaches who are not active."""

    calendar_id: str
    duration: int
    interval: int
    longest: int | None
    before: int
    after: int
    notice: int
    horizon: int
    strategy: Strategy
    team: frozenset[str]


@dataclass(frozen=True)
class Place:
    """Where an appointment is: whose, when, when with its buffers, and the local date it counts on."""

    coach: str
    time: Period
    occupied: Period
    day: date


@dataclass(frozen=True)
class Booked:
    """An appointment; `charged` is what it did to the deficits."""

    calendar: str
    place: Place
    strategy: Strategy
    charged: tuple[tuple[str, int], ...]
    status: str = "scheduled"
    confirmed: bool = False
    version: int = 1

    @property
    def live(self) -> bool:
        """Whether its time is taken: only a cancellation gives it back."""
        return self.status != "cancelled"


@dataclass(frozen=True)
class Wish:
    """Where somebody wants an appointment to be; None: as it is, or as the calendar has it."""

    start: datetime | None = None
    end: datetime | None = None
    coach: str | None = None
    others_only: bool = False


def framed(calendar: Calendar, time: Period) -> Period:
    """A time with the buffers of a calendar around it."""
    return time[0] - timedelta(minutes=calendar.before), time[1] + timedelta(minutes=calendar.after)


def place_of(coach: Coach, time: Period, occupied: Period) -> Place:
    """Where an appointment is that a coach is given."""
    return Place(coach.coach_id, time, occupied, local_date(coach, time[0]))


def local_date(coach: Coach, instant: datetime) -> date:
    """The date a coach's wall calendar shows."""
    return wall(coach.hours.zone, instant).date()


def aligned(coach: Coach, start: datetime, interval: int) -> bool:
    """Whether whole intervals have passed since midnight by the coach's wall clock."""
    shown = wall(coach.hours.zone, start)
    return not (shown.second or shown.microsecond or (shown.hour * 60 + shown.minute) % interval)


def works(hours: Hours, time: Period) -> bool:
    """Whether a coach works all the time."""
    start, end = time
    while start < end:
        if not _works_at(hours, start):
            return False
        start += STEP
    return True


@lru_cache(maxsize=100_000)
def _works_at(hours: Hours, instant: datetime) -> bool:
    """Whether the wall clock shows working hours; where it shows a time twice, the first counts."""
    shown = wall(hours.zone, instant)
    day, minute = shown.date(), shown.hour * 60 + shown.minute
    windows = next((windows for date, windows in hours.overrides if date == day), hours.weekly[shown.weekday()])
    return not shown.fold and any(first <= minute < last for first, last in windows)


@lru_cache(maxsize=20_000)
def wall(zone: str, instant: datetime) -> datetime:
    """What the clocks of a zone show."""
    return instant.astimezone(ZoneInfo(zone))


def overlap(one: Period, other: Period) -> bool:
    """Whether two times have something in common."""
    return one[0] < other[1] and other[0] < one[1]


def whole_steps(period: Period) -> Period:
    """Time off closes every five minutes it touches."""
    return period[0] - (period[0] - _DAWN) % STEP, ceil(period[1])


def ceil(instant: datetime) -> datetime:
    """Rounded up to five minutes."""
    return instant + (_DAWN - instant) % STEP


_DAWN = datetime.fromisoformat("2020-01-01T00:00:00Z")
