"""Finding free slots: a few reads of the grid and arithmetic on whole days, no SQL.

What is listed can be booked and nothing else can, because the same planes, the same team and the same start
grid decide here and in the claim.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache, reduce
from typing import Any, TypeAlias

import numpy as np

from service.claims.grid import GridStore, PlanesRead, whole
from service.clock import Clock
from service.domain.appointment import show_time
from service.domain.calendar import Calendar, Coach, Roster, earliest_start, latest_start
from service.domain.grid import (
    CELLS_PER_DAY,
    cell_of,
    cells_in,
    day_of,
    day_start,
    five_minute_ceil,
    instant_of,
)
from service.domain.search import NO_STARTS, Planes, RowNumbers, Starts, row_of, rows_in
from service.domain.zones import aligned_cells, day_bounds, local_date, zone
from service.errors import GateClosed, Unavailable
from service.operations.keep_grid import GridKeeper
from service.operations.postgres_grids import PostgresGrids
from service.operations.rosters import Rosters

ATTEMPTS = 10
KEPT_ALTERNATIVES = 1024
READS_AT_ONCE = 16
# Larger ones, as a week of 4,000 coaches, are read one after the other: of 16 months of 10,000, 22 MB each, none would
# be there before Redis counts as away.
LARGE_READ_BYTES = 2 * 1024 * 1024

Alternatives: TypeAlias = list[dict[str, str | None]]


class _RowsChanged(Exception):
    """The planes have rows of another width than the roster that is read by."""


@dataclass(frozen=True, slots=True)
class FreeSlots:
    """Free starts of a calendar over the window `[start, end)`."""

    roster: Roster
    calendar: Calendar
    start: datetime
    end: datetime
    found: Starts
    # Whether the grid said so, of which the gate counts the changes; else Postgres did.
    of_grid: bool = True

    @property
    def rows(self) -> Iterator[tuple[int, int]]:
        """(absolute cell, mask of the columns free there) in order of time."""
        return self.found.masks()

    @property
    def total(self) -> int:
        """How many slots (coach and start)."""
        return sum(self.found.counts())

    @property
    def counts(self) -> list[tuple[int, int]]:
        """(absolute cell, how many are free there) in order of time."""
        return list(zip(self.found.cells.tolist(), self.found.counts(), strict=True))

    def slots(self) -> Iterator[tuple[int, list[Coach]]]:
        """(absolute cell, coaches free there by id) in order of time."""
        for cell, mask in self.rows:
            yield cell, self.roster.coaches_in(mask)


class FindAvailability:
    """Searches the grid."""

    def __init__(
        self, grid: GridStore, keeper: GridKeeper, rosters: Rosters, postgres: PostgresGrids, clock: Clock
    ) -> None:
        self._grid = grid
        self._postgres = postgres
        self._keeper = keeper
        self._rosters = rosters
        self._clock = clock
        # A crowd of searches waits here, not for a connection: the gate must find one, and soon.
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._reading_much = asyncio.Semaphore(1)
        # Alternatives by what they were computed from: a crowd on one slot asks for the same ones.
        self._alternatives: OrderedDict[tuple[Any, ...], asyncio.Task[Alternatives]] = OrderedDict()

    async def __call__(
        self, roster: Roster, calendar: Calendar, coach: Coach | None, start: datetime, end: datetime
    ) -> FreeSlots:
        """Free starts in `[start, end)` of the calendar's team, or of one coach of it.

        Starts before the notice or beyond the horizon are not listed. Where the grid has grown wider than `roster`,
        the answer is by the newer one. Raises Unavailable.
        """
        for _ in range(ATTEMPTS):
            try:
                return await self._search(roster, calendar, coach, start, end)
            except _RowsChanged:
                roster = await self._rosters.get(roster.org)
                newer = roster.everyone if calendar.number is None else roster.calendar(calendar.calendar_id)
                calendar = replace(newer, slot_duration=calendar.slot_duration)
                coach = None if coach is None else roster.coach(coach.coach_id)
        raise Unavailable("the grid kept changing while it was read")

    async def _search(
        self, roster: Roster, calendar: Calendar, coach: Coach | None, start: datetime, end: datetime
    ) -> FreeSlots:
        now = self._clock.now()
        team = calendar.team if coach is None else tuple(c for c in calendar.team if c == coach.column)
        first = max(start, earliest_start(calendar, now))
        last = min(end, latest_start(calendar, now) + timedelta(microseconds=1))
        if not team or first >= last:
            return FreeSlots(roster, calendar, start, end, NO_STARTS)
        found, of_grid = await self._free(roster, calendar, team, five_minute_ceil(first), last)
        return FreeSlots(roster, calendar, start, end, found, of_grid)

    async def next_free(
        self, roster: Roster, calendar: Calendar, coach: Coach | None, after: datetime, revision: int, *, most: int
    ) -> Alternatives:
        """The next `most` free starts after an instant, as {start_time, end_time} in UTC."""
        key = (
            roster.org,
            calendar.number,
            calendar.slot_duration,
            None if coach is None else coach.column,
            after,
            roster.version,
            revision,
            int(self._clock.now().timestamp()) // 60,
        )
        task = self._alternatives.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.ensure_future(self._next_free(roster, calendar, coach, after, most))
            self._alternatives[key] = task
            while len(self._alternatives) > KEPT_ALTERNATIVES:
                self._alternatives.popitem(last=False)
        return task.result() if task.done() else await asyncio.shield(task)

    async def _next_free(
        self, roster: Roster, calendar: Calendar, coach: Coach | None, after: datetime, most: int
    ) -> Alternatives:
        found: Alternatives = []
        begin, horizon = after + timedelta(minutes=5), latest_start(calendar, self._clock.now())
        while len(found) < most and begin <= horizon:
            until = begin + timedelta(days=7)
            free = await self(roster, calendar, coach, begin, until)
            for cell in free.found.cells[: most - len(found)].tolist():
                begins = instant_of(cell)
                ends = begins + timedelta(minutes=calendar.slot_duration)
                found.append({"start_time": show_time(begins, None), "end_time": show_time(ends, None)})
            begin = until
        return found

    async def _free(
        self, roster: Roster, calendar: Calendar, team: tuple[int, ...], first: datetime, last: datetime
    ) -> tuple[Starts, bool]:
        """The free starts in `[first, last)`, and whether the grid says so."""
        before, cells, after = (
            cells_in(minutes) for minutes in (calendar.buffer_before, calendar.slot_duration, calendar.buffer_after)
        )
        first_day = day_of(first - timedelta(minutes=calendar.buffer_before))
        begin, end = (cell_of(one) - first_day * CELLS_PER_DAY for one in (first, five_minute_ceil(last)))
        groups = roster.zone_groups(team)
        aligned = [
            starts[np.searchsorted(starts, begin) : np.searchsorted(starts, end)]
            for starts in (
                _aligned_rows(first_day, -(-end // CELLS_PER_DAY), group.name, calendar.slot_interval)
                for group in groups
            )
        ]
        rows = reduce(np.union1d, aligned)
        if not len(rows):
            return NO_STARTS, True
        # No day is read that no slot of these touches: of a large team each is most of a megabyte.
        days = range(first_day, first_day + (int(rows[-1]) + cells + after - 1) // CELLS_PER_DAY + 1)
        latest = instant_of(first_day * CELLS_PER_DAY + int(rows[-1]))
        local_days = sorted(
            {
                day
                for group in groups
                for day in range(_local_day(first, group.name), _local_day(latest, group.name) + 1)
            }
        )
        planes, full, of_grid = await self._read(roster, days, local_days)
        free = planes.starts(rows, cells=cells, before=before, after=after)
        found = np.zeros_like(free)
        for group, starts in zip(groups, aligned, strict=True):
            mine = slice(None) if len(starts) == len(rows) else np.isin(rows, starts, assume_unique=True)
            part = free[mine] & row_of(group.mask, roster.width)
            for day in local_days:
                reached = full[day] & group.mask
                if reached:
                    bounds = day_bounds(day_start(day).date(), zone(group.name))
                    row_bounds = [cell_of(bound) - planes.first_cell for bound in bounds]
                    first_row, end_row = np.searchsorted(rows[mine], row_bounds)
                    part[first_row:end_row] &= ~row_of(reached, roster.width)
            found[mine] |= part
        listed = found.any(axis=1)
        return Starts(rows[listed] + planes.first_cell, found[listed]), of_grid

    async def _read(
        self, roster: Roster, days: range, local_days: Sequence[int]
    ) -> tuple[Planes, dict[int, int], bool]:
        """Planes and full rows; missing days are derived first. Raises _RowsChanged or Unavailable.

        Where the grid cannot be asked, or has not been told everything yet, Postgres is; then the last is False.
        """
        if not self._grid.behind:
            with suppress(GateClosed):
                return *(await self._read_grid(roster, days, local_days)), True
        return *_joined(roster, days, await self._postgres.read(roster, days, local_days)), False

    async def _read_grid(self, roster: Roster, days: range, local_days: Sequence[int]) -> tuple[Planes, dict[int, int]]:
        large = 2 * len(days) * CELLS_PER_DAY * roster.width > LARGE_READ_BYTES
        for _ in range(ATTEMPTS):
            async with self._reading_much if large else self._reading:
                read = await self._grid.read(roster.org, days, local_days)
            missing = {
                day
                for day, planes in zip(days, read.days, strict=True)
                if planes is None or not all(whole(plane, roster.width) for plane in planes)
            }
            missing |= {day for day, row in read.full.items() if row is None or len(row) != roster.width}
            if not missing:
                return _joined(roster, days, read)
            await self._keeper.derive(roster.org, sorted(missing))
            if (await self._rosters.get(roster.org)).width != roster.width:
                raise _RowsChanged
        raise Unavailable("the grid kept changing while it was read")


def _joined(roster: Roster, days: range, read: PlanesRead) -> tuple[Planes, dict[int, int]]:
    return (
        Planes(days.start, roster.width, [planes for planes in read.days if planes is not None]),
        {day: int.from_bytes(row or b"", "big") for day, row in read.full.items()},
    )


def _local_day(instant: datetime, name: str) -> int:
    return (local_date(instant, zone(name)) - day_start(0).date()).days


@lru_cache(maxsize=256)
def _aligned_rows(first_day: int, days: int, name: str, interval: int) -> RowNumbers:
    """The rows of several days at which a zone's start grid has a start."""
    cells = 0
    for day in range(first_day, first_day + days):
        cells = cells << CELLS_PER_DAY | aligned_cells(day, zone(name), interval)
    return rows_in(cells, days)
