"""The events of an organization, in an order in which nothing is ever inserted behind a reader's back.

Sequence numbers and times are given before a commit, so a reader that remembers the last one would miss what
commits late. Here the order is that of the transactions' numbers, and what lies at or above the oldest
transaction still open is not shown yet. A transaction left open therefore holds the feed up; it never makes a hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.domain.event import Event, EventRef, EventType

# Events looked through for a page of chosen types.
MOST_SCANNED = 2_000


class Place(msgspec.Struct, frozen=True):
    """A place in the feed: the transaction's number, and the event within it."""

    committed_in: int
    appointment_id: UUID
    sequence: int


BEGINNING = Place(0, UUID(int=0), 0)


class FeedPage(msgspec.Struct, frozen=True):
    """Events, the place after which to go on, and whether there is more already."""

    events: list[Event]
    next: Place
    has_more: bool


class EventFeed:
    """Reads the ledger of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self,
        org: int,
        after: Place,
        most: int,
        *,
        types: Sequence[EventType] | None = None,
        appointment_id: UUID | None = None,
    ) -> FeedPage:
        """At most `most` events after a place; with `types` a page may hold fewer although there is more.

        Raises Unavailable.
        """
        scan = most + 1 if types is None else MOST_SCANNED
        rows = await self._database.fetch(
            "read_feed" if appointment_id is None else "read_feed_of_appointment",
            org,
            str(after.committed_in),
            after.appointment_id,
            after.sequence,
            scan,
            None if types is None else [kind.value for kind in types],
            *(() if appointment_id is None else (appointment_id,)),
        )
        found: list[Event] = []
        place, seen = after, 0
        for row in rows:
            if len(found) == most:
                break
            seen += 1
            ref = EventRef(org, UUID(int=row["appointment_id"].int), row["sequence"])
            place = Place(int(row["committed_in"]), ref.appointment_id, ref.sequence)
            if row["data"] is not None:
                found.append(
                    Event(
                        ref=ref,
                        type=row["type"],
                        occurred_at=row["occurred_at"],
                        actor=row["actor"],
                        correlation_id=row["correlation_id"],
                        reason=row["reason"],
                        data=row["data"],
                    )
                )
        return FeedPage(found, place, seen < len(rows) or len(rows) == scan)
