"""Showing the grid what was changed without it, so that claims may be made by it again.

Whatever is booked, moved or cancelled while Redis cannot be asked, and whatever changes a coach's hours, leaves its
coach-days in Postgres. Until they are repaired no claim on them is committed; whoever finds one fenced repairs it and
claims again, and the loops beside the API repair the rest.
"""

from __future__ import annotations

import asyncio

from service.claims.breaker import GateBreaker, Trip
from service.claims.grid import GridStore
from service.clock import Clock
from service.db.gate import GateStore, Repair
from service.db.rosters import RosterStore
from service.domain.calendar import Roster
from service.domain.grid import day_of
from service.errors import BookingError, GateClosed
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.keep_deficits import KeepDeficits
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import FURTHEST_DAYS, Rosters
from service.operations.tracking import TrackedTasks

_AT_ONCE = 200

_log = get_logger("operations.heal_grid")


class HealGrid:
    """Repairs what is noted. Raises Unavailable; what was repaired by then is noted so."""

    def __init__(
        self,
        *,
        store: GateStore,
        breaker: GateBreaker,
        keeper: GridKeeper,
        deficits: KeepDeficits,
        grid: GridStore,
        rosters: Rosters,
        roster_store: RosterStore,
        tasks: TrackedTasks,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._breaker = breaker
        self._keeper = keeper
        self._deficits = deficits
        self._grid = grid
        self._rosters = rosters
        self._roster_store = roster_store
        self._tasks = tasks
        self._clock = clock
        self._repairing: dict[tuple[int, int], tuple[frozenset[int], asyncio.Task[None]]] = {}
        self._repaired = metrics.grid_repairs
        self._waiting = metrics.grid_repairs_waiting

    async def __call__(self) -> int:
        """Repair everything that waits; for how many coaches that was. What failed of it is raised in the end."""
        done, failed, problem = 0, dict[tuple[int, int], int](), None
        while True:
            waiting = await self._store.repairs(most=_AT_ONCE + len(failed))
            found = [repair for repair in waiting if (repair.org, repair.column) not in failed]
            self._waiting.set(sum(failed.values()) + sum(len(repair.numbers) for repair in found))
            if not found:
                break
            for repair in found:
                try:
                    await self._repair_once(repair)
                    done += 1
                except GateClosed:
                    raise
                except BookingError as its:  # one that cannot be repaired must not keep all others waiting
                    problem = problem or its
                    failed[repair.org, repair.column] = len(repair.numbers)
        if problem is not None:
            raise problem
        return done

    async def owed(self) -> int:
        """Look at what coaches are owed where appointments were changed without Redis; how many accounts differed."""
        differed = 0
        for org, numbers in await self._store.owed():
            found = await self._deficits.repair(org)
            if not found:
                await self._store.owed_looked_at(org, numbers)
            differed += found
        return differed

    async def coach(self, org: int, column: int) -> int:
        """Repair what waits of one coach (0: nothing did); also learn whether the grid is of an epoch that is over."""
        epoch, _ = await self._store.epoch()
        if epoch != self._breaker.epoch:
            self._breaker.trip(Trip.SUSPECT)
            raise GateClosed("the grid is of an epoch that is over")
        repairs = await self._store.repairs(org, column)
        for repair in repairs:
            await self._repair_once(repair)
        return len(repairs)

    async def _repair_once(self, repair: Repair) -> None:
        """Repair a coach's days; who wants the same at once waits for the one who does it.

        Whoever began before the last note was made does not repair that: it is waited for and followed by another.
        """
        place = (repair.org, repair.column)
        while (under_way := self._repairing.get(place)) is not None:
            numbers, task = under_way
            if numbers.issuperset(repair.numbers):
                await asyncio.shield(task)
                return
            await asyncio.wait({task})
        # Who asked may be stopped: what is under way ends before the connections it needs are closed.
        task = self._tasks.begin(self._repair(repair))
        self._repairing[place] = (frozenset(repair.numbers), task)
        task.add_done_callback(lambda _: self._repairing.pop(place, None))
        await asyncio.shield(task)

    async def _repair(self, repair: Repair) -> None:
        epoch, org = self._breaker.epoch, repair.org
        await self._shown_roster(org)
        days = sorted({day for first, last in repair.ranges for day in await self._days(first, last)})
        present, revision = await self._grid.days_to_repair(org, days)
        found = await self._keeper.repair(org, [repair.column], present)
        # Nobody may take a repair made in an epoch for one of the next: what it repaired is gone then.
        if self._breaker.epoch != epoch:
            raise GateClosed("the grid was thrown away while it was repaired")
        await self._store.repaired(repair, epoch, max(revision, found.revision))
        self._repaired.inc(len(repair.numbers))
        _log.info("grid repaired", org=org, column=repair.column, days=len(present), differences=found.total)

    async def _days(self, first: int, last: int) -> range | set[int]:
        """The days from `first` to `last` that the grid may have."""
        if last - first <= FURTHEST_DAYS:
            return range(first, last + 1)
        # By two clocks: a day that is there and passed over would never be repaired.
        clocks = (day_of(self._clock.now()), await self._grid.now_ms() // 86_400_000)
        return {day for today in clocks for day in range(today - 3, today + FURTHEST_DAYS)}

    async def _shown_roster(self, org: int) -> Roster:
        """The roster as it is now, which is also the one beside the grid."""
        roster = await self._rosters.get(org)
        if roster.version != await self._roster_store.version(org):
            roster = await self._rosters.refresh(org, roster)
        if await self._grid.has_roster(org) != roster.version:
            await self._rosters.publish(roster)
        return roster
