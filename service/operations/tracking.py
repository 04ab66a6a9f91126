"""Work that outlives the request that asked for it.

A client that goes away must not stop a booking between its claim and its commit: the work runs in a task of
its own, the request only waits for it, and shutdown waits for whatever is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


class TrackedTasks:
    """The tasks under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, which goes on when the caller is cancelled."""
        # As by asyncio.shield, which takes two closures and callbacks each way: every booking comes here.
        given: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.begin(work).add_done_callback(partial(_hand_on, given))
        try:
            return await given
        finally:
            del given  # a failure leads to this frame, and must not lead back to itself

    def begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin `work` that nobody needs to wait for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so an abandoned failure is not reported by the loop as never retrieved

    async def drain(self, timeout_s: float) -> int:
        """Wait for what is under way; how many were left after `timeout_s`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        return len(self._tasks)


def _hand_on(given: asyncio.Future[Result], task: asyncio.Task[Result]) -> None:
    """Let who waits, if anybody still does, have what came of a task."""
    if given.done():
        return
    if task.cancelled():
        given.cancel()
        return
    problem = task.exception()
    if problem is not None:
        given.set_exception(problem)
    else:
        given.set_result(task.result())
