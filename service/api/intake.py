"""How many requests a process takes in: as many as it can answer in time, and never more than a bound.

By Little's law a request waits for as long as it takes to answer those before it: requests in flight, divided by
how many are answered a second. So the limit follows the rate that the process reaches while it is busy. More would
not be answered sooner, only held: refused at once they cost little, and the client can go elsewhere or come later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

from service.errors import Overloaded
from service.logs import get_logger
from service.metrics import Metrics

# So many may always be in flight: below that the rate says little, and something must be let in to measure it.
ALWAYS = 256
_LOOK_S = 0.25
_WEIGHT = 0.25  # of one look in the rate
_LOG_EVERY_S = 10.0
# Who is refused together shall not come again together.
_RETRY_AFTER_S = (1, 2)

_log = get_logger("intake")


class Intake:
    """The requests one process is answering; `most` of them at a time, waiting for about `max_wait_s` at the most.

    `unfinished` tells how much work goes on, also that whose client went away: it takes up room as requests do.
    `now` is a clock in seconds that only goes forward.
    """

    def __init__(
        self,
        *,
        most: int,
        max_wait_s: float,
        metrics: Metrics,
        unfinished: Callable[[], int] = lambda: 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_flight = 0
        self.limit = most
        self._most = most
        self._max_wait_s = max_wait_s
        self._unfinished = unfinished
        self._now = now
        self._rate: float | None = None  # answers a second while busy; None before it ever was
        self._answered = 0  # since the last look, like the next two
        self._fewest = 0
        self._looked_at = now()
        self._refused = 0  # since the last line in the log
        self._logged_at = float("-inf")
        self._retry_after_s = cycle(_RETRY_AFTER_S)
        self._refusals = {why: metrics.overload_refusals.labels(why) for why in ("in_flight", "wait")}
        self._limit_shown = metrics.intake_limit
        self._limit_shown.set(most)

    @property
    def is_full(self) -> bool:
        """Whether one request more would be too many."""
        now = self._now()
        if now - self._looked_at >= _LOOK_S:
            self._look(now)
        # What `_taken` says, without its two calls: this is asked two or three times a request.
        return self.in_flight >= self.limit or self._unfinished() >= self.limit

    def enter(self) -> None:
        """Take a request in. Raises Overloaded when there is no room; else `leave` must follow."""
        if self.is_full:
            raise self.refuse()
        self.in_flight += 1

    def leave(self, *, answered: bool) -> None:
        """A request that was taken in is over; not `answered` when its client went away before."""
        self.in_flight -= 1
        self._answered += answered
        self._fewest = min(self._fewest, self.in_flight)

    def refuse(self) -> Overloaded:
        """Count a refusal; what the client is told."""
        return Overloaded(retry_after_s=self.count_refusal())

    def count_refusal(self) -> int:
        """Count a refusal; after how many seconds its client shall come again."""
        self._refusals["in_flight" if self._taken >= self._most else "wait"].inc()
        self._refused += 1
        now = self._now()
        if now - self._logged_at >= _LOG_EVERY_S:
            _log.warning("requests refused", refused=self._refused, in_flight=self._taken, limit=self.limit)
            self._logged_at, self._refused = now, 0
        return next(self._retry_after_s)

    @property
    def _taken(self) -> int:
        # Most work is a request's that is still being answered, so the two are not added up.
        return max(self.in_flight, self._unfinished())

    def _look(self, now: float) -> None:
        """Bring rate and limit up to date; a low rate counts as a measure only if there was always work."""
        measured = self._answered / (now - self._looked_at)
        busy = self._fewest >= ALWAYS
        if self._rate is None and busy:
            self._rate = measured
        elif self._rate is not None and (busy or measured > self._rate):
            # Of the last second or so: a hiccup must not turn everybody away.
            self._rate += (measured - self._rate) * _WEIGHT
        if self._rate is not None:
            limit = min(self._most, max(ALWAYS, round(self._rate * self._max_wait_s)))
            if limit != self.limit:
                self.limit = limit
                self._limit_shown.set(limit)
        self._answered, self._fewest, self._looked_at = 0, self.in_flight, now
