"""Requests at a fixed rate, whatever the answers do; latency counts from when a request was meant to begin.

A closed loop stops asking while the service stalls and so hides the stall; here every request that had to wait for a
connection shows its wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from loadtest.bench.client import Answer, Connection, connections

CONNECTIONS = 64
_TICK_NS = 250_000  # loops round their own timers up to a millisecond, which would show as latency
_MONOTONIC = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Latencies:
    """Answers by status, and the seconds each took from its intended start."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    seconds: list[float] = field(default_factory=list[float])

    def quantile(self, share: float) -> float:
        """The latency in seconds that `share` of the answers were not slower than."""
        return quantile(self.seconds, share)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1e6) * len(ordered) // 1_000_000) - 1))]


async def open_loop(
    port: int, make: Callable[[int], bytes], rate: float, seconds: float, *, clients: int = CONNECTIONS
) -> Latencies:
    """Ask `rate` times a second for so many seconds over `clients` connections, and wait for the last answer."""
    opened = await connections(port, clients)
    try:
        return await _Run(opened, make, rate, round(rate * seconds)).run()
    finally:
        for connection in opened:
            connection.close()


async def closed_loop(port: int, make: Callable[[int], bytes], count: int, *, clients: int = CONNECTIONS) -> Latencies:
    """Ask `count` times, each connection as soon as it has its answer."""
    opened = await connections(port, min(clients, count))
    found = Latencies()
    numbers = iter(range(count))
    clock = asyncio.get_running_loop().time

    async def use(connection: Connection) -> None:
        for number in numbers:
            began = clock()
            answer = await connection.ask(make(number))
            found.statuses[answer.status] += 1
            found.seconds.append(clock() - began)

    try:
        await asyncio.gather(*(use(connection) for connection in opened))
    finally:
        for connection in opened:
            connection.close()
    return found


class _Run:
    """One open loop: what is due waits for a connection, a connection for what is due."""

    def __init__(self, opened: list[Connection], make: Callable[[int], bytes], rate: float, count: int) -> None:
        self._free = list(opened)
        self._make = make
        self._rate = rate
        self._count = count
        self._begun = 0
        self._found = Latencies()
        self._began = 0.0
        self._done = asyncio.get_running_loop().create_future()

    async def run(self) -> Latencies:
        loop = asyncio.get_running_loop()
        with _ticks() as ticking:
            self._began = loop.time()
            loop.add_reader(ticking, self._tick, ticking)
            try:
                await self._done
            finally:
                loop.remove_reader(ticking)
        return self._found

    def _tick(self, ticking: int) -> None:
        os.read(ticking, 8)
        self._ask()

    def _ask(self) -> None:
        """Begin what is due, as long as there are connections."""
        now = asyncio.get_running_loop().time()
        while self._free and self._begun < self._count and self._began + self._begun / self._rate <= now:
            connection = self._free.pop()
            meant = self._began + self._begun / self._rate
            asking = connection.ask(self._make(self._begun))
            asking.add_done_callback(lambda answer, c=connection, m=meant: self._answered(c, m, answer))
            self._begun += 1

    def _answered(self, connection: Connection, meant: float, answer: asyncio.Future[Answer]) -> None:
        if self._done.done():
            return
        problem = answer.exception()
        if problem is not None:
            self._done.set_exception(problem)
            return
        self._found.statuses[answer.result().status] += 1
        self._found.seconds.append(asyncio.get_running_loop().time() - meant)
        self._free.append(connection)
        if len(self._found.seconds) == self._count:
            self._done.set_result(None)
        else:
            self._ask()


@contextlib.contextmanager
def _ticks() -> Iterator[int]:
    """A descriptor that becomes readable every quarter of a millisecond (timerfd_create(2))."""
    descriptor = _LIBC.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        every = struct.pack("qqqq", 0, _TICK_NS, 0, _TICK_NS)
        if _LIBC.timerfd_settime(descriptor, 0, every, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        yield descriptor
    finally:
        os.close(descriptor)
