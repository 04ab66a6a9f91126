"""What is written as planes, bitmaps and packed numbers is read back as it was."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.grid import CELLS_PER_DAY, column_bit
from service.domain.plane import (
    bitmap,
    cells_mask,
    column_cells,
    differing_columns,
    packed_i32,
    packed_u16,
    packed_u32,
    plane_of,
    team_words,
)

ALL = (1 << CELLS_PER_DAY) - 1
shapes = st.one_of(st.integers(0, ALL), st.sampled_from([0, 1, ALL, 1 << 287, 0xFFF << 96]))


@settings(max_examples=40)
@given(cells=st.dictionaries(st.integers(0, 63), shapes, max_size=12))
def test_a_plane_holds_each_columns_cells_and_nothing_else(cells: dict[int, int]) -> None:
    plane = plane_of(cells, 8)
    assert len(plane) == CELLS_PER_DAY * 8
    assert [column_cells(plane, column, 8) for column in range(64)] == [cells.get(c, 0) for c in range(64)]


@settings(max_examples=40)
@given(one=st.dictionaries(st.integers(0, 63), shapes, max_size=6), other=st.dictionaries(st.integers(0, 63), shapes))
def test_the_columns_in_which_two_planes_differ_are_those_whose_cells_do(
    one: dict[int, int], other: dict[int, int]
) -> None:
    differing = differing_columns(plane_of(one, 8), plane_of(other, 8), 8)
    assert differing == [column for column in range(64) if one.get(column, 0) != other.get(column, 0)]


def test_the_first_cell_is_the_first_row_and_the_first_column_its_highest_bit() -> None:
    plane = plane_of({0: 1 << 287, 31: 1}, 4)
    assert plane[:4] == b"\x80\x00\x00\x00"
    assert plane[-4:] == b"\x00\x00\x00\x01"
    assert not any(plane[4:-4])
    assert column_bit(0, 4) == 0x80000000
    assert bitmap(1 << 287)[:1] == b"\x80"
    assert len(bitmap(0)) == 36


@given(day=st.integers(0, 30_000), first=st.integers(-400, 700), cells=st.integers(0, 400))
def test_a_mask_is_the_part_of_a_run_that_lies_on_the_day(day: int, first: int, cells: int) -> None:
    origin = day * CELLS_PER_DAY
    mask = cells_mask(day, origin + first, origin + first + cells)
    assert mask == sum(1 << (287 - cell) for cell in range(CELLS_PER_DAY) if first <= cell < first + cells)


@given(columns=st.sets(st.integers(0, 2000)))
def test_a_team_is_its_words_with_members_ascending(columns: set[int]) -> None:
    words = list(struct.iter_unpack(">HI", team_words(columns)))
    assert [word for word, _ in words] == sorted({column // 32 for column in columns})
    members = {word * 32 + k for word, bits in words for k in range(32) if bits >> (31 - k) & 1}
    assert members == columns


def test_numbers_are_packed_big_endian_a_column() -> None:
    assert packed_u16([1, 65_535]) == b"\x00\x01\xff\xff"
    assert packed_u32([1_000_000]) == b"\x00\x0f\x42\x40"
    assert packed_i32([-1, 2]) == b"\xff\xff\xff\xff\x00\x00\x00\x02"
