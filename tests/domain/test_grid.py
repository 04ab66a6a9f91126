"""Free starts are found by arithmetic on whole days; looking cell by cell must find the same."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.grid import (
    CELLS_PER_DAY,
    Placement,
    Planes,
    cell_of,
    cells_in,
    columns_in,
    columns_mask,
    day_of,
    day_start,
    five_minute_ceil,
    five_minute_floor,
    instant_of,
    repeat_row,
    row_bytes,
    run_of_rows,
)

FIRST_DAY = 20_000


def _random_planes(chance: random.Random, days: int, width: int, density: float) -> list[list[bool]]:
    """`days * 288` rows of `width * 8` columns in stretches, so that runs of several cells are common."""
    rows = days * CELLS_PER_DAY
    columns: list[list[bool]] = []
    for _ in range(width * 8):
        cells: list[bool] = []
        while len(cells) < rows:
            cells += [chance.random() < density] * chance.randint(1, 30)
        columns.append(cells[:rows])
    return [[columns[c][r] for c in range(width * 8)] for r in range(rows)]


def _bytes(matrix: list[list[bool]], day: int) -> bytes:
    width = len(matrix[0]) // 8
    rows = matrix[day * CELLS_PER_DAY : (day + 1) * CELLS_PER_DAY]
    return b"".join(columns_mask((c for c, bit in enumerate(row) if bit), width).to_bytes(width, "big") for row in rows)


@settings(max_examples=25, deadline=None)
@given(
    days=st.integers(1, 3),
    columns=st.sampled_from([1, 32, 33, 70]),
    cells=st.sampled_from([1, 2, 3, 6, 9, 17, 288]),
    before=st.sampled_from([0, 1, 3, 12]),
    after=st.sampled_from([0, 1, 4, 12]),
    seed=st.integers(0, 2**32),
)
def test_starts_are_those_a_cell_by_cell_search_finds(
    days: int, columns: int, cells: int, before: int, after: int, seed: int
) -> None:
    chance, width = random.Random(seed), row_bytes(columns)
    opened = _random_planes(chance, days, width, 0.9)
    occupied = _random_planes(chance, days, width, 0.15)
    planes = Planes.join(FIRST_DAY, width, [(_bytes(opened, day), _bytes(occupied, day)) for day in range(days)])
    found = dict(planes.iterate(planes.starts(cells=cells, before=before, after=after)))
    rows = days * CELLS_PER_DAY
    for column in chance.sample(range(width * 8), 4):
        for row in range(rows):
            inside = row - before >= 0 and row + cells + after <= rows
            free = (
                inside
                and all(opened[r][column] for r in range(row, row + cells))
                and not any(occupied[r][column] for r in range(row - before, row + cells + after))
            )
            mask = found.get(planes.first_cell + row, 0)
            assert bool(mask & columns_mask([column], width)) == free, (row, column)


def test_iterate_gives_the_rows_with_anything_in_them_in_order_of_time() -> None:
    planes = Planes(FIRST_DAY, 2, 4, 0, 0)
    matrix = planes.rows_mask(0b1010, 0, 1) | planes.rows_mask(1, 287, 289) | planes.rows_mask(1 << 31, 575, 576)
    first = FIRST_DAY * CELLS_PER_DAY
    assert list(planes.iterate(matrix)) == [(first, 0b1010), (first + 287, 1), (first + 288, 1), (first + 575, 1 << 31)]


@pytest.mark.parametrize(("first", "last"), [(0, 0), (5, 5), (7, 3), (0, 1), (3, 200), (0, 576), (575, 576)])
def test_rows_mask_fills_exactly_its_rows(first: int, last: int) -> None:
    planes = Planes(FIRST_DAY, 2, 8, 0, 0)
    row = columns_mask([0, 33, 63], 8)
    expected = b"".join((row if first <= r < last else 0).to_bytes(8, "big") for r in range(576))
    assert planes.rows_mask(row, first, last).to_bytes(576 * 8, "big") == expected


@given(row=st.integers(0, 2**32 - 1), rows=st.integers(0, 700))
def test_repeat_row_is_the_row_so_many_times(row: int, rows: int) -> None:
    assert repeat_row(row, rows, 4).to_bytes(rows * 4, "big") == row.to_bytes(4, "big") * rows


@given(free=st.integers(0, 2**40 - 1), count=st.integers(1, 12))
def test_run_of_rows_ands_each_row_with_those_that_follow(free: int, count: int) -> None:
    bits, rows = 4, 10
    cut = [free >> (rows - 1 - r) * bits & 0xF for r in range(rows)] + [0] * count
    result = run_of_rows(free, count, bits)
    for r in range(rows):
        expected = 0xF
        for other in cut[r : r + count]:
            expected &= other
        assert result >> (rows - 1 - r) * bits & 0xF == expected


@given(columns=st.sets(st.integers(0, 95)))
def test_a_row_mask_names_its_columns(columns: set[int]) -> None:
    assert list(columns_in(columns_mask(columns, 12), 12)) == sorted(columns)


@pytest.mark.parametrize(("columns", "width"), [(0, 4), (1, 4), (32, 4), (33, 8), (64, 8), (65, 12)])
def test_rows_are_whole_words(columns: int, width: int) -> None:
    assert row_bytes(columns) == width


@given(start=st.integers(0, 1000), cells=st.integers(1, 300), before=st.integers(0, 48), after=st.integers(0, 48))
def test_segments_cut_a_placement_at_midnight_and_lose_no_cell(start: int, cells: int, before: int, after: int) -> None:
    start += FIRST_DAY * CELLS_PER_DAY
    placement = Placement(start, start + cells, start - before, start + cells + after)
    occupied: list[int] = []
    own: list[int] = []
    for part in placement.segments():
        assert 0 <= part.first < part.first + part.count <= CELLS_PER_DAY
        origin = part.day * CELLS_PER_DAY
        occupied += range(origin + part.first, origin + part.first + part.count)
        own += range(origin + part.open_first, origin + part.open_first + part.open_count)
    assert occupied == list(range(start - before, start + cells + after))
    assert own == list(range(start, start + cells))


def test_a_placement_is_its_appointment_with_buffers_around() -> None:
    start = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    placement = Placement.of(start, start + timedelta(minutes=45), 10, 15)
    assert (placement.starts_at, placement.ends_at) == (start, start + timedelta(minutes=45))
    assert instant_of(placement.occupied_start) == start - timedelta(minutes=10)
    assert instant_of(placement.occupied_end) == start + timedelta(minutes=60)
    with pytest.raises(ValueError, match="7 minutes"):
        Placement.of(start, start + timedelta(minutes=45), 7)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2199, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  hypothesis wants them naive
def test_instants_cells_and_days_agree(instant: datetime) -> None:
    cell = cell_of(instant)
    assert instant_of(cell) <= instant < instant_of(cell + 1)
    assert day_start(day_of(instant)) <= instant < day_start(day_of(instant) + 1)
    assert cell // CELLS_PER_DAY == day_of(instant)
    assert five_minute_floor(instant) == instant_of(cell)
    assert five_minute_ceil(instant) == (instant if instant == instant_of(cell) else instant_of(cell + 1))


def test_a_duration_is_whole_cells() -> None:
    assert cells_in(45) == 9
    with pytest.raises(ValueError, match="not a multiple"):
        cells_in(42)
