"""Cells, columns and the rows they make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.grid import (
    CELLS_PER_DAY,
    Placement,
    cell_of,
    cells_in,
    columns_in,
    columns_mask,
    day_of,
    day_start,
    five_minute_ceil,
    five_minute_floor,
    instant_of,
    row_bytes,
)

FIRST_DAY = 20_000


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
