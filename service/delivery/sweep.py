"""The sweeper: what is undelivered and not on its way is enqueued again.

Streams are only how events travel; the ledger in Postgres knows what was heard. So streams that were emptied fill
again by themselves, and an event whose announcement was lost is announced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from service.claims.keys import Shards
from service.clock import Clock
from service.db.rosters import RosterStore
from service.db.sweep import SweepStore
from service.delivery.stream import Stream
from service.domain.event import Destination, EventType
from service.logs import get_logger
from service.metrics import Metrics

MOST_A_LOOK = 5_000

_log = get_logger("delivery.sweep")


class Sweep:
    """Looks at every organization and destination. Several may sweep at once: an event is on its way only once.

    `overdue_after` is how long an event may take to be announced: the time of a claim and the reconciler's round.
    """

    def __init__(
        self,
        *,
        store: SweepStore,
        roster_store: RosterStore,
        shards: Shards,
        heard: Mapping[str, Sequence[EventType]],
        streams: Mapping[str, Sequence[Stream]],
        overdue_after: timedelta,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._roster_store = roster_store
        self._shards = shards
        self._heard = heard
        self._streams = {name: {stream.key: stream for stream in streams[name]} for name in heard}
        self._overdue_after = overdue_after
        self._clock = clock
        self._metrics = metrics

    async def __call__(self) -> int:
        """One look at everything; how many events were enqueued. Raises Unavailable."""
        enqueued = 0
        for org, _ in await self._roster_store.organizations():
            in_calendar = await self._roster_store.in_calendar(org)
            for name in self._heard:
                if name == Destination.CALENDAR and not in_calendar:
                    await self._store.pass_by(org, name)
                else:
                    enqueued += await self._look(org, name)
        if enqueued:
            _log.warning("undelivered events enqueued again", count=enqueued)
        return enqueued

    async def _look(self, org: int, name: str) -> int:
        before = self._clock.now() - self._overdue_after
        found = await self._store.undelivered(org, name, self._heard[name], before, MOST_A_LOOK)
        stream = self._streams[name][self._shards.of(org).stream(name)]
        overdue = [
            (f"{org} {one.ref.appointment_id.hex} {one.ref.sequence}", one.attempts + 1) for one in found if one.overdue
        ]
        added = await stream.add_all(overdue)
        if added:
            self._metrics.swept.labels(name).inc(added)
        return added
