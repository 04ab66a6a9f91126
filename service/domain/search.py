"""Searching the grid: slots as arithmetic on whole days, the same few operations whatever the number of coaches.

Planes of consecutive days are put one below the other, a row a cell, and worked on by numpy: of ten thousand coaches a
week of one plane is 2.5 MB, for which Python's integers took four to five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.domain.grid import CELLS_PER_DAY

# Rows of bits in 32-bit words, in the bytes' own order: what is done to them does not depend on it.
Rows: TypeAlias = NDArray[np.uint32]
# A number or a truth for each row.
RowNumbers: TypeAlias = NDArray[np.intp]


def row_of(mask: int, width: int) -> Rows:
    """A mask as a row of `width` bytes."""
    return np.frombuffer(mask.to_bytes(width, "big"), np.uint32)


def rows_in(cells: int, days: int) -> RowNumbers:
    """The numbers of the rows whose bits are set in an integer of `days * 288` bits, the first row on top."""
    packed = np.frombuffer(cells.to_bytes(days * CELLS_PER_DAY // 8, "big"), np.uint8)
    return np.flatnonzero(np.unpackbits(packed))


class Planes:
    """The planes of consecutive UTC days from `first_day` on, rows of `width` bytes."""

    def __init__(self, first_day: int, width: int, planes: Sequence[tuple[bytes, bytes]]) -> None:
        """`planes` are (open, occupied) of each day, each `288 * width` bytes."""
        self.first_day = first_day
        self.width = width
        self.rows = len(planes) * CELLS_PER_DAY
        self._open = self._below_each_other([opened for opened, _ in planes])
        self._unoccupied = ~self._below_each_other([occupied for _, occupied in planes])

    def _below_each_other(self, planes: list[bytes]) -> Rows:
        return np.concatenate([np.frombuffer(plane, np.uint32) for plane in planes]).reshape(self.rows, -1)

    @property
    def first_cell(self) -> int:
        """The absolute number of the first cell."""
        return self.first_day * CELLS_PER_DAY

    def starts(self, *, cells: int, before: int = 0, after: int = 0) -> Rows:
        """For each row the columns for which a slot of `cells` with buffers may begin there.

        Each of the slot's own cells must be open and not occupied, each buffer cell not occupied. A slot or a buffer
        that leaves the matrix is not listed.
        """
        found = run_of_rows(self._open & self._unoccupied, cells)
        if before or after:
            clear = run_of_rows(self._unoccupied, before + cells + after)
            found[before:] &= clear[: self.rows - before]
            found[:before] = 0
        return found

    def iterate(self, rows: Rows) -> Iterator[tuple[int, int]]:
        """(absolute cell, mask) of every row that is not empty, in order of time."""
        numbers = np.flatnonzero(rows.any(axis=1))
        data, width, first = rows[numbers].tobytes(), self.width, self.first_cell
        for place, number in enumerate(numbers.tolist()):
            yield first + number, int.from_bytes(data[place * width : (place + 1) * width], "big")


def run_of_rows(rows: Rows, count: int) -> Rows:
    """Row r of the answer is the AND of rows r … r+count-1; rows past the end are empty.

    By doubling: log2(count) passes over the matrix.
    """
    found = rows.copy()
    have = 1
    while have < count:
        step = min(have, count - have)
        found[:-step] &= found[step:]
        found[-step:] = 0
        have += step
    return found
