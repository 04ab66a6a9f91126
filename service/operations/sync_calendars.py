"""Learning when coaches are busy elsewhere: from their external calendars, never while a request waits.

The calendar says when a coach is offered, not when it is busy. So busy is working time that no offered slot
covers, within the days the calendar answers for, minus our own appointments, which are why it is not offered;
and the dates its settings block. What could not be fetched stays as it was last known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.clock import Clock
from service.db.deliveries import BusyStore
from service.db.rosters import RosterStore
from service.domain.calendar import Roster
from service.domain.grid import CELL_SECONDS, CELLS_PER_DAY, cell_of, day_of, day_start, instant_of
from service.domain.plane import cells_mask
from service.domain.schedule import WeeklySchedule, open_cells
from service.domain.zones import day_bounds, local_date, zone
from service.errors import BookingError, Unavailable
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.heal_grid import HealGrid
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import Rosters, grid_days
from service.outside.breaker import Breaker
from service.outside.calendar_api import Availability, CalendarApi, CalendarSettings

AT_ONCE = 8
Period = tuple[datetime, datetime]

_log = get_logger("operations.sync_calendars")


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What a coach's calendar said; None for a coach it does not know. `ours` was read before asking."""

    column: int
    coach_id: str
    availability: Availability | None
    settings: CalendarSettings | None
    ours: list[Period]


class SyncCalendars:
    """One round over the coaches of the organization whose coaches the calendar knows."""

    def __init__(
        self,
        *,
        calendar: CalendarApi,
        breaker: Breaker,
        busy: BusyStore,
        roster_store: RosterStore,
        rosters: Rosters,
        keeper: GridKeeper,
        heal: HealGrid,
        clock: Clock,
        metrics: Metrics,
        organization: str,
    ) -> None:
        self._calendar = calendar
        self._breaker = breaker
        self._busy = busy
        self._roster_store = roster_store
        self._rosters = rosters
        self._keeper = keeper
        self._heal = heal
        self._clock = clock
        self._organization = organization
        self._outcomes = {
            word: metrics.calendar_fetches.labels(word) for word in ("fetched", "unknown", "failed", "skipped")
        }
        # A grid that a crash left behind its busy times looks like one that is right: compare it once.
        self._grid_unsure = True
        # What was the last slot offered of any coach when all were asked.
        self._reached: datetime | None = None

    async def __call__(self) -> int:
        """Fetch every coach's calendar and close or open the grid accordingly; how many coaches changed.

        A coach whose calendar cannot be fetched stays as it is. Raises Unavailable when nothing can be read.
        """
        org = await self._roster_store.organization(self._organization)
        if org is None:
            return 0
        roster = await self._rosters.get(org)
        today = day_of(self._clock.now())
        days = grid_days(roster, today)
        asked_days = roster.horizon_days + 1
        places = asyncio.Semaphore(AT_ONCE)

        async def fetch(column: int, coach_id: str) -> _Fetched | None:
            try:
                async with places:
                    return await self._fetch(org, column, coach_id, days, asked_days)
            except BookingError as problem:
                _log.warning("calendar not fetched", coach_id=coach_id, error=problem.message)
                return None

        coaches = await self._busy.coaches(org)
        answers = await asyncio.gather(*(fetch(column, coach_id) for column, coach_id in coaches))
        fetched = [answer for answer in answers if answer is not None]
        schedules = await self._roster_store.schedules(roster, [f.column for f in fetched], days[0], days[-1])
        last_offered = self._last_offered(fetched, whole=len(fetched) == len(coaches))

        async def apply(one: _Fetched) -> bool:
            schedule = schedules.get(one.column)
            if schedule is None:
                return False
            try:
                async with places:
                    return await self._apply(roster, one, schedule, days, asked_days, last_offered)
            except (BookingError, ValueError) as problem:  # ValueError: a zone or a period that cannot be
                _log.warning("calendar not applied", coach_id=one.coach_id, error=str(problem))
                return False

        changed = await asyncio.gather(*(apply(one) for one in fetched))
        if self._grid_unsure:
            await self._compare(org, days)
        return sum(changed)

    async def _fetch(self, org: int, column: int, coach_id: str, days: range, asked_days: int) -> _Fetched | None:
        ours = await self._ours(org, column, days)
        if not self._breaker.admits():
            self._outcomes["skipped"].inc()
            return None
        try:
            availability = await self._calendar.availability(coach_id, asked_days)
            settings = None if availability is None else await self._calendar.settings(coach_id)
        except Unavailable:
            self._breaker.failed()
            self._outcomes["failed"].inc()
            raise
        self._breaker.succeeded()
        self._outcomes["unknown" if availability is None else "fetched"].inc()
        return _Fetched(column, coach_id, availability, settings, ours)

    def _last_offered(self, fetched: Sequence[_Fetched], *, whole: bool) -> datetime | None:
        """The last slot offered of any coach. Of some coaches alone it may be early, because they are away after it."""
        last = _last_offered(fetched)
        if whole:
            self._reached = last
        return max((one for one in (last, self._reached) if one is not None), default=None)

    async def _ours(self, org: int, column: int, days: range) -> list[Period]:
        return await self._busy.own_appointments(org, column, day_start(days[0]), day_start(days[-1] + 1))

    async def _apply(
        self,
        roster: Roster,
        one: _Fetched,
        schedule: WeeklySchedule,
        days: range,
        asked_days: int,
        last_offered: datetime | None,
    ) -> bool:
        # Read on both sides of the answer: one booked meanwhile is ours, and so was one cancelled meanwhile.
        ours = [*one.ours, *await self._ours(roster.org, one.column, days)]
        busy = busy_periods(
            one.availability,
            one.settings,
            schedule,
            ours,
            now=self._clock.now(),
            days=days,
            asked_days=asked_days,
            last_offered=last_offered,
        )
        # From the beginning of time, so that what is past does not pile up.
        touched = await self._busy.replace(roster.org, one.column, day_start(0), day_start(days[-1] + 1), busy)
        wanted = sorted({day for period in touched for day in _days_of(period) if day in days})
        if not wanted:
            return False
        try:
            if not await self._heal.coach(roster.org, one.column):
                await self._keeper.repair(roster.org, [one.column], wanted)
        except Unavailable as problem:
            self._grid_unsure = True
            _log.warning("busy times not in the grid", coach_id=one.coach_id, error=problem.message)
        return True

    async def _compare(self, org: int, days: range) -> None:
        try:
            for day in days:
                await self._keeper.check_day(org, day, write=True)
        except BookingError as problem:
            _log.warning("grid not compared", error=problem.message)
            return
        self._grid_unsure = False


def busy_periods(
    availability: Availability | None,
    settings: CalendarSettings | None,
    schedule: WeeklySchedule,
    ours: Sequence[Period],
    *,
    now: datetime,
    days: range,
    asked_days: int,
    last_offered: datetime | None,
) -> list[Period]:
    """When a coach that works by `schedule` is busy elsewhere, in whole cells, merged, in order of time.

    The calendar was asked for `asked_days` of its local days, today the first; one that answers for fewer is
    believed to the end of the day of `last_offered`, the last slot it offers of any coach. `days` are the UTC
    days looked at, `ours` our own appointments. A coach the calendar does not know (None) is never busy.
    """
    if availability is None:
        return []
    where = zone(availability.timezone)
    today = local_date(now, where)
    begin, _ = day_bounds(today, where)
    _, end = day_bounds(today + timedelta(days=asked_days - 1), where)
    if last_offered is not None and last_offered < end:
        # A slot of before today, as of the year 1 where somebody writes that for none, says nothing of any day.
        end = begin if last_offered < begin else min(end, day_bounds(local_date(last_offered, where), where)[1])
    answered = [(begin, end)]
    offered = _merged((slot.start_time, slot.end_time) for slot in availability.slots if slot.available)
    blocked: list[Period] = []
    if settings is not None:
        theirs = zone(settings.timezone) if settings.timezone else where
        # A date without end is written as one far away, for which there are no bounds.
        near, far = (day_start(day).date() for day in (days[0] - 1, days[-1] + 1))
        blocked = [day_bounds(day, theirs) for day in settings.blocked_dates if near <= day <= far]
    runs: list[tuple[int, int]] = []
    for day in days:
        works = open_cells(schedule, day)
        closed = works & (
            (_cells(answered, day, whole=False) & ~_cells(offered, day, whole=True)) | _cells(blocked, day, whole=False)
        )
        closed &= ~_cells(ours, day, whole=False)
        runs += _runs(closed, day)
    return _merged((instant_of(first), instant_of(last)) for first, last in runs)


def _last_offered(fetched: Iterable[_Fetched]) -> datetime | None:
    starts = [slot.start_time for one in fetched if one.availability for slot in one.availability.slots]
    return max(starts, default=None)


def _merged(periods: Iterable[Period]) -> list[Period]:
    """The periods, in order, those that touch or overlap made one."""
    found: list[Period] = []
    for start, end in sorted(periods):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif start < end:
            found.append((start, end))
    return found


def _cells(periods: Iterable[Period], day: int, *, whole: bool) -> int:
    """The cells of `day` that lie wholly within a period, or (not `whole`) are touched by one."""
    cells = 0
    begin, over = day_start(day), day_start(day + 1)
    for start, end in periods:
        if end <= begin or start >= over:
            continue
        up, down = (_cell_from(start), cell_of(end)) if whole else (cell_of(start), _cell_from(end))
        cells |= cells_mask(day, up, down)
    return cells


def _cell_from(instant: datetime) -> int:
    """The first cell that begins at `instant` or later."""
    return -int(-instant.timestamp() // CELL_SECONDS)


def _runs(cells: int, day: int) -> list[tuple[int, int]]:
    """The runs of set cells of a day as absolute `[first, last)`."""
    found: list[tuple[int, int]] = []
    origin = day * CELLS_PER_DAY
    bits = f"{cells:0{CELLS_PER_DAY}b}"
    first = bits.find("1")
    while first >= 0:
        last = bits.find("0", first)
        last = CELLS_PER_DAY if last < 0 else last
        found.append((origin + first, origin + last))
        first = bits.find("1", last)
    return found


def _days_of(period: Period) -> range:
    start, end = period
    return range(day_of(start), day_of(end - timedelta(microseconds=1)) + 1)
