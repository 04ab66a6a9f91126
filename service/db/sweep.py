"""What was committed and not yet heard, from the ledger of events and deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.domain.event import EventRef, EventType


class Undelivered(msgspec.Struct, frozen=True):
    """An event a destination has not heard of, the attempts made so far, and whether it should have by now."""

    ref: EventRef
    attempts: int
    overdue: bool


class SweepStore:
    """Reads undelivered events, each look from where everything before is done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def undelivered(
        self, org: int, destination: str, types: Sequence[EventType], before: datetime, most: int
    ) -> list[Undelivered]:
        """At most `most` events, oldest first; overdue are those that happened before `before`.

        The position moves on to the first of them, so that the next look begins there. Raises Unavailable.
        """
        # Read before the events: what commits in between lies behind it.
        horizon = await self._horizon()
        rows = await self._database.fetch(
            "undelivered_events", org, destination, [kind.value for kind in types], before, most
        )
        position: str = rows[0]["committed_in"] if rows else horizon
        await self._database.write("keep_sweep_position", org, destination, position)
        return [
            Undelivered(
                EventRef(org, UUID(int=row["appointment_id"].int), row["sequence"]), row["attempts"], row["overdue"]
            )
            for row in rows
        ]

    async def pass_by(self, org: int, destination: str) -> None:
        """Look at nothing that was committed until now: the destination need not hear of it. Raises Unavailable."""
        await self._database.write("keep_sweep_position", org, destination, await self._horizon())

    async def _horizon(self) -> str:
        (head,) = await self._database.fetch("sweep_horizon")
        return head["horizon"]
