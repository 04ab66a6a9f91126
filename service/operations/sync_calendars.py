"""Learning when coaches are busy elsewhere: from their external calendars, never while a request waits.

The calendar says when a coach is offered, not when it is busy. So busy is working time that no offered slot
covers, within the days the calendar answers for, minus our own appointments, which are why it is not offered;
and the dates its settings block. What could not be fetched stays as it was last known.

Coaches are taken part by part, so that what is kept of answers does not grow with the organization. How far that has
come is kept in Redis: a round that is broken off or has had its time is gone on with by the next, in any process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from service.claims.lease import Leases
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
from service.outside.breaker import Breaker, BreakerState
from service.outside.calendar_api import Availability, CalendarApi, CalendarSettings, OfferedSlot

AT_ONCE = 8
# So many coaches' answers are kept at a time, each as the times it offers, put together.
TOGETHER = 128
NAME = "calendar-fetch"
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
    last_offered: datetime | None


class Sweep(msgspec.Struct, frozen=True):
    """How far one look at every coach has come: those up to the column `after` were asked.

    `last` is the last slot offered of any of them, `reached` what that was in the sweep before; `whole`: all were
    answered for; `early`: some were looked at when no slot as late as `last` was known.
    """

    began: datetime
    after: int = -1
    last: datetime | None = None
    reached: datetime | None = None
    whole: bool = True
    early: bool = False


class SyncCalendars:
    """Rounds over the coaches of the organization whose coaches the calendar knows; after `within_s` no part begins."""

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
        leases: Leases,
        clock: Clock,
        metrics: Metrics,
        organization: str,
        within_s: float,
    ) -> None:
        self._calendar = calendar
        self._breaker = breaker
        self._busy = busy
        self._roster_store = roster_store
        self._rosters = rosters
        self._keeper = keeper
        self._heal = heal
        self._leases = leases
        self._clock = clock
        self._organization = organization
        self._within_s = within_s
        self._outcomes = {
            word: metrics.calendar_fetches.labels(word) for word in ("fetched", "unknown", "failed", "skipped")
        }
        # A grid that a crash left behind its busy times looks like one that is right: compare it once.
        self._grid_unsure = True

    async def __call__(self) -> int:
        """Fetch coaches' calendars and close or open the grid accordingly; how many coaches changed.

        Begins where the last round stopped, and ends when all were asked, at a calendar that is to be left alone, or
        when its time is over. A coach whose calendar cannot be fetched stays as it is. Raises Unavailable when nothing
        can be read.
        """
        org = await self._roster_store.organization(self._organization)
        if org is None:
            return 0
        end = asyncio.get_running_loop().time() + self._within_s
        sweep, changed = await self._place(org), 0
        begun_here = sweep.after < 0
        while True:
            # One that was left alone is asked for one coach first, or all beside it were skipped.
            most = TOGETHER if self._breaker.state is BreakerState.CLOSED else 1
            coaches = await self._busy.coaches(org, sweep.after, most + 1)
            done, to, sweep = await self._part(org, sweep, coaches[:most], last=len(coaches) <= most)
            changed += done
            skipped = bool(coaches) and to < coaches[:most][-1][0]
            over = not skipped and len(coaches) <= most
            whole_round = over and begun_here and not sweep.early
            if over:
                sweep, begun_here = self._next(sweep, begun_here=begun_here), True
            await self._leases.keep_place(f"{NAME}:{org}", msgspec.json.encode(sweep))
            if skipped or whole_round or asyncio.get_running_loop().time() >= end:
                break
        if self._grid_unsure:
            roster = await self._rosters.get(org)
            await self._compare(org, grid_days(roster, day_of(self._clock.now())))
        return changed

    async def _place(self, org: int) -> Sweep:
        kept = await self._leases.place(f"{NAME}:{org}")
        try:
            return Sweep(self._clock.now()) if kept is None else msgspec.json.decode(kept, type=Sweep)
        except msgspec.DecodeError:  # another release's
            return Sweep(self._clock.now())

    def _next(self, sweep: Sweep, *, begun_here: bool) -> Sweep:
        """The sweep after one that is over. What was last offered of some coaches alone may be early."""
        if not begun_here:
            _log.info("all calendars fetched", began=sweep.began.isoformat(), whole=sweep.whole)
        reached = sweep.last if sweep.whole else _later(sweep.last, sweep.reached)
        return Sweep(self._clock.now(), reached=reached)

    async def _part(
        self, org: int, sweep: Sweep, coaches: Sequence[tuple[int, str]], *, last: bool
    ) -> tuple[int, int, Sweep]:
        """Fetch and apply these coaches' calendars, the `last` of a sweep: how many changed, to which column all were
        asked, and the sweep after them.
        """
        roster = await self._rosters.get(org)
        days = grid_days(roster, day_of(self._clock.now()))
        asked_days = roster.horizon_days + 1
        places = asyncio.Semaphore(AT_ONCE)
        skipped: list[int] = []

        async def fetch(column: int, coach_id: str) -> _Fetched | None:
            try:
                async with places:
                    ours = await self._ours(org, column, days)
                    if not self._breaker.admits():
                        self._outcomes["skipped"].inc()
                        skipped.append(column)
                        return None
                    return await self._fetch(column, coach_id, ours, asked_days)
            except BookingError as problem:
                _log.warning("calendar not fetched", coach_id=coach_id, error=problem.message)
                return None

        answers = await asyncio.gather(*(fetch(column, coach_id) for column, coach_id in coaches))
        fetched = [answer for answer in answers if answer is not None]
        schedules = await self._roster_store.schedules(roster, [f.column for f in fetched], days[0], days[-1])
        known = _later(sweep.last, sweep.reached)
        latest = max((f.last_offered for f in fetched if f.last_offered is not None), default=None)
        to = min(skipped) - 1 if skipped else coaches[-1][0] if coaches else sweep.after
        sweep = Sweep(
            sweep.began,
            to,
            _later(sweep.last, latest),
            sweep.reached,
            sweep.whole and {f.column for f in fetched}.issuperset(column for column, _ in coaches if column <= to),
            sweep.early or (sweep.after >= 0 and latest is not None and (known is None or latest > known)),
        )
        # Of some coaches alone it may be early, because they are away after it.
        last_offered = sweep.last if last and sweep.whole and not skipped else _later(sweep.last, sweep.reached)

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
        return sum(changed), to, sweep

    async def _fetch(self, column: int, coach_id: str, ours: list[Period], asked_days: int) -> _Fetched:
        try:
            availability = await self._calendar.availability(coach_id, asked_days)
            settings = None if availability is None else await self._calendar.settings(coach_id)
        except Unavailable:
            self._breaker.failed()
            self._outcomes["failed"].inc()
            raise
        self._breaker.succeeded()
        self._outcomes["unknown" if availability is None else "fetched"].inc()
        last = None
        if availability is not None:
            last = max((slot.start_time for slot in availability.slots), default=None)
            slots = tuple(OfferedSlot(start, end) for start, end in _offered(availability))
            availability = Availability(slots, availability.timezone)
        return _Fetched(column, coach_id, availability, settings, ours, last)

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
    offered = _offered(availability)
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


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((instant for instant in (one, other) if instant is not None), default=None)


def _offered(availability: Availability) -> list[Period]:
    return _merged((slot.start_time, slot.end_time) for slot in availability.slots if slot.available)


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
