"""What Postgres knows of the gate: the epoch of claims, and coach-days that were changed without Redis.

Whoever decides without Redis does so in a transaction that holds the gate's lock alone: no claim made in Redis is
committed meanwhile, so what it reads there stays true until its own commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from service.db.connection import Database
from service.db.statements import statement
from service.domain.grid import day_start
from service.errors import OutcomeUnknown, Unavailable

ALONE_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class CoachDays:
    """A coach's column and the days `[first, last]` of the grid that a change shows in."""

    org: int
    column: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Repair:
    """What waits to be repaired of one coach: ranges of days `(first, last)`, and the numbers they were noted under."""

    org: int
    column: int
    ranges: tuple[tuple[int, int], ...]
    numbers: tuple[int, ...]


class GateStore:
    """Reads and writes of it. Raises Unavailable; only `renew` and `alone` also OutcomeUnknown."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Whoever waits for the lock holds a connection, and who has it may need another.
        self._alone = asyncio.Semaphore(ALONE_AT_ONCE)

    async def epoch(self) -> tuple[int, str | None]:
        """(the epoch, the run id of the Redis server it began with)."""
        row = await self._database.first("gate_epoch")
        if row is None:
            raise LookupError("the gate has no row")
        return row["epoch"], row["server"]

    async def renew(self, server: str) -> int:
        """End the epoch and begin the next: when it returns no claim of before can be committed any more."""
        async with self.alone() as connection:
            return await connection.fetchval(statement("renew_gate"), server)

    async def wait_for_commits(self) -> None:
        """Wait until what was being committed, claimed in Redis or decided without it, is there to be seen."""
        try:
            async with self.alone():
                pass
        except OutcomeUnknown as problem:
            raise _again(problem) from problem

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[Any]:
        """A transaction beside which nobody commits a claim; rolled back when the block fails."""
        async with self._alone, self._database.transaction() as connection:
            await connection.execute(statement("lock_gate"))
            yield connection

    async def repairs(self, org: int | None = None, column: int | None = None, *, most: int = 200) -> list[Repair]:
        """What waits to be repaired, a coach each, whoever waits longest first."""
        return [
            Repair(
                row["org_id"],
                row["coach_no"],
                tuple((_day(span.lower), _day(span.upper) - 1) for span in row["spans"]),
                tuple(row["repair_ids"]),
            )
            for row in await self._database.fetch("repairs_to_make", org, column, most)
        ]

    async def note(self, days: CoachDays) -> None:
        """Note coach-days that could not be repaired at once."""
        try:
            async with self._database.transaction() as connection:
                await note_repairs(connection, [days])
        except OutcomeUnknown as problem:
            raise _again(problem) from problem

    async def repaired(self, repair: Repair, epoch: int, revision: int) -> None:
        """Note that the grid shows them as of that revision of the roster."""
        firsts = [day_start(first).date() for first, _ in repair.ranges]
        lasts = [day_start(last).date() for _, last in repair.ranges]
        await self._write(
            "repairs_made", repair.org, repair.column, list(repair.numbers), firsts, lasts, epoch, revision
        )

    async def owed(self) -> list[tuple[int, list[int]]]:
        """(organization, numbers of repairs) where appointments were changed and nobody looked at deficits since."""
        return [(row["org_id"], row["repair_ids"]) for row in await self._database.fetch("repairs_owed")]

    async def owed_looked_at(self, org: int, numbers: Sequence[int]) -> None:
        """Note that the deficits of the organization are right as of those repairs."""
        await self._write("owed_looked_at", org, list(numbers))

    async def forget(self, older_s: float) -> None:
        """Remove repairs that were made so long ago that no claim of before is left."""
        await self._write("forget_repairs", timedelta(seconds=older_s))

    async def _write(self, name: str, *arguments: Any) -> None:
        try:
            await self._database.write(name, *arguments)
        except OutcomeUnknown as problem:
            raise _again(problem) from problem

    async def waiting(self) -> int:
        """How many repairs wait."""
        row = await self._database.first("count_repairs")
        return 0 if row is None else row["waiting"]


def _again(problem: OutcomeUnknown) -> Unavailable:
    """Whether it was done or not: doing it again does no harm, and that is all anybody has to know."""
    return Unavailable(problem.message)


async def note_repairs(connection: Any, repairs: Sequence[CoachDays]) -> None:
    """Note, within a transaction, the coach-days it changes without the grid."""
    if repairs:
        await connection.execute(
            statement("note_repairs"),
            [one.org for one in repairs],
            [one.column for one in repairs],
            [day_start(one.first).date() for one in repairs],
            [day_start(one.last).date() for one in repairs],
        )


def _day(date: Any) -> int:
    return (date - day_start(0).date()).days
