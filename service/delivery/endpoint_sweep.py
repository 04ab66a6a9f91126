"""Finds events that an endpoint must hear of and that are not on their way to it, and sends them on their way.

So an endpoint that is resumed hears of everything that waited, and streams that Redis lost fill again. How far an
endpoint was looked through is kept with it: only what is not yet behind it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from service.claims.keys import Keys, Shards
from service.db.endpoints import Swept
from service.delivery.endpoint_deliveries import EndpointParts
from service.delivery.stream import Stream
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.destinations import endpoint_entry

_MOST_ENDPOINTS = 50
# At a look: the rest waits in Postgres, not in Redis, until these are heard.
_PAGE = 2000

_log = get_logger("delivery.endpoint_sweep")


class EndpointSweep:
    """One look at every endpoint whose turn it is; `outward` are the shards' streams of deliveries.

    Several may sweep at once: one of them gets an endpoint, and an event is on its way to it only once.
    """

    def __init__(self, parts: EndpointParts, outward: Mapping[Keys, Stream], shards: Shards, metrics: Metrics) -> None:
        self._store = parts.store
        self._period = timedelta(seconds=parts.sweep_s)
        self._outward = outward
        self._shards = shards
        self._gauge = metrics.endpoints
        self._swept = metrics.swept.labels("endpoint")

    async def __call__(self) -> int:
        """How many events were enqueued. Raises Unavailable or OutcomeUnknown."""
        for state, count in (await self._store.by_state()).items():
            self._gauge.labels(state.value).set(count)
        enqueued = 0
        for swept in await self._store.take_for_sweep(self._period, _MOST_ENDPOINTS):
            enqueued += await self._sweep(swept)
        if enqueued:
            self._swept.inc(enqueued)
            _log.info("endpoint events enqueued again", count=enqueued)
        return enqueued

    async def _sweep(self, swept: Swept) -> int:
        outward = self._outward[self._shards.of(swept.org)]
        page = await self._store.undelivered(swept, self._period, _PAGE)
        up_to = min(swept.horizon, page[0].committed_in) if page else swept.horizon
        waiting = [(endpoint_entry(one.ref, swept.endpoint_id), one.attempts + 1) for one in page if not one.young]
        enqueued = await outward.add_all(waiting)
        await self._store.swept(swept, up_to)
        return enqueued
