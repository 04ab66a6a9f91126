"""Showing the grid what was changed without it, so that claims may be made by it again.

Whatever is booked, moved or cancelled while Redis cannot be asked, and whatever changes a coach's hours, leaves its
coach-days in Postgres. Until they are repaired no claim on them is committed; whoever finds one fenced repairs it and
claims again, and the worker repairs the rest.
"""

from __future__ import annotations

from service.claims.breaker import GateBreaker, Trip
from service.claims.grid import GridStore
from service.clock import Clock
from service.db.gate import GateStore, Repair
from service.db.rosters import RosterStore
from service.domain.calendar import Roster
from service.domain.grid import day_of
from service.errors import GateClosed
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.keep_deficits import KeepDeficits
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import Rosters, grid_days

# A booking in between spoils a repair of deficits; what is not right by then is looked at in the next round.
LOOKS = 3

_log = get_logger("operations.heal_grid")


class HealGrid:
    """Repairs what is noted. Raises Unavailable or OutcomeUnknown; what was repaired by then is noted so."""

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
        self._clock = clock
        self._repaired = metrics.grid_repairs
        self._waiting = metrics.grid_repairs_waiting

    async def __call__(self) -> int:
        """Repair everything that waits; how many notes that were."""
        done = 0
        while found := await self._store.repairs():
            self._waiting.set(len(found))
            places: dict[tuple[int, int], list[Repair]] = {}
            for repair in found:
                places.setdefault((repair.days.org, repair.days.column), []).append(repair)
            for (org, column), repairs in places.items():
                await self._repair(org, column, repairs)
            done += len(found)
        self._waiting.set(0)
        for org, numbers in await self._store.owed():
            for _ in range(LOOKS):
                if not await self._deficits.repair(org):
                    await self._store.owed_looked_at(org, numbers)
                    break
        return done

    async def coach(self, org: int, column: int) -> int:
        """Repair what waits of one coach; also learn whether the grid is of an epoch that is over."""
        epoch, _ = await self._store.epoch()
        if epoch != self._breaker.epoch:
            self._breaker.trip(Trip.SUSPECT)
            raise GateClosed("the grid is of an epoch that is over")
        repairs = await self._store.repairs(org, column)
        if repairs:
            await self._repair(org, column, repairs)
        return len(repairs)

    async def _repair(self, org: int, column: int, repairs: list[Repair]) -> None:
        epoch = self._breaker.epoch
        roster = await self._shown_roster(org)
        kept = grid_days(roster, day_of(self._clock.now()))
        # One more: past midnight somebody may be creating it from what was read before.
        days = sorted(
            {
                day
                for repair in repairs
                for day in range(max(repair.days.first, kept.start), min(repair.days.last, kept.stop) + 1)
            }
        )
        present, revision = await self._grid.days_to_repair(org, days)
        found = await self._keeper.repair(org, [column], present)
        # Nobody may take a repair made in an epoch for one of the next: what it repaired is gone then.
        if self._breaker.epoch != epoch:
            raise GateClosed("the grid was thrown away while it was repaired")
        await self._store.repaired(org, [repair.number for repair in repairs], epoch, max(revision, found.revision))
        self._repaired.inc(len(repairs))
        _log.info("grid repaired", org=org, column=column, days=len(present), differences=found.total)

    async def _shown_roster(self, org: int) -> Roster:
        """The roster as it is now, which is also the one beside the grid."""
        roster = await self._rosters.get(org)
        if roster.version != await self._roster_store.version(org):
            roster = await self._rosters.refresh(org, roster)
        if await self._grid.has_roster(org) != roster.version:
            await self._rosters.publish(roster)
        return roster
