"""Whether this process itself is late: then an answer that did not come in time says nothing of who owed it."""

from __future__ import annotations

import asyncio

_BEAT_S = 0.02
_LATE_S = 0.05
_REMEMBERED_S = 0.5


class Lateness:
    """A heartbeat of the event loop."""

    def __init__(self) -> None:
        self._late_at = float("-inf")
        self._due = float("inf")

    async def run(self) -> None:
        """Beat; never ends by itself."""
        loop = asyncio.get_running_loop()
        while True:
            self._due = loop.time() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            if loop.time() - self._due > _LATE_S:
                self._late_at = loop.time()

    @property
    def is_late(self) -> bool:
        """Whether the loop came late to its beat a moment ago, or has not come to one yet that is long due."""
        now = asyncio.get_running_loop().time()
        return now - self._due > _LATE_S or now - self._late_at < _REMEMBERED_S
