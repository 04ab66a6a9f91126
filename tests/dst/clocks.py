"""What the clocks of every zone do in the coming three years, found with `zoneinfo` only.

Nothing of the service is used here: this is what its hours are measured against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, cached_property
from zoneinfo import ZoneInfo

YEARS = timedelta(days=3 * 366)
CELL = timedelta(minutes=5)
DAY = timedelta(days=1)
# No zone moves its clocks and moves them back within this.
_STEP = timedelta(days=3)
EPOCH = date(1970, 1, 1)

Windows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, order=True)
class Move:
    """The instant at which clocks are moved, and the offsets before and after it."""

    instant: datetime
    before: timedelta
    after: timedelta

    @property
    def by(self) -> timedelta:
        """How far the clocks go forward; negative: back."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class Alike:
    """Zones whose clocks show the same at every instant of the window, and when they are moved."""

    names: tuple[str, ...]
    moves: tuple[Move, ...]

    @cached_property
    def zone(self) -> ZoneInfo:
        """One of them."""
        return ZoneInfo(self.names[0])

    @cached_property
    def uneven(self) -> frozenset[date]:
        """Local dates that a move touches, or that lie beside one."""
        dates = ((move.instant + offset).date() for move in self.moves for offset in (move.before, move.after))
        return frozenset(day + n * DAY for day in dates for n in (-1, 0, 1))


@dataclass(frozen=True, eq=False)
class Hours:
    """Configured hours: minutes of the wall clock a weekday (Monday first), and of dates that differ."""

    weekly: tuple[Windows, ...]
    overrides: Mapping[date, Windows] = field(default_factory=dict[date, Windows])

    def of(self, day: date) -> Windows:
        """The windows of a date."""
        return self.overrides.get(day, self.weekly[day.weekday()])


def alike(names: Iterable[str], start: datetime) -> list[Alike]:
    """The zones, put together where they cannot be told apart for three years from `start` on."""
    found: dict[tuple[timedelta, tuple[Move, ...]], list[str]] = {}
    for name in sorted(names):
        zone = ZoneInfo(name)
        found.setdefault((offset_at(start, zone), _moves(zone, start)), []).append(name)
    return [Alike(tuple(same), moves) for (_, moves), same in found.items()]


def offset_at(instant: datetime, zone: ZoneInfo) -> timedelta:
    """How far the wall clock is ahead of UTC."""
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _moves(zone: ZoneInfo, start: datetime) -> tuple[Move, ...]:
    found: list[Move] = []
    begin, before = start, offset_at(start, zone)
    while begin < start + YEARS:
        end = begin + _STEP
        after = offset_at(end, zone)
        if after != before:
            low, high = 0, int(_STEP.total_seconds())
            while high - low > 1:
                middle = (low + high) // 2
                if offset_at(begin + timedelta(seconds=middle), zone) == before:
                    low = middle
                else:
                    high = middle
            found.append(Move(begin + timedelta(seconds=high), before, after))
        begin, before = end, after
    return tuple(found)


@cache
def open_cells(group: Alike, hours: Hours, day: date) -> tuple[int, ...]:
    """The cells (5 minutes since the epoch) at which the clocks show the hours of a local date, each time of day once.

    A time the clocks skip is shown by none; of one they show twice it is the first.
    """
    minutes = [minute for first, end in hours.of(day) for minute in range(first, end, 5)]
    midnight = datetime.combine(day, time())
    if day not in group.uneven:
        begin = cell_at(midnight.replace(tzinfo=group.zone))
        return tuple(begin + minute // 5 for minute in minutes)
    walls = [midnight + timedelta(minutes=minute) for minute in minutes]
    instants = ((wall, wall.replace(tzinfo=group.zone).astimezone(UTC)) for wall in walls)
    return tuple(cell_at(at) for wall, at in instants if at.astimezone(group.zone).replace(tzinfo=None) == wall)


def cell_at(instant: datetime) -> int:
    """The cell that begins at an instant."""
    cell, over = divmod(int(instant.timestamp()), 300)
    assert over == 0
    return cell


def wall_minute(cell: int, zone: ZoneInfo) -> int:
    """Minutes after midnight that the wall clock shows when a cell begins."""
    wall = datetime.fromtimestamp(cell * 300, zone)
    return wall.hour * 60 + wall.minute


def number_of(day: date) -> int:
    """Days since the epoch."""
    return (day - EPOCH).days
