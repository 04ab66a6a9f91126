"""Working hours: what a coach's local schedule means in cells of a UTC day.

Promises: a window is hours on the wall clock of the schedule's zone, by the rules of that zone. The hour a
clock change skips is not offered; of an hour it repeats only the first occurrence is. So a day never offers
more hours than were configured, and fewer only by what the clocks skip. The price is a hole of one hour in a
window that covers the repeated hour: 00:00–03:00 on a day that goes from 02:00 back to 01:00 is two hours,
one hour off, one hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import msgspec

from service.domain.grid import CELL_MINUTES, CELLS_PER_DAY, day_start
from service.domain.zones import CELL, DAY_MINUTES, run, stretches, zone

_CLOCK_TIME = re.compile("([01][0-9]|2[0-3]):([0-5][0-9])|24:00")


class Window(msgspec.Struct, frozen=True, order=True):
    """Hours of one local day: `[start_minute, end_minute)` in minutes from midnight by the wall clock.

    Both are multiples of 5; the end may be 1440, the midnight that ends the day. ValueError otherwise.
    """

    start_minute: int
    end_minute: int

    def __post_init__(self) -> None:
        for name, minute in (("start", self.start_minute), ("end", self.end_minute)):
            if not 0 <= minute <= DAY_MINUTES:
                raise ValueError(f"{name} is not within the day: minute {minute}")
            if minute % CELL_MINUTES:
                raise ValueError(f"{name} {clock_time(minute)} is not a multiple of {CELL_MINUTES} minutes")
        if self.start_minute == DAY_MINUTES:
            raise ValueError("start 24:00 is not allowed, only an end may be 24:00")
        if self.end_minute <= self.start_minute:
            raise ValueError(f"end {clock_time(self.end_minute)} is not after start {clock_time(self.start_minute)}")

    @classmethod
    def parse(cls, start: str, end: str) -> Window:
        """The window between two local times `HH:MM`; ValueError says which of them is wrong, and why."""
        return cls(_minute("start", start), _minute("end", end))

    def __str__(self) -> str:
        return f"{clock_time(self.start_minute)}–{clock_time(self.end_minute)}"


DayWindows: TypeAlias = tuple[Window, ...]
Week: TypeAlias = tuple[DayWindows, DayWindows, DayWindows, DayWindows, DayWindows, DayWindows, DayWindows]


class WeeklySchedule(msgspec.Struct, frozen=True):
    """When a coach works: windows of each weekday, Monday first, and of single dates that differ.

    `timezone` is an IANA name. An override replaces the windows of its local date; an empty one closes it.
    ValueError for an unknown zone or for windows of one day that overlap.
    """

    timezone: str
    weekly: Week
    overrides: Mapping[date, DayWindows] = msgspec.field(default_factory=dict[date, DayWindows])

    def __post_init__(self) -> None:
        zone(self.timezone)
        for windows in (*self.weekly, *self.overrides.values()):
            check_disjoint(windows)


def clock_time(minute: int) -> str:
    """Minutes from midnight as `HH:MM`; 1440 is 24:00."""
    return f"{minute // 60:02}:{minute % 60:02}"


def parse_windows(pairs: Iterable[tuple[str, str]]) -> DayWindows:
    """The windows of one day from (start, end) as `HH:MM`, in order of time.

    ValueError when one of them is malformed or two overlap; they may touch.
    """
    windows = tuple(sorted(Window.parse(start, end) for start, end in pairs))
    check_disjoint(windows)
    return windows


def check_disjoint(windows: DayWindows) -> None:
    """ValueError naming the first two windows that overlap."""
    ordered = sorted(windows)
    for earlier, later in pairwise(ordered):
        if later.start_minute < earlier.end_minute:
            raise ValueError(f"windows {earlier} and {later} overlap")


def open_cells(schedule: WeeklySchedule, day: int, *, closed: Sequence[tuple[datetime, datetime]] = ()) -> int:
    """The cells of UTC day `day` at which the coach may be booked, as a 288-bit integer.

    Cell i is bit `1 << (287 - i)`. A cell is open when the whole of it lies within working hours and no
    `closed` range (`[start, end)`, aware; time off, external busy time) touches it. An empty range closes
    nothing; one that ends before it starts is a ValueError.
    """
    cells = 0
    overrides, weekly = schedule.overrides, schedule.weekly
    for stretch in stretches(day, zone(schedule.timezone)):
        if stretch.repeated:
            continue
        windows = overrides.get(stretch.local_day) if overrides else None
        if windows is None:
            windows = weekly[stretch.weekday]
        if windows:
            cells |= stretch.place(_wall_cells(windows))
    if cells and closed:
        cells &= ~_touched_cells(day, closed)
    return cells


@lru_cache(maxsize=4096)
def _wall_cells(windows: DayWindows) -> int:
    """The cells of a local day, counted from midnight on the wall clock, that lie within `windows`."""
    cells = 0
    for window in windows:
        cells |= run(window.start_minute // CELL_MINUTES, window.end_minute // CELL_MINUTES)
    return cells


def _touched_cells(day: int, ranges: Sequence[tuple[datetime, datetime]]) -> int:
    begin, over = day_start(day), day_start(day + 1)
    cells = 0
    for start, end in ranges:
        if end < start:
            raise ValueError(f"a closed range ends before it starts: {start.isoformat()}, {end.isoformat()}")
        if start == end or start >= over or end <= begin:
            continue
        first = (start - begin) // CELL if start > begin else 0
        last = -((begin - end) // CELL) if end < over else CELLS_PER_DAY
        cells |= run(first, last)
    return cells


def _minute(name: str, text: str) -> int:
    if _CLOCK_TIME.fullmatch(text) is None:
        raise ValueError(f"{name} {text[:16]!r} is not a time HH:MM from 00:00 to 24:00")
    return int(text[:2]) * 60 + int(text[3:])
