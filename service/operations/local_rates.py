"""Rate limits while Redis cannot be asked: each process counts for itself."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

from service.claims.messages import Rate, RateState
from service.errors import RateLimitExceeded

MOST_KEYS = 20_000


class RateSeen:
    """Where the key stands, as soon as somebody has counted; the edge shows it even when the operation fails."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: RateState | None = None


class LocalRates:
    """Counts requests by key in windows of this process."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, rate: Rate, seen: RateSeen) -> None:
        """Count one more request and show where the key stands. Raises RateLimitExceeded when it was one too many."""
        now = asyncio.get_running_loop().time()
        count, until = self._windows.get(rate.key_id, (0, 0.0))
        if now >= until:
            count, until = 0, now + rate.window_ms / 1000
        count += 1
        self._windows[rate.key_id] = (count, until)
        self._windows.move_to_end(rate.key_id)
        while len(self._windows) > MOST_KEYS:
            self._windows.popitem(last=False)
        seen.state = RateState.after(rate, count, round((until - now) * 1000))
        if rate.limit and count > rate.limit:
            raise RateLimitExceeded(
                "the requests of this window are used up", retry_after_s=max(1, math.ceil(until - now))
            )
