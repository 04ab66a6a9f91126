"""In every zone, around every clock change of three years, the hours offered are the hours configured.

On the wall clock, that is: an hour that is skipped is offered by nobody, one that comes twice is offered once. Both
what the grid in Redis holds and what a search finds are compared, cell by cell, with the times of day that `zoneinfo`
says the clocks show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

from service.app import Services
from service.domain.calendar import Calendar, Roster
from service.domain.grid import column_bit
from tests.dst.clocks import CELL, DAY, Alike, Hours, Move, cell_at, number_of, open_cells, wall_minute
from tests.dst.conftest import AROUND_THE_CLOCK, MovedClock, NewCoach, Zones, days_around, organization

_NIGHTS = ((0, 210), (1350, 1440))
# Mondays and Saturdays differ from the days beside them: whoever takes one date for another shows it.
NIGHTS = Hours((((60, 960),), *[_NIGHTS] * 4, ((0, 95), (155, 1380)), _NIGHTS))
EDGES = Hours((((15, 45), (65, 150), (150, 185), (1410, 1440)),) * 7)
_NEVER = ((),) * 7

Place = tuple[Alike, Hours]
Places = Mapping[int, Place]


def test_every_zone_keeps_to_whole_cells(zones: Zones) -> None:
    assert sum(len(group.names) for group in zones.groups) > 400
    moves = [move for group in zones.groups for move in group.moves]
    assert len(moves) > 100
    assert {move.by > timedelta() for move in moves} == {True, False}
    for group in zones.groups:
        for move in group.moves:
            assert move.instant.timestamp() % 300 == 0, group.names
            assert move.before % CELL == move.after % CELL == timedelta(), group.names
        noon = zones.start.replace(hour=12).astimezone(group.zone)
        assert noon.minute % 5 == 0, group.names


async def test_hours_offered_are_hours_configured(services: Services, zones: Zones, clock: MovedClock) -> None:
    # Every zone whose clocks are moved, and of those whose clocks are not one of each offset.
    names = [(group, name) for group in zones.groups for name in (group.names if group.moves else group.names[:1])]
    placed = [(group, NewCoach(name, NIGHTS)) for group, name in names]
    for group in zones.moving:
        only_there = Hours(_NEVER, {_date_of(group, move): ((0, 1440),) for move in group.moves})
        placed += [(group, NewCoach(group.names[0], hours)) for hours in (AROUND_THE_CLOCK, EDGES, only_there)]
    calendars = [("cells", "5", "5", "0", "0"), ("visits", "30", "20", "0", "0")]
    org = await organization(services, [coach for _, coach in placed], calendars)
    places = {column: (group, coach.hours) for column, (group, coach) in enumerate(placed)}
    compared = 0
    for cases in zones.years(clock):
        days = days_around([move for _, move in cases])
        await services.keeper.derive(org, [number_of(day) for day in days])
        roster = await services.rosters.get(org)
        dates = sorted({day + n * DAY for day in days for n in (-1, 0, 1)})
        wanted = _rows(_cells(places, dates), places, roster)
        for day in days:
            await _compare_plane(services, roster, wanted, day)
        by_date: dict[date, set[Alike]] = defaultdict(set)
        for group, move in cases:
            by_date[move.instant.date()].add(group)
        for day, groups in by_date.items():
            team = {column: place for column, place in places.items() if place[0] in groups}
            for calendar in roster.calendars:
                await _compare_search(services, roster, replace(calendar, team=tuple(team)), team, day)
        compared += len(cases)
    assert compared == sum(len(group.moves) for group in zones.groups)


async def _compare_plane(services: Services, roster: Roster, wanted: Mapping[int, int], day: date) -> None:
    """The open plane of a UTC day has every coach's hours."""
    number, width = number_of(day), roster.width
    read = await services.grid.read(roster.org, range(number, number + 1), [])
    assert read.days[0] is not None
    plane = read.days[0][0]
    for row in range(288):
        found, hours = int.from_bytes(plane[row * width : (row + 1) * width], "big"), wanted.get(number * 288 + row, 0)
        assert found == hours, _differing(roster, number * 288 + row, found ^ hours)


async def _compare_search(services: Services, roster: Roster, calendar: Calendar, team: Places, day: date) -> None:
    """A search around a UTC day finds the starts whose whole slot lies within hours, on the grid of the wall clock."""
    start = datetime.combine(day - DAY, time(), UTC)
    end = start + 3 * DAY - timedelta(hours=1)  # no slot reaches beyond the third day
    free = await services.availability(roster, calendar, None, start, end)
    cells = _cells(team, [day + n * DAY for n in range(-2, 3)])
    starts = {place: _starts(found, place[0], calendar, cell_at(start), cell_at(end)) for place, found in cells.items()}
    wanted, found = _rows(starts, team, roster), dict(free.rows)
    for cell in found.keys() | wanted.keys():
        hit, hours = found.get(cell, 0), wanted.get(cell, 0)
        assert hit == hours, _differing(roster, cell, hit ^ hours)
    assert found, (calendar.calendar_id, day)


def _cells(places: Places, dates: Sequence[date]) -> dict[Place, list[int]]:
    """The open cells of each zone and hours on local dates."""
    return {place: [cell for day in dates for cell in open_cells(*place, day)] for place in set(places.values())}


def _starts(cells: list[int], group: Alike, calendar: Calendar, first: int, end: int) -> list[int]:
    """Which of the open cells from `first` to `end` may begin a slot."""
    opened, length = set(cells), calendar.slot_duration // 5
    return [
        cell
        for cell in cells
        if first <= cell < end
        and opened.issuperset(range(cell, cell + length))
        and wall_minute(cell, group.zone) % calendar.slot_interval == 0
    ]


def _rows(cells: Mapping[Place, Sequence[int]], places: Places, roster: Roster) -> dict[int, int]:
    """The columns that have a cell, as a row of bits, by cell."""
    masks: dict[Place, int] = defaultdict(int)
    for column, place in places.items():
        masks[place] |= column_bit(column, roster.width)
    rows: dict[int, int] = defaultdict(int)
    for place, mask in masks.items():
        for cell in cells[place]:
            rows[cell] |= mask
    return rows


def _date_of(group: Alike, move: Move) -> date:
    """The local date on which clocks are moved."""
    return (move.instant - timedelta(seconds=1)).astimezone(group.zone).date()


def _differing(roster: Roster, cell: int, columns: int) -> str:
    names = sorted({coach.timezone for coach in roster.coaches if columns & column_bit(coach.column, roster.width)})
    return f"{datetime.fromtimestamp(cell * 300, UTC)} in {len(names)} zones: {', '.join(names[:10])}"
