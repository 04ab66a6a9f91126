"""What each coach is owed, in Redis as in Postgres: comparing the two accounts, and putting Redis' right."""

from __future__ import annotations

import asyncio

from service.claims.grid import GridStore
from service.db.rosters import RosterStore
from service.operations.rosters import Rosters

LOOKS = 5
PAUSE_S = 0.2


class KeepDeficits:
    """Compares and repairs the deficits of an organization. Raises Unavailable."""

    def __init__(self, store: RosterStore, grid: GridStore, rosters: Rosters) -> None:
        self._store = store
        self._grid = grid
        self._rosters = rosters

    async def compare(self, org: int, looks: int = LOOKS) -> tuple[list[int], dict[int, int]]:
        """(deficits in Redis, what Postgres says of the columns that differ), looked at while nothing is pending.

        Bookings under way make the two sides differ for a moment, so a difference counts only when it stays; after
        `looks` looks amid bookings the last one counts.
        """
        seen, differing, _ = await self._compare(org, looks)
        return seen, differing

    async def _compare(self, org: int, looks: int) -> tuple[list[int], dict[int, int], bool]:
        """The same, and whether nothing was pending throughout the last look."""
        seen, differing = list[int](), dict[int, int]()
        for look in range(looks):
            if look:
                await asyncio.sleep(PAUSE_S)
            version = await self._grid.has_roster(org)
            if version is None:
                return [], {}, True
            roster = await self._rosters.of_version(org, version)
            columns = roster.width * 8
            before = await self._grid.deficits(org, columns)
            # Twice: a claim in `before` may be committed after Postgres was read, and settled before the second look.
            pending = bool(await self._grid.pending_of(org))
            wanted = await self._store.deficits(roster)
            pending = bool(await self._grid.pending_of(org)) or pending
            after = await self._grid.deficits(org, columns)
            seen = after
            differing = {c: wanted.get(c, 0) for c in range(columns) if after[c] != wanted.get(c, 0)}
            if not differing or (before == after and not pending):
                return seen, differing, True
        return seen, differing, False

    async def repair(self, org: int) -> int:
        """Put right what differs, unless a booking changes it meanwhile; how many columns differed."""
        seen, differing, quiet = await self._compare(org, LOOKS)
        if differing and quiet:
            await self._grid.set_deficits(org, differing, seen)
        return len(differing)
