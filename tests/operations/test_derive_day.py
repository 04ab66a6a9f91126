"""A day of the grid is what hours, absences and appointments say, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.app import Services
from service.domain.grid import CELLS_PER_DAY, day_of, day_start
from service.domain.plane import column_cells
from service.operations.local_rates import RateSeen
from tests.wishes import caller, free_starts, wish

_CELL = timedelta(minutes=5)
Windows = dict[int | date, list[tuple[int, int]]]
Ranges = list[tuple[datetime, datetime]]


async def test_a_derived_day_is_what_a_search_of_the_tables_cell_by_cell_finds(
    services: Services, org: int, sql: Any
) -> None:
    starts = await free_starts(services, org)
    day = day_of(starts[60])
    noon = day_start(day) + timedelta(hours=16, minutes=3)
    await _complicate(sql, org, day, noon)
    await services.rosters.refresh(org, await services.rosters.get(org))
    for number, start in enumerate([s for s in await free_starts(services, org) if day_of(s) == day][:9]):
        await services.book(wish(start, person=number), caller(org), RateSeen())
    await services.grid.forget_days(org, range(day - 1, day + 2))
    await services.keeper.derive(org, [day])
    read = await services.grid.read(org, range(day, day + 1), [day])
    assert read.days[0] is not None
    rows = await sql.fetch("SELECT coach_no, occupied, local_day FROM appointments")
    assert len(rows) > 3
    seen: set[tuple[bool, bool]] = set()
    for column in range(6):
        zone, windows, busy = await _coach(sql, column)
        taken = [(r["occupied"].lower, r["occupied"].upper) for r in rows if r["coach_no"] == column]
        opened, occupied = (_cells(column_cells(plane, column, 4)) for plane in read.days[0])
        for cell in range(CELLS_PER_DAY):
            begin = day_start(day) + cell * _CELL
            works = _works(begin.astimezone(zone), windows) and not _touched(begin, busy)
            assert (opened[cell], occupied[cell]) == (works, _touched(begin, taken)), (column, begin)
            seen.add((opened[cell], occupied[cell]))
    assert len(seen) > 2, "the day is too plain to prove anything"
    counted = [sum(r["coach_no"] == c and r["local_day"] == day_start(day).date() for r in rows) for c in range(6)]
    assert await services.grid.read_counts(org, day, 6) == counted


async def _complicate(sql: Any, org: int, day: int, noon: datetime) -> None:
    """A second zone, windows past midnight, overrides, and times at which coaches are away."""
    await sql.execute("UPDATE coaches SET timezone = 'Asia/Tokyo' WHERE coach_no = 1")
    await sql.execute(
        "INSERT INTO weekly_windows SELECT org_id, 1, weekday, 0, 90 FROM weekly_windows WHERE coach_no = 1"
    )
    await sql.execute(
        "INSERT INTO schedule_overrides VALUES ($1, 2, $2, '{600,700,720,1440}'), ($1, 3, $2, '{}')",
        *(org, day_start(day).date()),
    )
    await sql.execute(
        "INSERT INTO external_busy VALUES ($1, 0, $2, $3), ($1, 4, $4, $2)",
        *(org, noon, noon + timedelta(minutes=44), noon - timedelta(days=1)),
    )
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")


async def _coach(sql: Any, column: int) -> tuple[ZoneInfo, Windows, Ranges]:
    """A coach's zone, its windows by weekday and by date, and when it is away."""
    zone = ZoneInfo(await sql.fetchval("SELECT timezone FROM coaches WHERE coach_no = $1", column))
    windows: Windows = {}
    for row in await sql.fetch("SELECT * FROM weekly_windows WHERE coach_no = $1", column):
        windows.setdefault(row["weekday"], []).append((row["start_minute"], row["end_minute"]))
    for row in await sql.fetch("SELECT * FROM schedule_overrides WHERE coach_no = $1", column):
        windows[row["local_date"]] = list(zip(row["windows"][::2], row["windows"][1::2], strict=True))
    busy = await sql.fetch("SELECT starts_at, ends_at FROM external_busy WHERE coach_no = $1", column)
    return zone, windows, [(row["starts_at"], row["ends_at"]) for row in busy]


def _cells(bits: int) -> list[bool]:
    return [bool(bits >> (CELLS_PER_DAY - 1 - cell) & 1) for cell in range(CELLS_PER_DAY)]


def _works(local: datetime, windows: Windows) -> bool:
    minute = local.hour * 60 + local.minute
    mine = windows.get(local.date(), windows.get(local.weekday(), []))
    return local.fold == 0 and any(start <= minute < end for start, end in mine)


def _touched(begin: datetime, ranges: Sequence[tuple[datetime, datetime]]) -> bool:
    return any(start < begin + _CELL and end > begin for start, end in ranges)
