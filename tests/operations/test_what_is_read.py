"""Availability reads the days that its slots touch, and no other; nobody is looked for coach by coach."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from service.app import Services
from service.domain.grid import day_of, day_start
from service.operations import find_availability, postgres_grids
from service.operations.postgres_grids import PostgresGrids


@pytest.mark.parametrize(
    ("calendar", "days"),
    [
        pytest.param("cal-3", 7, id="the last slot ends at midnight"),
        pytest.param("cal-1", 8, id="the last slot ends after it"),
    ],
)
async def test_a_week_from_midnight_reads_no_day_that_no_slot_touches(
    services: Services, org: int, calendar: str, days: int
) -> None:
    first = day_of(services.clock.now()) + 2
    start = day_start(first)
    roster = await services.rosters.get(org)
    with patch.object(services.grid, "read", wraps=services.grid.read) as read:
        found = await services.availability(roster, roster.calendar(calendar), None, start, start + timedelta(days=7))
    assert found.total > 0
    assert [call.args[1] for call in read.call_args_list][-1] == range(first, first + days)


class _Columns(list[int]):
    """Columns in which none may be looked for one after the other."""

    def __contains__(self, column: object) -> bool:
        raise AssertionError("of ten thousand coaches that is fifty million comparisons")


async def test_the_hours_of_many_coaches_are_not_looked_up_in_a_list_of_all(services: Services, org: int) -> None:
    roster = await services.rosters.get(org)
    found = await services.roster_store.schedules(roster, _Columns([1, 4]), 20_000, 20_001)
    assert set(found) == {1, 4}


async def test_without_redis_a_day_becomes_planes_once_for_all_who_ask_in_one_moment(
    services: Services, org: int
) -> None:
    roster, first = await services.rosters.get(org), day_of(services.clock.now()) + 2
    days = range(first, first + 3)
    grids = PostgresGrids(services.roster_store, services.rosters)
    with patch.object(postgres_grids, "plane_of", wraps=postgres_grids.plane_of) as made:
        read = await asyncio.gather(*(grids.read(roster, days, list(days)) for _ in range(20)))
    assert made.call_count == 2 * len(days)  # what is open, and what is occupied
    assert all(one == read[0] for one in read)


@pytest.mark.parametrize(("large_bytes", "at_once"), [(0, 1), (find_availability.LARGE_READ_BYTES, 6)])
async def test_large_parts_of_the_grid_are_read_one_after_the_other(
    services: Services, org: int, large_bytes: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is waited for so long: of many that are read at once, each comes when nearly all have come."""
    monkeypatch.setattr(find_availability, "LARGE_READ_BYTES", large_bytes)
    roster, start = await services.rosters.get(org), day_start(day_of(services.clock.now()) + 2)
    read, under_way, most = services.grid.read, 0, 0

    async def counted(*asked: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await read(*asked)
        finally:
            under_way -= 1

    monkeypatch.setattr(services.grid, "read", counted)
    calendar, end = roster.calendar("cal-1"), start + timedelta(days=2)
    found = await asyncio.gather(*(services.availability(roster, calendar, None, start, end) for _ in range(6)))
    assert most == at_once
    assert len({one.total for one in found}) == 1
