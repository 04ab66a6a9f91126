"""Comparing the grid with Postgres all the time, a day at a time, and putting right what differs.

Whatever got past claim, settle and release (Redis emptied at an awkward moment, a crash between two calls) hides
time or offers what the constraint will refuse; here that ends within a sweep.
"""

from __future__ import annotations

from service.clock import Clock
from service.db.rosters import RosterStore
from service.domain.grid import day_of
from service.logs import get_logger
from service.operations.keep_deficits import KeepDeficits
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import Rosters, grid_days

_log = get_logger("operations.watch_grid")


class WatchGrid:
    """One day of one organization a call, in turn, and after its last one what its coaches are owed.

    That is added up from all live appointments; of an organization with very many only `rebuild` and `verify` do it.
    """

    def __init__(
        self, store: RosterStore, rosters: Rosters, keeper: GridKeeper, deficits: KeepDeficits, clock: Clock
    ) -> None:
        self._store = store
        self._rosters = rosters
        self._keeper = keeper
        self._deficits = deficits
        self._clock = clock
        self._left: list[tuple[int, int]] = []

    async def __call__(self) -> int:
        """Compare the next day and repair it; how many cells and counts differed. Raises Unavailable."""
        if not self._left:
            today = day_of(self._clock.now())
            for org, _ in await self._store.organizations():
                self._left += [(org, day) for day in grid_days(await self._rosters.get(org), today)]
            self._left.reverse()
        if not self._left:
            return 0
        org, day = self._left.pop()
        found = (await self._keeper.check_day(org, day, write=True, unnoted=True)).total
        if found:
            _log.warning("grid repaired", org=org, day=day, differences=found)
        if not any(other == org for other, _ in self._left) and not await self._store.has_many_live(org):
            owed = await self._deficits.repair(org)
            if owed:
                _log.warning("deficits repaired", org=org, columns=owed)
            found += owed
        return found
