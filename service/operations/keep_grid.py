"""Keeping the grid what Postgres says: creating days, repairing coach-days, comparing.

All of it is optimistic: announce, read Postgres, write only if nothing was settled in between. So it runs
beside bookings, and two processes doing the same cost time, never truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from service.claims.grid import ColumnState, GridStore, PendingEntry
from service.claims.scripts import DeriveOutcome, Differences
from service.clock import Clock
from service.db.rosters import DaySource, RecordedChange, RosterStore
from service.domain.calendar import Roster
from service.domain.grid import day_of
from service.domain.plane import cells_mask, differing_columns, plane_of
from service.domain.schedule import open_cells
from service.errors import Unavailable
from service.metrics import Metrics
from service.operations.rosters import Rosters, grid_days

# A day that is settled into all the time is looked at again and again, but a request waits only so long for it.
PATIENCE_S = 4.0


def open_by_column(source: DaySource, day: int) -> dict[int, int]:
    """The open cells of each column on a day, from hours, overrides and closed periods."""
    return {
        column: open_cells(schedule, day, closed=source.closed.get(column, ()))
        for column, schedule in source.schedules.items()
    }


def occupied_by_column(source: DaySource, day: int) -> dict[int, int]:
    """The occupied cells of each column on a day, from live appointments."""
    cells: dict[int, int] = {}
    for placement in source.placements:
        mask = cells_mask(day, placement.first_cell, placement.last_cell)
        cells[placement.column] = cells.get(placement.column, 0) | mask
    return cells


def counts_by_column(source: DaySource, columns: int) -> list[int]:
    """Live appointments of each column on the local date."""
    counts = [0] * columns
    for placement in source.counted:
        counts[placement.column] += 1
    return counts


def known_in(source: DaySource) -> list[str]:
    """`known_time` of every appointment in the source."""
    return sorted(
        {known_time(p.appointment, p.column, p.first_cell, p.last_cell) for p in (*source.placements, *source.counted)}
    )


def ended_in(pending: Mapping[str, PendingEntry], changes: Mapping[str, RecordedChange]) -> list[str]:
    """`ended_time` of every pending time that nobody will free any more, by what the record says of its change.

    A committed claim is settled, which frees nothing, so where its appointment has left that time it is free. A
    committed move will free its old time, not the new one that may have been left again. One that is not committed will
    free the new one, and never is once its appointment is not where it was claimed from.
    """
    ended: list[str] = []
    for token, entry in pending.items():
        change = changes.get(token)
        if change is None or entry.kind == "release":
            continue
        if change.committed:
            ended.append(ended_time(token, "new"))
        elif entry.kind == "move":
            old = (entry.old_column, entry.old_start_cell, entry.old_start_cell + entry.old_cells)
            if change.live != old:
                ended.append(ended_time(token, "old"))
    return ended


def ended_time(token: str, side: str) -> str:
    """How the scripts name a time of a pending entry that holds no longer: `new`, or of a move also `old`."""
    return f"{token}:{side}"


def known_time(appointment: str, column: int, first_cell: int, last_cell: int) -> str:
    """How the scripts name an appointment's (32 hex digits) time `[first_cell, last_cell)` with a coach."""
    return f"{appointment}:{column}:{first_cell}:{last_cell}"


def _changes(pending: Mapping[str, PendingEntry], column: int | None = None) -> list[tuple[str, str]]:
    """(token, appointment) of the pending claims and moves, of a column's where it is given."""
    return [
        (token, entry.appointment)
        for token, entry in pending.items()
        if entry.kind != "release" and (column is None or column in (entry.column, entry.old_column))
    ]


class GridKeeper:
    """Derives, repairs and compares the grid of any organization."""

    def __init__(self, store: RosterStore, grid: GridStore, rosters: Rosters, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._grid = grid
        self._rosters = rosters
        self._clock = clock
        self._differences = metrics.grid_differences
        self._deriving: dict[tuple[int, int], asyncio.Task[None]] = {}

    async def derive(self, org: int, days: Iterable[int]) -> None:
        """Create the days that are missing; concurrent wishes for the same day share one derivation.

        Raises Unavailable when Redis or Postgres does not answer, or bookings kept changing the day meanwhile.
        """
        for day in days:
            task = self._deriving.get((org, day))
            if task is None:
                task = asyncio.ensure_future(self._derive_day(org, day))
                self._deriving[(org, day)] = task
                task.add_done_callback(lambda _, key=(org, day): self._deriving.pop(key, None))
            await asyncio.shield(task)

    async def _derive_day(self, org: int, day: int) -> None:
        roster = await self._rosters.get(org)
        give_up = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < give_up:
            nonce = await self._grid.mark_day(org, day)
            pending = await self._grid.pending_of(org)
            source = await self._store.day_source(roster, day, changes=_changes(pending))
            outcome = await self._grid.derive_day(
                roster,
                day,
                nonce,
                open_plane=plane_of(open_by_column(source, day), roster.width),
                occupied=plane_of(occupied_by_column(source, day), roster.width),
                counts=counts_by_column(source, roster.width * 8),
                known=[*known_in(source), *ended_in(pending, source.changes)],
            )
            if outcome in (DeriveOutcome.DERIVED, DeriveOutcome.PRESENT):
                return
            if outcome is DeriveOutcome.STALE:
                roster = await self._rosters.refresh(org, roster)
        raise Unavailable(f"day {day} of the grid kept changing while it was derived")

    async def fill(self, org: int) -> int:
        """Create every missing day up to the horizon; how many there were.

        A roster in Redis of another version than Postgres' is one whose publisher died in between: it is published,
        and every day is compared, because its hours may not have been repaired either.
        """
        roster = await self._rosters.get(org)
        published = await self._grid.has_roster(org)
        if roster.version != await self._store.version(org):
            roster = await self._rosters.refresh(org, roster)
        if published != roster.version:
            await self._rosters.publish(roster)
            if published is not None:
                for day in grid_days(roster, day_of(self._clock.now())):
                    await self.check_day(org, day, write=True)
        missing = await self._grid.missing_days(org, grid_days(roster, day_of(self._clock.now())))
        await self.derive(org, missing)
        return len(missing)

    async def repair(
        self, org: int, columns: Sequence[int], days: Iterable[int], *, write: bool = True, ended: Sequence[str] = ()
    ) -> Differences:
        """Make coach-days what Postgres says (or only compare); returns all differences together.

        `ended` are times of pending entries, as `ended_time` names them, that hold no longer whatever is pending.

        A day that is not in Redis is no difference: it will be derived when it is needed.
        """
        roster = await self._rosters.get(org)
        opened = occupied = counted = revision = 0
        for day in days:
            for column in columns:
                found = await self._repair_one(roster, day, column, ended, write=write)
                opened, occupied, counted = opened + found.open, occupied + found.occupied, counted + found.count
                revision = max(revision, found.revision)
        outcome = DeriveOutcome.REPAIRED if write else DeriveOutcome.COMPARED
        return Differences(outcome, opened, occupied, counted, revision)

    async def _repair_one(
        self, roster: Roster, day: int, column: int, ended: Sequence[str] = (), *, write: bool
    ) -> Differences:
        give_up = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < give_up:
            nonce = await self._grid.mark_coach_day(roster.org, day, column)
            pending = await self._grid.pending_of(roster.org)
            source = await self._store.day_source(roster, day, [column], _changes(pending, column))
            state = ColumnState(
                open=open_by_column(source, day).get(column, 0),
                occupied=occupied_by_column(source, day).get(column, 0),
                count=len(source.counted),
                known=(*known_in(source), *ended_in(pending, source.changes), *ended),
            )
            found = await self._grid.repair_coach_day(roster, day, column, nonce, state, write=write)
            if found.outcome is DeriveOutcome.STALE:
                roster = await self._rosters.refresh(roster.org, roster)
            elif found.outcome is not DeriveOutcome.CHANGED:
                return found
        raise Unavailable(f"coach-day {roster.org}:{day}:{column} kept changing while it was looked at")

    async def check_day(self, org: int, day: int, *, write: bool, unnoted: bool = False) -> Differences:
        """Compare a whole day with Postgres and look closer at the coaches that seem to differ (and repair them).

        `unnoted`: only at those of whom nobody noted that something changed without the grid and is to be repaired.
        Cheap where all is well: one read of each side. The closer look is the script's, which knows what is pending.
        """
        roster = await self._rosters.current(org)  # by an older one the rows would be cut in other places
        columns = roster.width * 8
        read = await self._grid.read(org, range(day, day + 1), [day])
        counts = await self._grid.read_counts(org, day, columns)
        planes = read.days[0]
        if planes is None or counts is None or read.full[day] is None:
            return Differences(DeriveOutcome.UNKNOWN_DAY, 0, 0, 0)
        source = await self._store.day_source(roster, day)
        wanted_counts = counts_by_column(source, columns)
        suspects = {column for column in range(columns) if counts[column] != wanted_counts[column]}
        full = int.from_bytes(read.full[day] or b"", "big")
        limits = {coach.column: coach.max_daily_appointments for coach in roster.coaches}
        for column, limit in limits.items():
            is_full = full >> (columns - 1 - column) & 1
            if is_full != (counts[column] >= limit):
                suspects.add(column)
        expected = (open_by_column(source, day), occupied_by_column(source, day))
        for plane, cells in zip(planes, expected, strict=True):
            differing = differing_columns(plane, plane_of(cells, roster.width), roster.width)
            suspects.update(column for column in differing if column in limits)
        if unnoted and suspects:
            suspects -= await self._store.columns_to_repair(org)
        found = await self.repair(org, sorted(suspects), [day], write=write)
        self._differences.inc(found.total)
        return found
