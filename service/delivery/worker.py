"""Loops that are no requests, each looked after: those of the background worker, and a few beside the API.

A loop that fails is reported, counted and started again after a short pause; none dies silently, none takes
another with it. Told to stop, the worker reads nothing more, lets attempts under way end for a moment and
leaves the rest pending for whoever reclaims it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.delivery.consume import Work
from service.delivery.patience import pause_s, stopped_within
from service.errors import BookingError
from service.logs import get_logger
from service.metrics import Metrics

GRACE_S = 2.0
_HEALTHY_S = 10.0

CANCEL_AGAIN_S = 0.5

_log = get_logger("delivery.worker")


@dataclass(frozen=True, slots=True)
class Loop:
    """Something that goes on until the worker stops; `run` returns soon after its event is set."""

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


def every(name: str, seconds: float, step: Callable[[], Awaitable[object]]) -> Loop:
    """The loop that takes `step` at once and then again `seconds` after each end of it."""

    async def run(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await step()
            await stopped_within(stop, seconds)

    return Loop(name, run)


class Worker:
    """Runs `reading` loops, which feed `works`, and `periodic` ones."""

    def __init__(
        self,
        *,
        reading: Sequence[Loop],
        periodic: Sequence[Loop],
        works: Sequence[Work],
        metrics: Metrics,
        chance: random.Random,
    ) -> None:
        self._reading = reading
        self._periodic = periodic
        self._works = works
        self._failures = metrics.worker_failures
        self._chance = chance

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then end within three seconds."""
        reading = [asyncio.ensure_future(self._look_after(loop, stop)) for loop in self._reading]
        periodic = [asyncio.ensure_future(self._look_after(loop, stop)) for loop in self._periodic]
        _log.info("loops started", loops=[loop.name for loop in (*self._reading, *self._periodic)])
        try:
            await stop.wait()
        finally:
            # What they do is safe to break off and done again by the next worker.
            await _end(periodic, 0.0)
            deadline = asyncio.get_running_loop().time() + GRACE_S
            await _end(reading, GRACE_S / 2)
            left = deadline - asyncio.get_running_loop().time()
            broken_off = sum(await asyncio.gather(*(work.drain(max(0.1, left)) for work in self._works)))
            _log.info("loops stopped", left_pending=broken_off)

    async def _look_after(self, loop: Loop, stop: asyncio.Event) -> None:
        failures = 0
        clock = asyncio.get_running_loop()
        while not stop.is_set():
            began = clock.time()
            try:
                await loop.run(stop)
            except Exception as problem:
                failures = 1 if clock.time() - began > _HEALTHY_S else failures + 1
                self._failures.labels(loop.name).inc()
                self._report(loop, problem, failures)
                await stopped_within(stop, pause_s(failures, self._chance))

    def _report(self, loop: Loop, problem: Exception, failures: int) -> None:
        if not isinstance(problem, BookingError):
            _log.error("loop failed", loop=loop.name, exc_info=problem)
        elif failures == 1 or failures % 30 == 0:
            # An outage: told when it begins and about once a minute.
            _log.warning("loop waits", loop=loop.name, failures=failures, error=problem.message)


async def _end(tasks: Sequence[asyncio.Future[None]], grace_s: float) -> None:
    """Wait for tasks for a while, then cancel those that are left."""
    if not tasks:
        return
    if grace_s:
        await asyncio.wait(tasks, timeout=grace_s)
    while left := [task for task in tasks if not task.done()]:
        for task in left:  # again, because a cancellation that meets a timeout just due is taken for it, and lost
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
