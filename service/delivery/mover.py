"""Brings entries back into their streams when they are due: one loop for all streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.delivery.patience import stopped_within
from service.delivery.stream import Stream

MOST_AT_ONCE = 200
LONGEST_SLEEP_S = 0.25


class Mover:
    """Moves what is due. Several may run beside each other: each move is one atomic script."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    async def run(self, stop: asyncio.Event) -> None:
        """Move and sleep until the next entry is due, until `stop`. Raises Unavailable."""
        sleep_s = 0.0
        while not await stopped_within(stop, sleep_s):
            sleep_s = await self.round()

    async def round(self) -> float:
        """Move what is due now; seconds to sleep before the next round."""
        sleep_s = LONGEST_SLEEP_S
        for stream in self._streams:
            moved, wait_ms = await stream.move_due(MOST_AT_ONCE)
            if moved == MOST_AT_ONCE:
                sleep_s = 0.0
            elif wait_ms >= 0:
                sleep_s = min(sleep_s, wait_ms / 1000)
        return sleep_s
