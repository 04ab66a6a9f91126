"""A circuit breaker: whoever keeps failing is left alone for a while, then asked carefully.

Closed, calls pass. After a number of failures in a row it opens: no call passes until a pause is over. Then
it is half open: one call a pause may pass, and its success closes the breaker again. No threads, no timers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Guards one service. `monotonic` is the clock, in seconds."""

    def __init__(
        self, *, failures: int = 10, pause_s: float = 5.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._in_a_row = 0
        self._closed_off_until: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """Where it stands now."""
        if self._closed_off_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.wait_s else BreakerState.HALF_OPEN

    @property
    def wait_s(self) -> float:
        """Seconds until a call may pass again; 0 when one may pass now."""
        if self._closed_off_until is None:
            return 0.0
        return max(0.0, self._closed_off_until - self._monotonic())

    def admits(self) -> bool:
        """Whether a call may be made now; tell `succeeded`, `failed` or `not_made` what came of it."""
        if self._closed_off_until is None:
            return True
        if self.wait_s:
            return False
        # Half open: this call is the probe. One whose end is never told is given up after a pause.
        self._closed_off_until = self._monotonic() + self._pause_s
        self._probing = True
        return True

    def not_made(self) -> None:
        """The call that was admitted was not made after all: if it was the probe, the next one is."""
        if self._probing:
            self._probing = False
            self._closed_off_until = self._monotonic()

    def succeeded(self) -> None:
        """A call was answered properly."""
        self._in_a_row = 0
        self._closed_off_until = None
        self._probing = False

    def failed(self) -> None:
        """A call was not answered, or by a failing service."""
        self._in_a_row += 1
        self._probing = False
        if self._in_a_row >= self._most:
            self._closed_off_until = self._monotonic() + self._pause_s

    def learn(self, *, unwell: bool) -> None:
        """Tell what came of a call."""
        if unwell:
            self.failed()
        else:
            self.succeeded()
