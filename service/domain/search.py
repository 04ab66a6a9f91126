"""Searching the grid: slots as arithmetic on whole days, the same few operations whatever the number of coaches.

Planes of consecutive days are put one below the other, a row a cell, and worked on by numpy: of ten thousand coaches a
week of one plane is 2.5 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.domain.grid import CELLS_PER_DAY

# Rows of bits in 32-bit words, in the bytes' own order: what is done to them does not depend on it.
Rows: TypeAlias = NDArray[np.uint32]
# A number or a truth for each row.
RowNumbers: TypeAlias = NDArray[np.intp]
# So much of each row is looked at before the rest: a week of it stays in the processor's cache from pass to pass.
WORDS_AT_ONCE = 64


def row_of(mask: int, width: int) -> Rows:
    """A mask as a row of `width` bytes."""
    return np.frombuffer(mask.to_bytes(width, "big"), np.uint32)


def rows_in(cells: int, days: int) -> RowNumbers:
    """The numbers of the rows whose bits are set in an integer of `days * 288` bits, the first row on top."""
    packed = np.frombuffer(cells.to_bytes(days * CELLS_PER_DAY // 8, "big"), np.uint8)
    return np.flatnonzero(np.unpackbits(packed))


@dataclass(frozen=True, slots=True)
class Starts:
    """Starts in order of time: their absolute cells, and for each the columns free there."""

    cells: RowNumbers
    rows: Rows

    def counts(self) -> list[int]:
        """How many columns are free at each."""
        return np.bitwise_count(self.rows).sum(axis=1, dtype=np.intp).tolist()

    def masks(self) -> Iterator[tuple[int, int]]:
        """(absolute cell, mask) of each."""
        data, width = self.rows.tobytes(), self.rows.shape[1] * self.rows.itemsize
        for place, cell in enumerate(self.cells.tolist()):
            yield cell, int.from_bytes(data[place * width : (place + 1) * width], "big")


NO_STARTS = Starts(np.empty(0, np.intp), np.empty((0, 1), np.uint32))


class Planes:
    """The planes of consecutive UTC days from `first_day` on, rows of `width` bytes."""

    def __init__(self, first_day: int, width: int, planes: Sequence[tuple[bytes, bytes]]) -> None:
        """`planes` are (open, occupied) of each day, each `288 * width` bytes."""
        self.first_day = first_day
        self.width = width
        self.rows = len(planes) * CELLS_PER_DAY
        shape = (CELLS_PER_DAY, -1)
        self._open = [np.frombuffer(opened, np.uint32).reshape(shape) for opened, _ in planes]
        self._occupied = [np.frombuffer(occupied, np.uint32).reshape(shape) for _, occupied in planes]

    @property
    def first_cell(self) -> int:
        """The absolute number of the first cell."""
        return self.first_day * CELLS_PER_DAY

    def starts(self, rows: RowNumbers, *, cells: int, before: int = 0, after: int = 0) -> Rows:
        """For each of the rows the columns for which a slot of `cells` with buffers may begin there.

        Each of the slot's own cells must be open and not occupied, each buffer cell not occupied. A slot or a buffer
        that leaves the matrix is not free.
        """
        fits = (rows >= before) & (rows + (cells + after) <= self.rows)
        rows = rows[fits]
        if not len(rows):
            return np.zeros((len(fits), self._open[0].shape[1]), np.uint32)
        free = self._runs(rows, cells, opened=True)
        if before or after:
            free &= self._runs(rows - before, before + cells + after, opened=False)
        if len(rows) == len(fits):
            return free
        found = np.zeros((len(fits), free.shape[1]), np.uint32)
        found[fits] = free
        return found

    def _runs(self, rows: RowNumbers, count: int, *, opened: bool) -> Rows:
        """For each of the rows the columns not occupied, and open if that is asked for, in `count` rows from there on.

        Days are read row by row, as they lie in memory. Where all runs begin and end on a multiple of some cells, as on
        a quarter of an hour, so many rows are put together before there is anything to write down.
        """
        step = math.gcd(CELLS_PER_DAY, count, int(np.gcd.reduce(rows)))
        steps = CELLS_PER_DAY // step
        matrix = np.empty((len(self._open) * steps, self._open[0].shape[1]), np.uint32)
        whole = np.empty_like(self._open[0])
        for day, (open_plane, occupied) in enumerate(zip(self._open, self._occupied, strict=True)):
            stepped = matrix[day * steps : (day + 1) * steps]
            out = stepped if step == 1 else whole
            np.invert(occupied, out=out)
            if opened:
                np.bitwise_and(open_plane, out, out=out)
            if step > 1:
                np.bitwise_and(whole[::step], whole[1::step], out=stepped)
                for row in range(2, step):
                    np.bitwise_and(stepped, whole[row::step], out=stepped)
        return run_from(matrix, rows // step, count // step)


def run_from(matrix: Rows, rows: RowNumbers, count: int) -> Rows:
    """For each of the rows, in ascending order, the AND of `count` rows from there on, none of them past the end.

    By doubling: log2(count) passes over the matrix, then two runs that overlap make one of the right length.
    """
    found = np.empty((len(rows), matrix.shape[1]), np.uint32)
    for first in range(0, matrix.shape[1], WORDS_AT_ONCE):
        part = slice(first, first + WORDS_AT_ONCE)
        runs, have = matrix[:, part], 1
        while 2 * have < count:
            runs, have = runs[:-have] & runs[have:], 2 * have
        np.bitwise_and(_some(runs, rows), _some(runs, rows + (count - have)), out=found[:, part])
    return found


def _some(matrix: Rows, rows: RowNumbers) -> Rows:
    """Some rows, without a copy where they are neighbours."""
    first, last = int(rows[0]), int(rows[-1])
    return matrix[first : last + 1] if last - first == len(rows) - 1 else matrix[rows]
