"""Brings entries back into their streams when they are due: one loop for all streams, a call a shard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.delivery.patience import stopped_within
from service.delivery.stream import Stream

MOST_AT_ONCE = 200
LONGEST_SLEEP_S = 0.25
# What is due one after another is moved together: while many are put off it would be a call for each.
SHORTEST_SLEEP_S = 0.05


class Mover:
    """Moves what is due. Several may run beside each other: each move is one atomic script."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        shards: dict[str, list[Stream]] = {}
        for stream in streams:
            shards.setdefault(stream.shard, []).append(stream)
        self._shards = list(shards.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Move and sleep until the next entry is due, until `stop`. Raises Unavailable."""
        sleep_s = 0.0
        while not await stopped_within(stop, sleep_s):
            sleep_s = await self.round()

    async def round(self) -> float:
        """Move what is due now; seconds to sleep before the next round."""
        sleep_s = LONGEST_SLEEP_S
        for first, *others in self._shards:
            _, wait_ms = await first.move_due(others, MOST_AT_ONCE)
            if wait_ms == 0:  # more are due than are moved at once
                sleep_s = 0.0
            elif wait_ms > 0:
                sleep_s = min(sleep_s, max(SHORTEST_SLEEP_S, wait_ms / 1000))
        return sleep_s
