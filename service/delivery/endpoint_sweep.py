"""Finds events that an endpoint must hear of and that are not on their way to it, and sends them on their way.

So an endpoint that is resumed hears of everything that waited, and streams that Redis lost fill again. How far an
endpoint was looked through is kept with it: only what is not yet behind it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from service.claims.keys import Keys, Shards
from service.db.endpoints import Swept, Undelivered
from service.delivery.endpoint_deliveries import EndpointParts, entry_of
from service.delivery.stream import Stream
from service.logs import get_logger
from service.metrics import Metrics

_MOST_ENDPOINTS = 50
_PAGE = 500

_log = get_logger("delivery.endpoint_sweep")


class EndpointSweep:
    """One look at every endpoint whose turn it is; `streams` are the shards' streams of deliveries and of fan-out."""

    def __init__(
        self, parts: EndpointParts, streams: Mapping[Keys, Sequence[Stream]], shards: Shards, metrics: Metrics
    ) -> None:
        self._store = parts.store
        self._period = timedelta(seconds=parts.sweep_s)
        self._streams = streams
        self._shards = shards
        self._gauge = metrics.endpoints

    async def __call__(self) -> int:
        """How many events were enqueued. Raises Unavailable or OutcomeUnknown."""
        for state, count in (await self._store.by_state()).items():
            self._gauge.labels(state.value).set(count)
        enqueued = 0
        for swept in await self._store.take_for_sweep(self._period, _MOST_ENDPOINTS):
            enqueued += await self._sweep(swept)
        if enqueued:
            _log.info("endpoint events enqueued again", count=enqueued)
        return enqueued

    async def _sweep(self, swept: Swept) -> int:
        up_to, enqueued = swept.horizon, 0
        last: Undelivered | None = None
        while True:
            page = await self._store.undelivered(swept, last, self._period, _PAGE)
            if page and last is None:
                up_to = min(up_to, page[0].committed_in)
            enqueued += await self._enqueue(swept, [one for one in page if not one.young])
            if len(page) < _PAGE:
                break
            last = page[-1]
        await self._store.swept(swept, up_to)
        return enqueued

    async def _enqueue(self, swept: Swept, waiting: Sequence[Undelivered]) -> int:
        """Enqueue what is in no stream, in order. Twice at worst, when an entry changes its place while we look."""
        if not waiting:
            return 0
        deliveries, fan_out = self._streams[self._shards.of(swept.org)]
        on_their_way = await fan_out.events() | await deliveries.events()
        enqueued = 0
        for one in waiting:
            event = entry_of(one.ref, swept.endpoint_id)
            if event not in on_their_way and event.rpartition(" ")[0] not in on_their_way:
                await deliveries.add(event, one.attempts + 1)
                enqueued += 1
        return enqueued
