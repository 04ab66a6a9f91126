"""Where the grid in Redis and Postgres differ, in words: what `booking verify` only counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from service.app import Services, open_services
from service.config import Settings
from service.domain.calendar import Roster
from service.domain.grid import CELLS_PER_DAY, day_of, day_start, instant_of
from service.domain.plane import column_cells
from service.operations.keep_grid import counts_by_column, occupied_by_column, open_by_column
from service.operations.rosters import grid_days


async def differences(database_url: str, redis_url: str) -> list[str]:
    """A line for each run of cells, and for each count of a day, in which a coach's column differs."""
    found: list[str] = []
    settings = replace(Settings(), database_url=database_url, redis_url=redis_url)
    async with open_services(settings) as services:
        for org, name in await services.roster_store.organizations():
            roster = await services.rosters.get(org)
            for day in grid_days(roster, day_of(services.clock.now())):
                found += [f"{name}, {line}" for line in await _of_day(services, roster, day)]
            found += [f"{name}, {line}" for line in await _of_deficits(services, roster)]
    return found


async def _of_day(services: Services, roster: Roster, day: int) -> list[str]:
    read = await services.grid.read(roster.org, range(day, day + 1), [day])
    counts = await services.grid.read_counts(roster.org, day, roster.width * 8)
    planes = read.days[0]
    if planes is None or counts is None:
        return []
    source = await services.roster_store.day_source(roster, day)
    wanted_counts = counts_by_column(source, roster.width * 8)
    expected = {"open": open_by_column(source, day), "occupied": occupied_by_column(source, day)}
    found: list[str] = []
    for coach in roster.coaches:
        for plane, (word, cells) in zip(planes, expected.items(), strict=True):
            redis, postgres = column_cells(plane, coach.column, roster.width), cells.get(coach.column, 0)
            found += [f"{coach.coach_id}: {word} {run}" for run in _runs(day, redis, postgres)]
        have, want = counts[coach.column], wanted_counts[coach.column]
        if have != want:
            date = day_start(day).date()
            found.append(f"{coach.coach_id}: {have} appointments on {date} in Redis, {want} in Postgres")
    return found


async def _of_deficits(services: Services, roster: Roster) -> list[str]:
    have = await services.grid.deficits(roster.org, roster.width * 8)
    want = await services.roster_store.deficits(roster)
    return [
        f"{coach.coach_id}: a deficit of {have[coach.column]} in Redis, {want.get(coach.column, 0)} by Postgres"
        for coach in roster.coaches
        if have[coach.column] != want.get(coach.column, 0)
    ]


def _runs(day: int, redis: int, postgres: int) -> list[str]:
    """Runs of cells that only one of the two has."""

    def who(cell: int) -> str | None:
        bit = 1 << (CELLS_PER_DAY - 1 - cell)
        return None if (redis ^ postgres) & bit == 0 else "Redis" if redis & bit else "Postgres"

    found: list[str] = []
    for name, run in groupby(range(CELLS_PER_DAY + 1), lambda cell: who(cell) if cell < CELLS_PER_DAY else None):
        if name is not None:
            cells = [day * CELLS_PER_DAY + cell for cell in run]
            first, last = instant_of(cells[0]), instant_of(cells[-1] + 1)
            found.append(f"{first:%Y-%m-%d %H:%M} to {last:%H:%M} only in {name}")
    return found
