"""A roster tells the zones of a team, whichever team it is asked about."""

from __future__ import annotations

from service.domain.assignment import Strategy
from service.domain.calendar import Calendar, Coach, Roster
from service.domain.grid import columns_in

COACHES = 40
ZONES = ("Europe/Berlin", "UTC")
EVERYONE = Calendar(None, "", "", 30, 30, None, 0, 0, 0, 30, Strategy.BALANCED, tuple(range(COACHES)))
ROSTER = Roster(
    org=1,
    name="demo",
    version=1,
    width=8,
    coaches=tuple(
        Coach(n, f"coach-{n}", "", "", None, ZONES[n % len(ZONES)], 500_000, 10, active=True) for n in range(COACHES)
    ),
    calendars=(),
    everyone=EVERYONE,
    zones=ZONES,
)


def test_the_zones_of_a_team_are_its_own_also_where_another_team_lay_before() -> None:
    for first in range(COACHES - 2):
        # Teams that are made and forgotten: the next one lies where the last one lay.
        for size in (1, 2, 3):
            team = tuple(range(first, first + size))
            found = {group.name: columns_in(group.mask, ROSTER.width) for group in ROSTER.zone_groups(team)}
            assert sorted(column for columns in found.values() for column in columns) == list(team)
            assert all(ROSTER.coach_by_column[c].timezone == name for name, columns in found.items() for c in columns)


def test_the_zones_of_a_team_are_found_once() -> None:
    assert ROSTER.zone_groups(EVERYONE.team) is ROSTER.zone_groups(EVERYONE.team)
    assert ROSTER.zone_groups((7,)) is ROSTER.zone_groups((7,))
