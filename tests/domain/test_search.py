"""Free starts are found by arithmetic on whole days; looking cell by cell must find the same."""

from __future__ import annotations

import random
from functools import reduce
from operator import and_
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import search
from service.domain.grid import CELLS_PER_DAY, columns_mask, row_bytes
from service.domain.search import Planes, Starts, row_of, rows_in, run_from

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


@settings(max_examples=60, deadline=None)
@given(
    days=st.integers(1, 3),
    columns=st.sampled_from([1, 32, 33, 70]),
    cells=st.sampled_from([1, 2, 3, 6, 9, 17, 288]),
    before=st.sampled_from([0, 1, 3, 12]),
    after=st.sampled_from([0, 1, 4, 12]),
    words=st.sampled_from([1, 2, 64]),
    every=st.sampled_from([0, 1, 3, 6, 12]),
    offset=st.sampled_from([0, 0, 3, 4]),
    seed=st.integers(0, 2**32),
)
def test_starts_are_those_a_cell_by_cell_search_finds(
    days: int, columns: int, cells: int, before: int, after: int, words: int, every: int, offset: int, seed: int
) -> None:
    chance, width = random.Random(seed), row_bytes(columns)
    opened = _random_planes(chance, days, width, 0.9)
    occupied = _random_planes(chance, days, width, 0.15)
    planes = Planes(FIRST_DAY, width, [(_bytes(opened, day), _bytes(occupied, day)) for day in range(days)])
    rows = days * CELLS_PER_DAY
    # Starts of a calendar are so many cells apart; those of several together are not.
    some = np.arange(offset, rows, every) if every else np.array(sorted(chance.sample(range(rows), rows // 2)))
    with patch.object(search, "WORDS_AT_ONCE", words):
        listed = planes.starts(some, cells=cells, before=before, after=after)
    found = dict(Starts(some, listed).masks())
    for column in chance.sample(range(width * 8), 4):
        for row, mask in found.items():
            inside = row - before >= 0 and row + cells + after <= rows
            free = (
                inside
                and all(opened[r][column] for r in range(row, row + cells))
                and not any(occupied[r][column] for r in range(row - before, row + cells + after))
            )
            assert bool(mask & columns_mask([column], width)) == free, (row, column)


def test_starts_are_told_as_masks_and_counts_in_order_of_time() -> None:
    masks = {0: 0b1010, 287: 1 << 63, 288: 1, 575: 2**64 - 1}
    starts = Starts(np.array(list(masks)), np.stack([row_of(mask, 8) for mask in masks.values()]))
    assert list(starts.masks()) == list(masks.items())
    assert starts.counts() == [2, 1, 1, 64]


@given(numbers=st.sets(st.integers(0, 2 * CELLS_PER_DAY - 1)))
def test_the_rows_in_an_integer_are_those_whose_bits_are_set(numbers: set[int]) -> None:
    cells = sum(1 << (2 * CELLS_PER_DAY - 1 - number) for number in numbers)
    assert rows_in(cells, 2).tolist() == sorted(numbers)


@given(masks=st.lists(st.integers(0, 2**32 - 1), min_size=12, max_size=12), count=st.integers(1, 12))
def test_a_run_is_the_and_of_a_row_with_those_that_follow(masks: list[int], count: int) -> None:
    matrix = np.concatenate([row_of(mask, 4) for mask in masks]).reshape(-1, 1)
    rows = np.arange(0, 13 - count, 2)
    found = run_from(matrix, rows, count)
    for place, row in enumerate(rows):
        assert found[place] == row_of(reduce(and_, masks[row : row + count]), 4)
