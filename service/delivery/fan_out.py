"""Hands each event on to the endpoints that hear of it.

Announcing an event costs one entry, however many endpoints there are: who they are is looked up here, off the
request. An entry is finished when its copies are in their stream, so a crash in between hands it on again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from uuid import UUID

from service.claims.keys import Keys, Shards
from service.db.endpoints import EndpointStore
from service.delivery.dispatcher import parse_ref
from service.delivery.patience import patiently
from service.delivery.stream import Entry, Stream
from service.domain.event import Destination, EventRef
from service.domain.retry import backoff_ms
from service.logs import get_logger
from service.operations.destinations import endpoint_entry

_READ = 128
_TRIES_FOR_A_MISSING_EVENT = 5
_MISSING_DELAY_MS = 200

_log = get_logger("delivery.fan_out")


class FanOut:
    """Takes entries ('organization appointment sequence'); `outward` are the shards' streams of deliveries."""

    name = Destination.ENDPOINTS.value

    def __init__(
        self, store: EndpointStore, outward: Mapping[Keys, Stream], shards: Shards, chance: random.Random
    ) -> None:
        self._store = store
        self._outward = outward
        self._shards = shards
        self._chance = chance

    async def room(self) -> int:
        """Always some: the work is done when it is taken."""
        return _READ

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        """Look up who hears of the events and hand them on. Raises Unavailable; the entries are then reclaimed."""
        named = [(entry, parse_ref(entry.event)) for entry in entries]
        refs = [ref for _, ref in named if ref is not None]
        found = await patiently("look subscribers up", lambda: self._store.to_tell(refs), self._chance)
        await asyncio.gather(*(self._hand_on(stream, entry, ref, found) for entry, ref in named))

    async def drain(self, timeout_s: float) -> int:
        """Nothing is left under way."""
        del timeout_s
        return 0

    async def _hand_on(
        self, stream: Stream, entry: Entry, ref: EventRef | None, found: dict[EventRef, list[UUID]]
    ) -> None:
        if ref is None:
            await stream.bury(entry, 0, "the entry names no event")
            _log.error("entry names no event", destination=self.name, entry=entry.entry_id)
            return
        if ref not in found:
            await self._missing(stream, entry)
            return
        outward = self._outward[self._shards.of(ref.org)]
        await outward.add_all([(endpoint_entry(ref, endpoint_id), 1) for endpoint_id in found[ref]])
        await stream.finish(entry)

    async def _missing(self, stream: Stream, entry: Entry) -> None:
        if entry.attempt < _TRIES_FOR_A_MISSING_EVENT:
            delay_ms = backoff_ms(entry.attempt, _MISSING_DELAY_MS, chance=self._chance)
            await stream.later(entry, delay_ms, entry.attempt + 1)
            return
        _log.error("event missing", destination=self.name, missing=entry.event)
        await stream.bury(entry, entry.attempt, "the event is not in Postgres: its change was never committed")
