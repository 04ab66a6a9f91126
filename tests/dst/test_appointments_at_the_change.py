"""Appointments beside a clock change, across it and across midnight, at every kind of change of three years.

Each takes the minutes it takes whatever the clocks show, counts on the date the wall calendar shows at its start, and
gives its time and its place in the daily limit back when it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import pytest

from service.app import Services
from service.domain.appointment import Appointment
from service.domain.plane import column_cells
from service.errors import SlotUnavailable
from tests.dst.clocks import CELL, DAY, Alike, Move, cell_at, number_of
from tests.dst.conftest import AROUND_THE_CLOCK, MovedClock, NewCoach, Zones, days_around, organization
from tests.invariants.looks import booked, cancelled
from tests.servers import eventually

LIMIT = 3
HALF = timedelta(minutes=15)
VISIT = timedelta(minutes=30)
HOUR = timedelta(hours=1)
CALENDARS = [("plain", "30", "5", "0", "0"), ("framed", "30", "5", "10", "20")]
FRAME = {"plain": (timedelta(), timedelta()), "framed": (timedelta(minutes=10), timedelta(minutes=20))}


@dataclass(repr=False)
class Around:
    """What happens around one move to the coach of one zone, and what should be there afterwards."""

    services: Services
    org: int
    column: int
    group: Alike
    move: Move
    live: dict[datetime, tuple[str, Appointment]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.group.names[0]} at {self.move.instant}"

    def date_at(self, instant: datetime) -> date:
        """The date the wall calendar shows."""
        return instant.astimezone(self.group.zone).date()

    def begin_of(self, day: date) -> datetime:
        """The first instant of a local date that does not move the clocks at midnight."""
        return datetime.combine(day, time(), self.group.zone).astimezone(UTC)

    async def book(self, calendar: str, start: datetime) -> Appointment:
        """Book, and look at what Postgres has of it."""
        made = await booked(self.services, self.org, start, calendar, coach_id=f"k{self.column}")
        before, after = FRAME[calendar]
        assert (made.start_time, made.end_time) == (start, start + VISIT), self
        assert (made.occupied_start, made.occupied_end) == (start - before, start + VISIT + after), self
        assert made.local_day == number_of(self.date_at(start)), self
        self.live[start] = (calendar, made)
        return made

    async def refused(self, start: datetime) -> None:
        """A start is not to be had, and is not listed."""
        with pytest.raises(SlotUnavailable):
            await booked(self.services, self.org, start, "plain", coach_id=f"k{self.column}")
        assert start not in await self.listed(start, start + CELL), self

    async def cancel(self, appointment: Appointment) -> None:
        """Cancel an appointment."""
        await cancelled(self.services, appointment)
        del self.live[appointment.start_time]

    async def listed(self, start: datetime, end: datetime) -> set[datetime]:
        """The starts that are listed for the coach."""
        roster = await self.services.rosters.get(self.org)
        coach = roster.coach(f"k{self.column}")
        free = await self.services.availability(roster, roster.calendar("plain"), coach, start, end)
        return {datetime.fromtimestamp(cell * 300, UTC) for cell, _ in free.rows}

    async def compare(self) -> None:
        """The coach's occupied cells and the counts of its dates are those of its live appointments."""
        # On a machine without time to spare Redis may have answered too late, and been told afterwards.
        await eventually(lambda: not self.services.breaker.behind, within_s=60, what="the grid told of everything")
        roster = await self.services.rosters.get(self.org)
        wanted: set[int] = set()
        for start, (calendar, _) in self.live.items():
            before, after = FRAME[calendar]
            wanted.update(range(cell_at(start - before), cell_at(start + VISIT + after)))
        around = days_around([self.move])
        first = number_of(around[0])
        read = await self.services.grid.read(self.org, range(first, first + len(around)), [])
        found: set[int] = set()
        for day, planes in enumerate(read.days, first):
            assert planes is not None
            cells = column_cells(planes[1], self.column, roster.width)
            found.update(day * 288 + n for n in range(288) if cells >> (287 - n) & 1)
        assert found == wanted, self
        counts = Counter(self.date_at(start) for start in self.live)
        for day in {self.date_at(self.move.instant) + n * DAY for n in (-1, 0, 1)}:
            count = await self.services.grid.read_counts(self.org, number_of(day), roster.width * 8)
            assert count is not None
            assert count[self.column] == counts[day], (day, self)


async def test_appointments_take_their_time_and_count_on_their_local_date(
    services: Services, zones: Zones, clock: MovedClock
) -> None:
    coaches = [NewCoach(group.names[0], AROUND_THE_CLOCK, LIMIT) for group in zones.moving]
    org = await organization(services, coaches, CALENDARS)
    columns = {group: column for column, group in enumerate(zones.moving)}
    tried = 0
    for cases in zones.years(clock):
        days = {day + timedelta(days=1) for day in days_around([move for _, move in cases])}
        days |= {day - timedelta(days=2) for day in days}
        await services.keeper.derive(org, sorted(map(number_of, days)))
        around = [Around(services, org, columns[group], group, move) for group, move in cases]
        ends = await asyncio.gather(*map(_live_through, around), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        tried += len(cases)
    assert tried == sum(len(group.moves) for group in zones.moving)


async def _live_through(around: Around) -> None:
    change, by = around.move.instant, around.move.by
    if by > timedelta():
        across = await around.book("plain", change - HALF)
        walls = [at.astimezone(around.group.zone).replace(tzinfo=None) for at in (across.start_time, across.end_time)]
        assert walls[1] - walls[0] == VISIT + by
    else:
        # The repeated hour is offered once: nothing reaches into the second time, or out of it.
        await around.refused(change - HALF)
        await around.refused(change)
        await around.refused(change - by - HALF)
        await around.book("framed", change - VISIT)
    day = around.date_at(change + 8 * HOUR)
    midnight = around.begin_of(day + DAY)
    late = await around.book("plain", midnight - HALF)
    await around.book("plain", midnight + 2 * HALF)
    filling = change + 8 * HOUR
    while sum(around.date_at(start) == day for start in around.live) < LIMIT:
        await around.book("framed", filling)
        filling += HOUR
    await around.compare()
    # The date is full, and only that date.
    await around.refused(change + 12 * HOUR)
    assert await around.listed(around.begin_of(day) + 3 * HOUR, midnight) == set()
    assert await around.listed(midnight, midnight + 6 * HOUR)
    await around.cancel(late)
    await around.compare()
    assert midnight - HALF in await around.listed(midnight - HOUR, midnight)
    await around.book("plain", change + 12 * HOUR)
    await around.refused(midnight - HALF)
    await around.compare()
