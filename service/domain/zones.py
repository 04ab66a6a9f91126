"""Wall clocks: how a local time of an IANA zone and an instant correspond, also where clocks are moved.

Promises: a wall time that a clock change skips does not exist and is refused; one that it repeats means its
first occurrence. A UTC day is known as the few *stretches* in which a clock runs evenly, so that whatever is
said in wall time becomes cells by one shift a stretch, without converting cell by cell.

Zones come from the machine's IANA database (or the tzdata package); a newer one counts after a restart.
From 2020 to 2040 every offset of every zone is a multiple of 15 minutes, no clock is moved twice within one
UTC day, and only Antarctica/Casey moved its clocks off a cell boundary (at 00:01, until 2022), as database
2026f has it. A day with an offset that is no multiple of 5 minutes (Monrovia before 1972) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from service.domain.grid import CELL_MINUTES, CELL_SECONDS, CELLS_PER_DAY, day_start

CELL = timedelta(minutes=CELL_MINUTES)
DAY_MINUTES = CELLS_PER_DAY * CELL_MINUTES
_DAY_SECONDS = DAY_MINUTES * 60
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
# Every zone there is on every day the grid holds (some 20,000) fits into a cache of days: about 11 MB.
_ZONE_DAYS = 32_768
_YEARS = range(1970, 2200)
# In the database or beside it, but not places: the machine's own zone, and "not configured".
_NO_PLACES = frozenset({"localtime", "posixrules", "Factory"})


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Every name `zone` accepts: the canonical names and the links of the IANA database."""
    return frozenset(available_timezones()) - _NO_PLACES


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone called `name`, spelled exactly as the IANA database does; ValueError when there is none."""
    if name not in zone_names():
        raise ValueError(f"{name[:64]!r} is not an IANA time zone")
    return ZoneInfo(name)


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    """The date the wall calendar of `zone` shows at `instant` (aware; ValueError when it is not)."""
    return _wall(instant, zone).date()


def wall_to_instant(naive_local: datetime, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which the clocks of `zone` show `naive_local`; the first, if they do twice.

    ValueError when the clock change of that day skips it, when it carries an offset of its own, or when its
    year is not one the service plans for (1970 to 2199).
    """
    if naive_local.tzinfo is not None:
        raise ValueError(f"{naive_local.isoformat()} has an offset of its own, so it is not a local time")
    _check_year(naive_local.date())
    instant = naive_local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(instant, zone).replace(tzinfo=None, fold=0) != naive_local.replace(fold=0):
        raise ValueError(f"{naive_local.isoformat(' ')} does not exist in {zone.key}, the clocks skip it")
    return instant


def day_bounds(local_day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The instants `[start, end)` of a local date, in UTC: mostly 24 hours, 23 or 25 where clocks are moved.

    Where midnight is skipped the date begins with the first time after it; a date that is skipped as a whole
    (Samoa, 30 December 2011) begins and ends at the same instant. The end is the start of the next date.
    ValueError when the year is not one the service plans for (1970 to 2199).
    """
    _check_year(local_day)
    return _first_instant(local_day, zone), _first_instant(local_day + timedelta(days=1), zone)


def aligned(instant: datetime, zone: ZoneInfo, interval_minutes: int) -> bool:
    """Whether `instant` is a start of the grid: whole intervals after midnight by the wall clock of `zone`.

    The grid begins anew each midnight, also when the interval does not divide the day, and follows the
    clock, not the time gone by: with 120 minutes a day that skips 02:00–03:00 has no start between 00:00
    and 04:00. ValueError when the interval is not a multiple of 5 from 5 to 1440.
    """
    return aligned_day(instant, zone, interval_minutes) is not None


def aligned_day(instant: datetime, zone: ZoneInfo, interval_minutes: int) -> int | None:
    """The number of the local day that `instant` is a start of, None where it is no start; otherwise as `aligned`."""
    _check_interval(interval_minutes)
    wall = _wall(instant, zone)
    if wall.second or wall.microsecond or (wall.hour * 60 + wall.minute) % interval_minutes:
        return None
    return wall.toordinal() - _EPOCH_ORDINAL


@lru_cache(maxsize=_ZONE_DAYS)
def aligned_cells(day: int, zone: ZoneInfo, interval_minutes: int) -> int:
    """The cells of UTC day `day` at whose beginning `aligned` holds, as a 288-bit integer, first cell on top.

    Both occurrences of a repeated wall time are aligned; working hours leave the second out.
    """
    _check_interval(interval_minutes)
    wall_cells = 0
    for cell in range(0, CELLS_PER_DAY, interval_minutes // CELL_MINUTES):
        wall_cells |= run(cell, cell + 1)
    cells = 0
    for stretch in stretches(day, zone):
        cells |= stretch.place(wall_cells)
    return cells


def run(first: int, end: int) -> int:
    """The cells `[first, end)` of a day, 0 <= first <= end <= 288, as a 288-bit integer, cell 0 on top."""
    return ((1 << (end - first)) - 1) << (CELLS_PER_DAY - end)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Cells of one UTC day over which the wall clock runs evenly through one local date.

    `cells` are they, as a 288-bit integer; `shift` is how many cells of the UTC day the wall clock's
    midnight lies after UTC midnight (negative: before). `repeated`: the clock shows these times for the
    second time, after having been set back.
    """

    local_day: date
    weekday: int
    cells: int
    shift: int
    repeated: bool

    def place(self, wall_cells: int) -> int:
        """The cells of the UTC day at which the clock shows `wall_cells` (288 bits counted from midnight)."""
        if self.shift >= 0:
            return wall_cells >> self.shift & self.cells
        return wall_cells << -self.shift & self.cells


@lru_cache(maxsize=_ZONE_DAYS)
def stretches(day: int, zone: ZoneInfo) -> tuple[Stretch, ...]:
    """The stretches of UTC day `day` in `zone`, in order: one or two, more on a day that moves the clocks.

    A cell in the middle of which the clock is moved belongs to none. ValueError when the zone's offset is
    not a whole number of cells.
    """
    start = day_start(day)
    found: list[Stretch] = []
    for begin_s, end_s in _even_parts(start, zone):
        wall = _wall(start + timedelta(seconds=begin_s), zone)
        offset_s = round((wall.utcoffset() or timedelta()).total_seconds())
        if offset_s % CELL_SECONDS:
            raise ValueError(f"{zone.key} is not whole cells away from UTC on {start.date()}")
        shift = -offset_s // CELL_SECONDS
        first, end = -(-begin_s // CELL_SECONDS), end_s // CELL_SECONDS
        while first < end:
            days_on, wall_cell = divmod(first - shift, CELLS_PER_DAY)
            until = min(end, first + CELLS_PER_DAY - wall_cell)
            local_day = date.fromordinal(_EPOCH_ORDINAL + day + days_on)
            midnight = shift + days_on * CELLS_PER_DAY
            found.append(Stretch(local_day, local_day.weekday(), run(first, until), midnight, bool(wall.fold)))
            first = until
    return tuple(found)


def _even_parts(start: datetime, zone: ZoneInfo) -> list[tuple[int, int]]:
    """The seconds `[begin, end)` of the UTC day beginning at `start` between which no clock is moved.

    The end of a repetition counts as a move. By halving: where both ends of a span look alike nothing
    happened between them, since no day moves the clocks twice.
    """

    def look(second: int) -> tuple[timedelta | None, int]:
        wall = _wall(start + timedelta(seconds=second), zone)
        return wall.utcoffset(), wall.fold

    parts: list[tuple[int, int]] = []
    begin = 0
    while begin < _DAY_SECONDS:
        same, other = begin, _DAY_SECONDS
        before = look(begin)
        if look(_DAY_SECONDS - 1) == before:
            same = _DAY_SECONDS - 1
        while other - same > 1:
            middle = (same + other) // 2
            if look(middle) == before:
                same = middle
            else:
                other = middle
        parts.append((begin, other))
        begin = other
    return parts


def _first_instant(local_day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the clocks of `zone` show `local_day` or a later date."""
    # A skipped midnight is read with the offset before the move, and so gives the moment of the move: no
    # clock has been moved forward across midnight from before it since 1970.
    return datetime.combine(local_day, time(), zone).astimezone(UTC)


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no offset, so it is not an instant")
    return instant.astimezone(zone)


def _check_interval(interval_minutes: int) -> None:
    if not CELL_MINUTES <= interval_minutes <= DAY_MINUTES or interval_minutes % CELL_MINUTES:
        raise ValueError(f"{interval_minutes} minutes is no multiple of {CELL_MINUTES} up to {DAY_MINUTES}")


def _check_year(local_day: date) -> None:
    if local_day.year not in _YEARS:
        raise ValueError(f"{local_day.isoformat()} is not in the years {_YEARS[0]} to {_YEARS[-1]}")
