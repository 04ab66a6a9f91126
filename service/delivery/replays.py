"""Puts replays that were asked for on their way, of deliveries and of incoming events.

Asking is a write to Postgres. What follows in Redis (no dead letter any more, an entry in the stream) may be cut off
anywhere and is done again: one that has not ended for a while is seen to again, so Redis may lose it, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from service.claims.keys import Shards
from service.db.replays import DeliveryReplay, IncomingReplay, ReplayStore
from service.delivery.stream import Stream
from service.logs import get_logger
from service.operations.accept_calendar_event import INCOMING_STREAM
from service.operations.destinations import Destinations

MOST_AT_ONCE = 1_000

_log = get_logger("delivery.replays")


class CarryOutReplays:
    """One look at what was asked for; `streams` are the shards' streams by name.

    Several may look at once: an event that is on its way does not enter its stream again.
    """

    def __init__(
        self,
        *,
        store: ReplayStore,
        destinations: Destinations,
        streams: Mapping[str, Sequence[Stream]],
        shards: Shards,
        again_after_s: float = 30.0,
    ) -> None:
        self._store = store
        self._destinations = destinations
        self._streams = {stream.key: stream for every in streams.values() for stream in every}
        self._shards = shards
        self._again_after_s = again_after_s

    async def __call__(self) -> int:
        """How many were put on their way. Raises Unavailable or OutcomeUnknown."""
        done = await self._deliveries() + await self._incoming()
        if done:
            _log.info("replays enqueued", count=done)
        return done

    async def _deliveries(self) -> int:
        found = await self._store.deliveries(self._again_after_s, MOST_AT_ONCE)
        by_stream: dict[str, list[tuple[DeliveryReplay, str]]] = defaultdict(list)
        for one in found:
            way = self._destinations.way(one.ref, one.destination)
            key = "" if way is None else self._shards.of(one.ref.org).stream(way.stream)
            by_stream[key].append((one, "" if way is None else way.entry))
        done = 0
        for key, replays in by_stream.items():
            stream = self._streams.get(key)
            if stream is not None:
                done += await _enqueue(stream, [(entry, one.attempts + 1) for one, entry in replays])
            # Those nobody can be told of are noted too, so that they do not stand before the others.
            await self._store.deliveries_enqueued([one for one, _ in replays])
        return done

    async def _incoming(self) -> int:
        found = await self._store.incoming(self._again_after_s, MOST_AT_ONCE)
        by_stream: dict[str, list[IncomingReplay]] = defaultdict(list)
        for one in found:
            by_stream[self._shards.of(one.org).stream(INCOMING_STREAM)].append(one)
        done = 0
        for key, replays in by_stream.items():
            entries = [(f"{one.org} {one.event_id}", one.attempts + 1) for one in replays]
            done += await _enqueue(self._streams[key], entries)
            await self._store.incoming_enqueued(replays)
        return done


async def _enqueue(stream: Stream, entries: Sequence[tuple[str, int]]) -> int:
    """Take the dead letters of events away and add the events; how many were not on their way.

    In this order: the entry that is added may end as a dead letter of its own at once.
    """
    await stream.exhume({event for event, _ in entries})
    return await stream.add_all(entries)
