"""The time, as something that can be handed over: production passes `SystemClock`, tests one that they move."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the service asks what time it is."""

    def now(self) -> datetime:
        """The current instant, in UTC."""
        ...


class SystemClock:
    """The machine's clock, shifted by a constant `offset_s` (a wrong clock is one of the faults we test)."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self._offset_s = offset_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self._offset_s, UTC)
