"""Changing what an organization's roster is made of, and making everybody decide by the change at once.

After the commit the roster in Redis gets the new version first: whoever still holds an older one is told so by
the grid and can neither claim nor derive a day by it. Then the hours and limits of the coaches concerned are put
right. Appointments are not touched by any of it: what is occupied and counted comes from them, what is open from
the hours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

from service.claims.grid import GridStore
from service.clock import Clock
from service.db.people import PeopleStore, RosterChange
from service.domain.grid import day_of
from service.errors import OutcomeUnknown, Unavailable
from service.logs import get_logger
from service.operations.heal_grid import HealGrid
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import FURTHEST_DAYS, Rosters, grid_days

AT_ONCE = 4

_log = get_logger("operations.change_roster")


class ChangeRoster:
    """A transaction over one organization's coaches, calendars and hours that shows what it has committed."""

    def __init__(
        self,
        people: PeopleStore,
        *,
        rosters: Rosters,
        keeper: GridKeeper,
        heal: HealGrid,
        grid: GridStore,
        clock: Clock,
    ) -> None:
        self._heal = heal
        self._people = people
        self._rosters = rosters
        self._keeper = keeper
        self._grid = grid
        self._clock = clock

    @asynccontextmanager
    async def __call__(self, org: int) -> AsyncGenerator[RosterChange]:
        """The change is committed and shown when the block ends; a block that fails changes nothing.

        Raises AlreadyExists, Unavailable or OutcomeUnknown. Once it is committed nothing fails: what Redis could not
        be told is logged.
        """
        columns: Collection[int] = ()
        version: int | None = None
        try:
            async with self._people.change(org) as change:
                columns, version = change.columns, change.version
                yield change
        except OutcomeUnknown:
            await self._show(org, None, columns)
            raise
        await self._show(org, version, columns)

    async def _show(self, org: int, version: int | None, columns: Collection[int]) -> None:
        try:
            await self._publish(org, version)
            await self._put_right(org, sorted(columns))
        except Unavailable as problem:
            _log.warning("roster change not shown", org=org, version=version, error=problem.message)

    async def _publish(self, org: int, version: int | None) -> None:
        """Publish the roster of at least `version`; None: as it is now."""
        roster = await self._rosters.get(org)
        if version is None:
            roster = await self._rosters.refresh(org, roster)
        # A refresh under way may have read the roster before our commit, and is what we are given then.
        while version is not None and roster.version < version:
            roster = await self._rosters.refresh(org, roster)
        if (await self._grid.has_roster(org) or 0) < roster.version:
            await self._rosters.publish(roster)

    async def _put_right(self, org: int, columns: list[int]) -> None:
        today = day_of(self._clock.now())
        days = grid_days(await self._rosters.get(org), today)
        # Days that a longer horizon left behind: nobody keeps them right, and time would bring them back.
        await self._grid.forget_days(org, range(days.stop, today + FURTHEST_DAYS))
        places = asyncio.Semaphore(AT_ONCE)

        async def put_right(column: int) -> None:
            async with places:
                # Most changes are noted as such: until they are repaired no claim on those days is committed.
                if not await self._heal.coach(org, column):
                    await self._keeper.repair(org, [column], days)

        await asyncio.gather(*map(put_right, columns))
