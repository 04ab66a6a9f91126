"""Rebuilding Redis from Postgres while bookings go on, and verifying that the two agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.claims.grid import GridStore
from service.clock import Clock
from service.db.connection import Database
from service.db.rosters import RosterStore
from service.domain.grid import day_of
from service.operations.keep_deficits import KeepDeficits
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import Rosters, grid_days

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at one organization found.

    `overlaps` pairs of live appointments of one coach whose occupied times overlap; `differences` cells and counts
    in which the grid differs from Postgres; `unknown_days` days of the horizon not in Redis; `deficit_sum` the sum
    of Redis' deficits (0 when all is well); `deficit_differences` coaches whose deficit differs from Postgres' account.
    """

    organization: str
    overlaps: int
    differences: int
    unknown_days: int
    deficit_sum: int
    deficit_differences: int

    @property
    def holds(self) -> bool:
        """Whether everything agrees. A day that is not in Redis yet is no disagreement: it is derived when needed."""
        return not (self.overlaps or self.differences or self.deficit_sum or self.deficit_differences)


class Rebuild:
    """Makes the grid what Postgres says, or only looks whether it is."""

    def __init__(
        self,
        *,
        database: Database,
        store: RosterStore,
        grid: GridStore,
        rosters: Rosters,
        keeper: GridKeeper,
        deficits: KeepDeficits,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._grid = grid
        self._rosters = rosters
        self._keeper = keeper
        self._deficits = deficits
        self._clock = clock

    async def __call__(self, progress: Progress) -> int:
        """Rebuild every organization's grid; how many cells, counts and deficits were put right.

        `progress` is called with a word for each day done. Raises Unavailable.
        """
        repaired = 0
        for org, name in await self._store.organizations():
            roster = await self._rosters.refresh(org, None)
            await self._rosters.publish(roster)
            for day in grid_days(roster, day_of(self._clock.now())):
                await self._keeper.derive(org, [day])
                repaired += (await self._keeper.check_day(org, day, write=True)).total
                progress(name)
            repaired += await self._deficits.repair(org)
        return repaired

    async def steps(self) -> int:
        """How many times `progress` will be called."""
        steps = 0
        for org, _ in await self._store.organizations():
            steps += len(grid_days(await self._rosters.get(org), day_of(self._clock.now())))
        return steps

    async def verify(self, progress: Progress) -> list[Findings]:
        """Look at every organization without changing anything. Raises Unavailable."""
        found: list[Findings] = []
        for org, name in await self._store.organizations():
            roster = await self._rosters.get(org)
            differences = 0
            days = grid_days(roster, day_of(self._clock.now()))
            missing = await self._grid.missing_days(org, days)
            for day in days:
                if day not in missing:
                    differences += (await self._keeper.check_day(org, day, write=False)).total
                progress(name)
            overlaps = await self._database.first("count_overlaps", org)
            seen, differing = await self._deficits.compare(org)
            found.append(
                Findings(
                    name, overlaps["overlaps"] if overlaps else 0, differences, len(missing), sum(seen), len(differing)
                )
            )
        return found
