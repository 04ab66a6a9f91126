"""The grid as Postgres says, for as long as Redis cannot be asked: the same planes, and the same rule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from service.batching import Batcher
from service.claims.grid import PlanesRead
from service.db.rosters import DaySource, RosterStore
from service.domain.calendar import Roster
from service.domain.coach_grid import CoachGrid, DayColumns
from service.domain.grid import columns_mask
from service.domain.plane import plane_of
from service.errors import Unavailable
from service.logs import get_logger
from service.operations.keep_grid import counts_by_column, occupied_by_column, open_by_column
from service.operations.rosters import Rosters

READS_AT_ONCE = 4
DEFICITS_LIVE_S = 30.0

_log = get_logger("operations.postgres_grids")


@dataclass(frozen=True, slots=True)
class _DayWanted:
    roster: Roster
    day: int


@dataclass(frozen=True, slots=True)
class _Day:
    """The planes of a UTC day, and the full row of the local date with the same number."""

    open: bytes
    occupied: bytes
    full: bytes

    @classmethod
    def of(cls, roster: Roster, source: DaySource, day: int) -> _Day:
        width = roster.width
        counts = counts_by_column(source, width * 8)
        reached = [c.column for c in roster.coaches if counts[c.column] >= c.max_daily_appointments]
        return cls(
            plane_of(open_by_column(source, day), width),
            plane_of(occupied_by_column(source, day), width),
            columns_mask(reached, width).to_bytes(width, "big"),
        )


class PostgresGrids:
    """Derives days of the grid from Postgres, without keeping them."""

    def __init__(self, store: RosterStore, rosters: Rosters) -> None:
        self._store = store
        self._rosters = rosters
        # A day that many ask for is read once for all who asked before the read began; never for who asked later. It is
        # made into planes once, too: of a large team that is most of the work.
        self._days: Batcher[_DayWanted, _Day] = Batcher(self._read_days, most=256, lanes=READS_AT_ONCE)
        self._deficits: dict[int, tuple[float, dict[int, int]]] = {}

    async def drain(self) -> None:
        """Wait until every read has come back."""
        await self._days.drain()

    async def read(self, roster: Roster, days: range, local_days: Sequence[int]) -> PlanesRead:
        """Planes of the UTC days and full rows of the local days, as of now. Raises Unavailable."""
        wanted = sorted({*days, *local_days})
        found = await asyncio.gather(*(self._days.submit(_DayWanted(roster, day)) for day in wanted))
        read = dict(zip(wanted, found, strict=True))
        planes: list[tuple[bytes, bytes] | None] = [(read[day].open, read[day].occupied) for day in days]
        return PlanesRead(planes, {day: read[day].full for day in local_days})

    async def _read_days(self, wanted: list[_DayWanted]) -> list[_Day]:
        found: dict[tuple[int, int, int], _Day] = {}
        for one in wanted:
            key = (one.roster.org, one.roster.version, one.day)
            if key not in found:
                found[key] = _Day.of(one.roster, await self._store.day_source(one.roster, one.day), one.day)
        return [found[one.roster.org, one.roster.version, one.day] for one in wanted]

    async def roster(self, connection: Any, org: int) -> Roster:
        """The roster as a transaction sees it, or a newer one. Raises Unavailable."""
        roster = await self._rosters.get(org)
        version = await self._store.version_within(connection, org)
        while roster.version < version:
            roster = await self._rosters.refresh(org, roster)
        return roster

    async def grid(self, connection: Any, roster: Roster, columns: Iterable[int], days: Iterable[int]) -> CoachGrid:
        """Days of some coaches as a transaction sees them.

        Deficits are those that `remember_deficits` read, carried on from there.
        """
        wanted = sorted(set(columns))
        grid = CoachGrid(roster, deficits=self._deficits.setdefault(roster.org, (0.0, {}))[1])
        for day in sorted(set(days)):
            source = await self._store.day_source_within(connection, roster, day, wanted)
            counts = counts_by_column(source, roster.width * 8)
            grid.days[day] = DayColumns(
                open_by_column(source, day), occupied_by_column(source, day), {c: counts[c] for c in wanted}
            )
        return grid

    async def remember_deficits(self, org: int) -> None:
        """Read what the coaches are owed, unless that was done a while ago.

        That is reading every appointment: not in a transaction others wait for, and nobody is refused for it.
        """
        now = asyncio.get_running_loop().time()
        read_at, owed = self._deficits.get(org, (0.0, {}))
        if read_at and now - read_at <= DEFICITS_LIVE_S:
            return
        self._deficits[org] = (now, owed)
        try:
            self._deficits[org] = (now, await self._store.deficits(await self._rosters.get(org)))
        except Unavailable as problem:
            _log.info("deficits not read", org=org, error=problem.message)
