"""Replays that were asked for and are to be put on their way, of deliveries and of incoming events."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.domain.event import EventRef


class DeliveryReplay(msgspec.Struct, frozen=True):
    """A delivery to be made again, with the attempts made since the last of its replays."""

    ref: EventRef
    destination: str
    attempts: int
    replays: int


class IncomingReplay(msgspec.Struct, frozen=True):
    """An incoming event to be worked on again, with the attempts made since the last of its replays."""

    org: int
    event_id: str
    attempts: int
    replays: int


class ReplayStore:
    """What was asked for. `again_after_s`: after how long one that was put on its way and has not ended comes again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def deliveries(self, again_after_s: float, most: int) -> list[DeliveryReplay]:
        """Deliveries to put on their way, of every organization. Raises Unavailable."""
        rows = await self._database.fetch("replays_to_enqueue", again_after_s, most)
        return [
            DeliveryReplay(
                EventRef(row["org_id"], UUID(int=row["appointment_id"].int), row["sequence"]),
                row["destination"],
                row["attempts"],
                row["replays"],
            )
            for row in rows
        ]

    async def deliveries_enqueued(self, replays: Sequence[DeliveryReplay]) -> None:
        """Note that deliveries are on their way. Raises Unavailable or OutcomeUnknown."""
        await self._database.write(
            "replays_enqueued",
            [one.ref.org for one in replays],
            [one.ref.appointment_id for one in replays],
            [one.ref.sequence for one in replays],
            [one.destination for one in replays],
            [one.replays for one in replays],
        )

    async def incoming(self, again_after_s: float, most: int) -> list[IncomingReplay]:
        """Incoming events to put on their way, of every organization. Raises Unavailable."""
        rows = await self._database.fetch("webhook_replays_to_enqueue", again_after_s, most)
        return [IncomingReplay(row["org_id"], row["event_id"], row["attempts"], row["replays"]) for row in rows]

    async def incoming_enqueued(self, replays: Sequence[IncomingReplay]) -> None:
        """Note that events are on their way. Raises Unavailable or OutcomeUnknown."""
        await self._database.write(
            "webhook_replays_enqueued",
            [one.org for one in replays],
            [one.event_id for one in replays],
            [one.replays for one in replays],
        )
