"""Incoming events to look at, and asking for a dead one to be worked on again."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from service.db.connection import Database
from service.db.deliveries import MOST_AHEAD, IncomingEvent, incoming_event
from service.db.idempotency import Complete, complete_within
from service.db.statements import statement

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class IncomingPlace(msgspec.Struct, frozen=True):
    """A place in the list of incoming events."""

    received_at: datetime
    event_id: str


class IncomingState(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event's processing stands; `attempts` counts from the last of `replays`."""

    event_id: str
    event_type: str
    state: str
    attempts: int
    error: str | None
    replays: int
    received_at: datetime
    processed_at: datetime | None


class IncomingLog:
    """Events of the outside as a person looks at them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, org: int, state: str | None, before: IncomingPlace | None, most: int) -> list[IncomingState]:
        """At most `most` events, newest first, that came before a place. Raises Unavailable."""
        place = before or IncomingPlace(_LATEST, "")
        rows = await self._database.fetch(
            "list_webhook_events" if state is None else "list_webhook_events_in_state",
            org,
            place.received_at,
            place.event_id,
            most,
            *(() if state is None else (state,)),
        )
        return [IncomingState(**dict(row)) for row in rows]

    async def replay(
        self, org: int, event_id: str, complete: Complete[IncomingEvent] | None = None
    ) -> IncomingEvent | None:
        """Ask for a dead event to be worked on again, and where it stands then; None when it is not dead.

        Raises Unavailable, OutcomeUnknown or IdempotencyInProgress.
        """
        async with self._database.transaction() as connection:
            if await connection.fetchrow(statement("replay_webhook_event"), org, event_id) is None:
                return None
            row = await connection.fetchrow(statement("get_webhook_event"), org, event_id, MOST_AHEAD)
            return await complete_within(connection, complete, incoming_event(row))
