"""The two loops that feed work from a stream: reading what is new, and taking over what others left."""

from __future__ import annotations

import asyncio
from typing import Protocol

from service.delivery.patience import stopped_within
from service.delivery.stream import GATHERING_S, Entry, Stream

BLOCK_MS = 250
MOST_READ = 256


class Work(Protocol):
    """What is done with entries."""

    async def room(self) -> int:
        """How many entries may be handed over; waits a moment when there is no room, then says 0."""
        ...

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        """Take entries over. Returns when more may be read, which may be before they are done."""
        ...

    async def drain(self, timeout_s: float) -> int:
        """Let what was begun come to its end for a while; how many entries were left."""
        ...


async def consume(stream: Stream, work: Work, stop: asyncio.Event, *, gathering_s: float = GATHERING_S) -> None:
    """Read new entries as long as there is room for them, until `stop`. Raises Unavailable.

    What comes after an idle time is read at once; then as much is read together as comes in `gathering_s`.
    """
    while not stop.is_set():
        room = await work.room()
        if room:
            entries = await stream.read(min(room, MOST_READ), BLOCK_MS)
            if entries:
                await work.take(stream, entries)
                if len(entries) < MOST_READ:
                    await asyncio.sleep(gathering_s)


async def reclaim(stream: Stream, work: Work, stop: asyncio.Event) -> None:
    """Take over, again and again, what was read too long ago and never finished. Raises Unavailable."""
    while not stop.is_set():
        async for entries in stream.reclaim():
            await work.take(stream, entries)
        await stream.forget_the_dead()
        await stopped_within(stop, stream.reclaim_idle_ms / 2000)
