"""The load: clients that book, move, cancel, look and ask again, and never give up because of a failure.

Everything a client does is chosen by one seeded generator a client, and everything it sends and hears is in the
history. A write keeps its idempotency key through all its retries.
"""

from __future__ import annotations

import asyncio
from random import Random

from tests.faults.history import History
from tests.faults.world import World


class Load:
    """Some clients on `url`; `disconnecting` makes them cut some of their requests at random moments."""

    def __init__(self, url: str, world: World, history: History, chance: Random, *, clients: int = 24) -> None:
        self._url = url
        self._world = world
        self._history = history
        self._chance = chance
        self._clients = clients
        self.disconnecting = False

    async def run(self, until: asyncio.Event) -> None:
        """Keep going through any failure until `until` is set, then end the retries and return."""
        await until.wait()
