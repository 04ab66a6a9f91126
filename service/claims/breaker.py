"""Whether Redis is asked at all: a breaker that opens with the first fault and is closed by whoever finds Redis well.

A Redis that hangs would cost every request its whole timeout; behind an open breaker a request goes on without it at
once. Closing is not a matter of time: the grid must be of this server and of this epoch again (`keep_gate`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TypeVar

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeout

from service.claims.connection import REQUEST_TIMEOUT_S, PoolBusy, ServerChanged
from service.claims.lateness import Lateness
from service.errors import GateClosed, Unavailable

# How a server says that it cannot be written to; every other refusal is of the one request.
_NOT_NOW = (OutOfMemoryError, ReadOnlyError, ClusterDownError, MasterDownError)
_SAYS_NOT_NOW = ("MISCONF", "NOREPLICAS", "OOM", "READONLY", "CLUSTERDOWN", "MASTERDOWN")


Reply = TypeVar("Reply")


class Trip(StrEnum):
    """Why the breaker opened."""

    FAULT = "fault"
    REFUSED = "refused"
    SUSPECT = "suspect"


class _Patience:
    """Ends a call `timeout_s` after it began, unless this process is late: then it looks again as much later.

    A function would refer to itself, and hold the call's task and contexts until the collector finds them.
    """

    __slots__ = ("_lateness", "_limit", "_timeout_s", "timer")

    def __init__(self, limit: asyncio.Timeout, timeout_s: float, lateness: Lateness) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self._lateness = lateness
        self.timer = asyncio.get_running_loop().call_later(timeout_s, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._lateness.is_late:
            self.timer = loop.call_later(self._timeout_s, self._look)
        else:
            self._limit.reschedule(loop.time())


class GateBreaker:
    """Open (Redis is not asked) until the grid is known to be right, and again from the first fault on.

    `epoch` is the one claims are made in while it is closed; `fell_behind` is set while it is open, and until the grid
    has been told what was changed without it; `heard` is told of every change: (closed now, why it opened).
    """

    def __init__(
        self,
        heard: Callable[[bool, Trip | None], None] = lambda _closed, _why: None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        lateness: Lateness | None = None,
    ) -> None:
        self._heard = heard
        self._timeout_s = timeout_s
        self._lateness = lateness or Lateness()
        self._epoch: int | None = None
        self._falls = 0
        self.fell_behind = asyncio.Event()
        self.fall_behind()

    @property
    def epoch(self) -> int:
        """The epoch of the grid. Raises GateClosed while the breaker is open."""
        if self._epoch is None:
            raise GateClosed("Redis is not asked at the moment")
        return self._epoch

    @property
    def closed(self) -> bool:
        """Whether Redis is asked."""
        return self._epoch is not None

    def close(self, epoch: int) -> None:
        """Ask Redis again, in this epoch."""
        self._epoch = epoch
        self._heard(True, None)

    @property
    def behind(self) -> bool:
        """Whether something may have been changed without Redis that its grid does not show yet."""
        return self.fell_behind.is_set()

    @property
    def falls(self) -> int:
        """How often it fell behind."""
        return self._falls

    def fall_behind(self) -> None:
        """Something was changed, or may have been, that the grid was not told of."""
        self._falls += 1
        self.fell_behind.set()

    def caught_up(self, falls: int) -> None:
        """The grid shows everything that it had not been told when it had fallen behind so often."""
        if self.closed and falls == self._falls:
            self.fell_behind.clear()

    def trip(self, why: Trip) -> None:
        """Ask Redis no more until somebody closes the breaker again."""
        if self._epoch is not None:
            self._epoch = None
            self.fall_behind()
            self._heard(False, why)

    async def ask(self, call: Coroutine[Any, Any, Reply]) -> Reply:
        """What a call of Redis that requests wait for returns; it may take as long as the client's own timeout allows
        while it is this process that is late, and else no longer than the breaker's. Raises GateClosed.
        """
        if self._epoch is None:
            call.close()
            raise GateClosed("Redis is not asked at the moment")
        with self.watching():
            async with asyncio.timeout(None) as limit:
                patience = _Patience(limit, self._timeout_s, self._lateness)
                try:
                    return await call
                finally:
                    patience.timer.cancel()

    @contextmanager
    def asking(self) -> Generator[None]:
        """A call of Redis: refused at once while the breaker is open; a fault opens it. Raises GateClosed."""
        if self._epoch is None:
            raise GateClosed("Redis is not asked at the moment")
        with self.watching():
            yield

    @contextmanager
    def watching(self) -> Generator[None]:
        """A call of Redis that is made even while the breaker is open. Raises GateClosed."""
        try:
            yield
        except PoolBusy as problem:
            raise Unavailable("no connection to Redis was free") from problem
        except ServerChanged as problem:
            self.trip(Trip.SUSPECT)
            raise GateClosed("Redis is another server than before") from problem
        except ResponseError as problem:
            if isinstance(problem, _NOT_NOW) or str(problem).startswith(_SAYS_NOT_NOW):
                self.trip(Trip.REFUSED)
            raise GateClosed(f"Redis refused: {type(problem).__name__}") from problem
        except (TimeoutError, RedisError, OSError) as problem:
            timed_out = isinstance(problem, (TimeoutError, RedisTimeout))
            if not (timed_out and self._lateness.is_late):
                self.trip(Trip.FAULT)
            raise GateClosed(f"Redis did not answer: {type(problem).__name__}") from problem
