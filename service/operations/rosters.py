"""The rosters this process decides by, and their publication beside the grid.

A roster is kept until the grid says that it is stale; then it is read again. So no request pays for reading
it, and none decides by an old one.
"""

from __future__ import annotations

import asyncio

from service.claims.grid import GridStore
from service.clock import Clock
from service.db.rosters import RosterStore
from service.domain.calendar import Roster
from service.domain.grid import day_of
from service.errors import Unavailable
from service.logs import get_logger

_log = get_logger("operations.rosters")


# No calendar can be booked further ahead, and the grid has two days more.
FURTHEST_DAYS = 366 + 3


def grid_days(roster: Roster, today: int) -> range:
    """The days the grid should hold: yesterday to two days past the horizon."""
    return range(today - 1, today + roster.horizon_days + 3)


class Rosters:
    """Rosters by organization."""

    def __init__(self, store: RosterStore, grid: GridStore, clock: Clock) -> None:
        self._store = store
        self._grid = grid
        self._clock = clock
        self._kept: dict[int, Roster] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    async def get(self, org: int) -> Roster:
        """The organization's roster as last seen. Raises Unavailable when it must be read and cannot."""
        kept = self._kept.get(org)
        return kept if kept is not None else await self.refresh(org, None)

    def kept(self, org: int) -> Roster | None:
        """The organization's roster as last seen; None when it was never asked for."""
        return self._kept.get(org)

    async def current(self, org: int) -> Roster:
        """The roster as every process knows it now: read again where the one beside the grid is another.

        For who would refuse by a roster, or look at nothing else. Raises Unavailable when it must be read and cannot.
        """
        await self.get(org)
        try:
            version = await self._grid.has_roster(org)
        except Unavailable:
            version = await self._store.version(org)
        return await self.of_version(org, version)

    async def of_version(self, org: int, version: int | None) -> Roster:
        """The roster of that version, seen beside the grid, or a newer one; None: there is none beside the grid."""
        kept = await self.get(org)
        if kept.version != version:
            kept = await self.refresh(org, kept)
            # A refresh under way may have read the roster before that version was committed, and is what we are given.
            if version is not None and kept.version < version:
                kept = await self.refresh(org, kept)
        return kept

    async def refresh(self, org: int, seen: Roster | None) -> Roster:
        """The roster read again and published, unless somebody else just did after `seen` was looked at."""
        async with self._locks.setdefault(org, asyncio.Lock()):
            kept = self._kept.get(org)
            if kept is not None and kept is not seen:
                return kept
            roster = await self._store.load(org)
            try:
                await self.publish(roster)
            except Unavailable as problem:
                _log.warning("roster not published", org=org, error=problem.message)
            self._kept[org] = roster
            return roster

    async def publish(self, roster: Roster) -> None:
        """Put a roster beside its grid. Raises Unavailable."""
        deficits = [0] * (roster.width * 8)
        if await self._grid.has_roster(roster.org) is None:
            try:
                for column, units in (await self._store.deficits(roster)).items():
                    if column < len(deficits):  # else of a coach who came after this roster was read
                        deficits[column] = units
            except Unavailable as problem:
                # Who is owed what can be put right later; without a roster nobody could be booked at all.
                _log.warning("deficits not read", org=roster.org, error=problem.message)
        outcome, _ = await self._grid.publish(roster, deficits, grid_days(roster, day_of(self._clock.now())))
        _log.info("roster published", org=roster.org, version=roster.version, outcome=outcome.value)
