"""Building planes: many coaches' cells of one day, turned into rows of bits.

Coaches with the same hours are written together, so a day of ten thousand coaches costs as many row
operations as there are different schedules, not as there are coaches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from service.domain.grid import CELLS_PER_DAY, column_bit, columns_in, columns_mask


def plane_of(cells_by_column: Mapping[int, int], width: int) -> bytes:
    """The plane in which each column has the cells of its 288-bit integer (first cell most significant)."""
    groups: dict[int, list[int]] = {}
    for column, cells in cells_by_column.items():
        if cells:
            groups.setdefault(cells, []).append(column)
    rows = [0] * CELLS_PER_DAY
    for cells, columns in groups.items():
        mask = columns_mask(columns, width)
        for row in range(CELLS_PER_DAY):
            if cells >> (CELLS_PER_DAY - 1 - row) & 1:
                rows[row] |= mask
    return b"".join(row.to_bytes(width, "big") for row in rows)


def cells_mask(day: int, first_cell: int, last_cell: int) -> int:
    """The absolute cells `[first_cell, last_cell)` as far as they lie on `day`, as a 288-bit integer."""
    first = max(first_cell - day * CELLS_PER_DAY, 0)
    last = min(last_cell - day * CELLS_PER_DAY, CELLS_PER_DAY)
    if last <= first:
        return 0
    return ((1 << (last - first)) - 1) << (CELLS_PER_DAY - last)


def column_cells(plane: bytes, column: int, width: int) -> int:
    """One column of a plane as a 288-bit integer."""
    bit = column_bit(column, width)
    cells = 0
    for row in range(CELLS_PER_DAY):
        cells = cells << 1 | (1 if int.from_bytes(plane[row * width : (row + 1) * width], "big") & bit else 0)
    return cells


def differing_columns(plane: bytes, other: bytes, width: int) -> list[int]:
    """The columns in which two planes of one width differ, ascending: a row at a time, not a column."""
    found = 0
    for row in range(0, len(plane), width):
        one, another = plane[row : row + width], other[row : row + width]
        if one != another:
            found |= int.from_bytes(one, "big") ^ int.from_bytes(another, "big")
    return list(columns_in(found, width))


def bitmap(cells: int) -> bytes:
    """A 288-bit integer as the 36 bytes the scripts read."""
    return cells.to_bytes(CELLS_PER_DAY // 8, "big")


def packed_u16(values: Sequence[int]) -> bytes:
    """Big-endian u16 a column."""
    return struct.pack(f">{len(values)}H", *values)


def packed_u32(values: Sequence[int]) -> bytes:
    """Big-endian u32 a column."""
    return struct.pack(f">{len(values)}I", *values)


def packed_i32(values: Sequence[int]) -> bytes:
    """Big-endian i32 a column."""
    return struct.pack(f">{len(values)}i", *values)


def team_words(columns: Iterable[int]) -> bytes:
    """A team as the script reads it: (u16 word, u32 members) of each word with members, ascending."""
    words: dict[int, int] = {}
    for column in columns:
        words[column // 32] = words.get(column // 32, 0) | 1 << (31 - column % 32)
    return b"".join(struct.pack(">HI", word, members) for word, members in sorted(words.items()))
