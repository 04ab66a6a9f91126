"""Deliveries to look at: event × destination, with the attempts made, and asking for one to be made again.

A replay is asked for here and carried out by the worker. So it is one write: it cannot be half done, and two who
ask at once ask once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.db.idempotency import Complete, complete_within
from service.db.statements import statement
from service.domain.event import EventRef

# Events looked through for a page.
MOST_SCANNED = 200
IN_TROUBLE = ("dead", "retrying")
_FIRST = UUID(int=0)
_LAST = UUID(int=2**128 - 1)
_LARGEST = 2**31 - 1
_MOST_AT_ONCE = 1_000


class Heard(msgspec.Struct, frozen=True):
    """A destination hears of a type of event; of those committed after the snapshot `since` where there is one."""

    destination: str
    type: str
    since: str | None = None


class DeliveryPlace(msgspec.Struct, frozen=True):
    """A place in the list of deliveries."""

    appointment_id: UUID
    sequence: int
    destination: str


class DeliveryState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one event's delivery to one destination stands; `attempts` counts from the last of `replays`."""

    ref: EventRef
    type: str
    destination: str
    state: str
    attempts: int
    replays: int
    last_status: int | None
    last_error: str | None
    occurred_at: datetime
    updated_at: datetime
    delivered_at: datetime | None


class AttemptState(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: the replay it belongs to (0 before the first), and the state it led to."""

    replay: int
    attempt: int
    made_at: datetime
    duration_ms: int
    outcome: str
    status: int | None
    answer: str | None


class DeliveryPage(msgspec.Struct, frozen=True):
    """Deliveries, and where the next page begins; None at the end."""

    deliveries: list[DeliveryState]
    next: DeliveryPlace | None


class DeliveryLog:
    """The ledger of deliveries as a person looks at it. Every method raises Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        org: int,
        heard: Sequence[Heard],
        most: int,
        *,
        after: DeliveryPlace | None = None,
        state: str | None = None,
        appointment_id: UUID | None = None,
        destination: str | None = None,
    ) -> DeliveryPage:
        """At most `most` deliveries after a place; fewer, even none, may come although more follow."""
        in_trouble = state in IN_TROUBLE and appointment_id is None
        scan = most + 1 if in_trouble else MOST_SCANNED
        rows = await self._database.fetch(
            "list_deliveries_in_trouble" if in_trouble else "list_deliveries",
            org,
            appointment_id or _FIRST,
            (appointment_id or _LAST) if after is None else after.appointment_id,
            _LARGEST if after is None else after.sequence,
            scan,
            state,
            destination,
            "" if after is None else after.destination,
            *(() if in_trouble else _columns(heard)),
        )
        found: list[DeliveryState] = []
        for row in rows:
            if row["destination"] is None:
                continue
            if len(found) == most:
                last = found[-1]
                return DeliveryPage(found, DeliveryPlace(last.ref.appointment_id, last.ref.sequence, last.destination))
            found.append(_state(org, row, row["destination"]))
        scanned = {(row["appointment_id"], row["sequence"]) for row in rows}
        if in_trouble or len(scanned) < scan:
            return DeliveryPage(found, None)
        end = rows[-1]
        # Everything of the last event was seen: go on with the one after it.
        return DeliveryPage(found, DeliveryPlace(UUID(int=end["appointment_id"].int), end["sequence"] - 1, ""))

    async def get(self, ref: EventRef, destination: str, heard: Sequence[Heard]) -> DeliveryState | None:
        """One delivery; None where there is no such event or the destination need not hear of it."""
        row = await self._database.first(
            "get_delivery", ref.org, ref.appointment_id, ref.sequence, destination, *_columns(heard)
        )
        return None if row is None else _state(ref.org, row, destination)

    async def attempts(self, ref: EventRef, destination: str) -> list[AttemptState]:
        """All attempts of a delivery, oldest first."""
        rows = await self._database.fetch(
            "delivery_attempts_of", ref.org, ref.appointment_id, ref.sequence, destination
        )
        return [AttemptState(**dict(row)) for row in rows]

    async def replay(
        self,
        ref: EventRef,
        destination: str,
        heard: Sequence[Heard],
        complete: Complete[DeliveryState] | None = None,
    ) -> DeliveryState | None:
        """Ask for a delivery to be made again, and where it stands then; None unless it was dead or delivered.

        Raises OutcomeUnknown and IdempotencyInProgress too.
        """
        one = (ref.org, ref.appointment_id, ref.sequence, destination)
        async with self._database.transaction() as connection:
            if await connection.fetchrow(statement("replay_delivery"), *one) is None:
                return None
            row = await connection.fetchrow(statement("get_delivery"), *one, *_columns(heard))
            return await complete_within(connection, complete, _state(ref.org, row, destination))

    async def replay_dead(
        self, org: int, destination: str, types: Sequence[str], complete: Complete[int] | None = None
    ) -> int:
        """Ask for everything of a destination that is dead now, of events of these types; how many that is.

        Raises OutcomeUnknown and IdempotencyInProgress too.
        """
        (row,) = await self._database.fetch("time_of_the_record")
        replayed = 0
        async with self._database.transaction() as connection:
            while True:
                rows = await connection.fetch(
                    statement("replay_dead_of_destination"), org, destination, row["now"], _MOST_AT_ONCE, types
                )
                replayed += len(rows)
                if len(rows) < _MOST_AT_ONCE:
                    return await complete_within(connection, complete, replayed)


def _columns(heard: Sequence[Heard]) -> tuple[list[str], list[str], list[str | None]]:
    return [one.destination for one in heard], [one.type for one in heard], [one.since for one in heard]


def _state(org: int, row: Any, destination: str) -> DeliveryState:
    return DeliveryState(
        ref=EventRef(org, UUID(int=row["appointment_id"].int), row["sequence"]),
        type=row["type"],
        destination=destination,
        state=row["state"],
        attempts=row["attempts"],
        replays=row["replays"],
        last_status=row["last_status"],
        last_error=row["last_error"],
        occurred_at=row["occurred_at"],
        updated_at=row["updated_at"],
        delivered_at=row["delivered_at"],
    )
