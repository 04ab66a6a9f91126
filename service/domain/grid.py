"""The day grid: time cut into 5-minute cells, coaches as bit columns.

A *plane* is the bit matrix of one organization and one UTC day: 288 rows (a row a cell), a column a coach,
rows padded to whole 32-bit words. A row is read as a big-endian integer, its *mask*: the first column is the most
significant bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

CELL_MINUTES = 5
CELLS_PER_DAY = 288
CELL_SECONDS = CELL_MINUTES * 60
WORD_BITS = 32
WORD_BYTES = 4


def cell_of(instant: datetime) -> int:
    """The absolute number of the cell that contains `instant` (cells since the Unix epoch)."""
    return int(instant.timestamp()) // CELL_SECONDS


def instant_of(cell: int) -> datetime:
    """The UTC instant at which an absolute cell begins."""
    return datetime.fromtimestamp(cell * CELL_SECONDS, UTC)


def day_of(instant: datetime) -> int:
    """The UTC day number (days since the epoch) of `instant`."""
    return int(instant.timestamp()) // 86_400


def day_start(day: int) -> datetime:
    """The instant at which a UTC day begins."""
    return datetime.fromtimestamp(day * 86_400, UTC)


def cells_in(minutes: int) -> int:
    """How many cells a duration takes; `minutes` must be a multiple of 5."""
    if minutes % CELL_MINUTES:
        raise ValueError(f"{minutes} minutes is not a multiple of {CELL_MINUTES}")
    return minutes // CELL_MINUTES


def row_bytes(columns: int) -> int:
    """Bytes of one row that holds `columns` coaches: whole 32-bit words, at least one."""
    return max(1, -(-columns // WORD_BITS)) * WORD_BYTES


def column_bit(column: int, width: int) -> int:
    """The bit of one column inside a row of `width` bytes, as an integer mask."""
    return 1 << (width * 8 - 1 - column)


def columns_mask(columns: Iterable[int], width: int) -> int:
    """The row in which exactly `columns` are set."""
    mask = 0
    for column in columns:
        mask |= column_bit(column, width)
    return mask


def columns_in(row: int, width: int) -> Iterator[int]:
    """The columns set in one row, ascending."""
    top = width * 8
    while row:
        length = row.bit_length()
        yield top - length
        row &= ~(1 << (length - 1))


class Segment(msgspec.Struct, frozen=True):
    """The part of a placement that falls on one UTC day.

    `first`/`count` are the occupied cells of that day, `open_first`/`open_count` those of the appointment
    itself (a buffer may lie on a day of its own, then `open_count` is 0).
    """

    day: int
    first: int
    count: int
    open_first: int
    open_count: int


class Placement(msgspec.Struct, frozen=True):
    """The absolute cells an appointment takes: `[start, end)` itself, `[occupied_start, occupied_end)` with buffers."""

    start: int
    end: int
    occupied_start: int
    occupied_end: int

    @classmethod
    def of(cls, start: datetime, end: datetime, buffer_before: int = 0, buffer_after: int = 0) -> Placement:
        """The placement of `[start, end)`; instants on cell boundaries, buffers in minutes (multiples of 5)."""
        first, last = cell_of(start), cell_of(end)
        return cls(first, last, first - cells_in(buffer_before), last + cells_in(buffer_after))

    def segments(self) -> tuple[Segment, ...]:
        """The placement cut at UTC midnights, in order."""
        parts: list[Segment] = []
        for day in range(self.occupied_start // CELLS_PER_DAY, (self.occupied_end - 1) // CELLS_PER_DAY + 1):
            origin = day * CELLS_PER_DAY
            first = max(self.occupied_start - origin, 0)
            last = min(self.occupied_end - origin, CELLS_PER_DAY)
            open_first = min(max(self.start - origin, first), last)
            open_last = min(max(self.end - origin, open_first), last)
            parts.append(Segment(day, first, last - first, open_first, open_last - open_first))
        return tuple(parts)

    def occupied_runs(self, keeping: Placement | None = None) -> tuple[tuple[int, int, int], ...]:
        """(day, first, count) of the occupied cells, those of `keeping` left out, cut at UTC midnights."""
        pieces = [(self.occupied_start, self.occupied_end)]
        if keeping is not None:
            pieces = [
                (self.occupied_start, min(self.occupied_end, keeping.occupied_start)),
                (max(self.occupied_start, keeping.occupied_end), self.occupied_end),
            ]
        return tuple(
            (part.day, part.first, part.count)
            for first, last in pieces
            if first < last
            for part in Placement(first, last, first, last).segments()
        )

    @property
    def starts_at(self) -> datetime:
        """When the appointment begins."""
        return instant_of(self.start)

    @property
    def ends_at(self) -> datetime:
        """When the appointment ends."""
        return instant_of(self.end)


def five_minute_floor(instant: datetime, minutes: int = CELL_MINUTES) -> datetime:
    """`instant` rounded down to a multiple of `minutes` since the epoch."""
    step = minutes * 60
    return datetime.fromtimestamp(int(instant.timestamp()) // step * step, UTC)


def five_minute_ceil(instant: datetime) -> datetime:
    """`instant` rounded up to a cell boundary."""
    floor = five_minute_floor(instant)
    return floor if floor == instant else floor + timedelta(minutes=CELL_MINUTES)
