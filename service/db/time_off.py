"""When coaches are away, in Postgres: adding, looking at, removing and cutting periods.

A period overlaps others freely; each closes its time by itself. Answers that were lost are asked for again here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.db.idempotency import Complete, complete_within
from service.db.statements import statement
from service.errors import NotFound, OutcomeUnknown, Unavailable

ATTEMPTS = 4

Source = Literal["api", "calendar"]


class TimeOffRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A period `[start_time, end_time)`, UTC, at which the coach in `column` is away."""

    time_off_id: UUID
    column: int
    start_time: datetime
    end_time: datetime
    reason: str | None
    source: Source
    created_at: datetime | None = None


class TimeOffStore:
    """Reads and writes periods. Raises Unavailable; writes OutcomeUnknown too, when no attempt was answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, org: int, period: TimeOffRecord) -> TimeOffRecord:
        """Keep a period under its id; returned is what is kept, which is the older one when the id was known."""
        rows, _ = await self._written(
            "add_time_off",
            org,
            period.column,
            period.time_off_id,
            period.start_time,
            period.end_time,
            period.reason,
            period.source,
        )
        return _record(rows[0])

    async def page(
        self,
        org: int,
        column: int,
        start: datetime | None,
        end: datetime | None,
        most: int,
        after: tuple[datetime, UUID] | None,
    ) -> list[TimeOffRecord]:
        """At most `most` periods of a coach that touch `[start, end)`, by start, then id, beginning behind `after`."""
        rows = await self._database.fetch("list_time_off", org, column, start, end, most, *(after or (None, None)))
        return [_record(row) for row in rows]

    async def remove(
        self, org: int, column: int, time_off_id: UUID, complete: Complete[TimeOffRecord] | None = None
    ) -> TimeOffRecord:
        """Remove a period; what it was. Raises NotFound, and IdempotencyInProgress when the hold of its key is lost."""
        row = await self._database.first("get_time_off", org, column, time_off_id)
        if row is not None and complete is not None:
            # No second try here: whether the first one did it, the key's record tells the request that comes again.
            async with self._database.transaction() as connection:
                if await connection.fetchrow(statement("remove_time_off"), org, column, time_off_id) is None:
                    raise NotFound(f"no time off {str(time_off_id)!r}")
                return await complete_within(connection, complete, _record(row))
        rows, asked_again = await self._written("remove_time_off", org, column, time_off_id)
        # Only a lost answer makes it possible that it is gone because of ourselves.
        if row is None or not (rows or asked_again):
            raise NotFound(f"no time off {str(time_off_id)!r}")
        return _record(row)

    async def open(
        self, org: int, column: int, start: datetime, end: datetime, id_of_rest: Callable[[UUID], UUID]
    ) -> None:
        """Take `[start, end)` out of the external calendar's periods of a coach; those of the API stay.

        Of a period that goes on behind `end` and began before `start` two are left; `id_of_rest` names the later one by
        the id of the whole, so that doing it twice leaves the same.
        """
        async with self._database.transaction() as connection:
            for row in await connection.fetch(statement("calendar_time_off"), org, column, start, end):
                period = _record(row)
                one = (org, column, period.time_off_id)
                if period.start_time < start:
                    await connection.execute(statement("cut_time_off"), *one, period.start_time, start)
                    if period.end_time > end:
                        rest = (period.column, id_of_rest(period.time_off_id), end, period.end_time)
                        await connection.fetch(statement("add_time_off"), org, *rest, period.reason, period.source)
                elif period.end_time > end:
                    await connection.execute(statement("cut_time_off"), *one, end, period.end_time)
                else:
                    await connection.execute(statement("remove_time_off"), *one)

    async def appointments(self, org: int, column: int, start: datetime, end: datetime, now: datetime) -> list[UUID]:
        """Ids of the scheduled appointments of a coach that touch `[start, end)` and are not over `now`, by start."""
        rows = await self._database.fetch("appointments_inside", org, column, start, end, now)
        return [UUID(int=row["appointment_id"].int) for row in rows]

    async def _written(self, name: str, *arguments: Any) -> tuple[list[Any], bool]:
        """(rows of a statement that may be run again, whether it was)."""
        unknown: OutcomeUnknown | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._database.write(name, *arguments), unknown is not None
            except OutcomeUnknown as problem:
                unknown = problem
            except Unavailable:
                # Only while every reply came does this mean that nothing was written.
                if unknown is None:
                    raise
            await asyncio.sleep(0.05 * 2**attempt)
        raise unknown or AssertionError("an attempt ends by itself unless its answer was lost")


def _record(row: Any) -> TimeOffRecord:
    return TimeOffRecord(
        time_off_id=UUID(int=row["time_off_id"].int),
        column=row["coach_no"],
        start_time=row["starts_at"],
        end_time=row["ends_at"],
        reason=row["reason"],
        source=row["source"],
        created_at=row["created_at"],
    )
