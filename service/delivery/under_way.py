"""The entries being worked on: a bounded number of tasks, each known by its entry."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.errors import BookingError
from service.logs import get_logger

_log = get_logger("delivery.under_way")


class UnderWay:
    """At most `most` entries at a time. One that hangs holds one place and nobody else.

    Up to `behind` more are those that have made room: they are done but for what they share with others.
    """

    def __init__(self, name: str, most: int, *, behind: int = 0) -> None:
        self._name = name
        self._most = most
        self._altogether = most + behind
        self._freed = asyncio.Event()
        self._freed.set()
        self._held: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._at_work: set[str] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def free(self) -> int:
        """How many more may be started now."""
        return max(0, min(self._most - len(self._at_work), self._altogether - len(self._tasks)))

    def holds(self, entry_id: str) -> bool:
        """Whether the entry is being worked on, or waits here for its place."""
        return entry_id in self._held

    async def room(self, wait_s: float) -> int:
        """How many more may be started, waiting up to `wait_s` for there to be any."""
        if not self.free:
            try:
                await asyncio.wait_for(self._freed.wait(), wait_s)
            except TimeoutError:
                return 0
        return self.free

    async def start(self, entry_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as soon as there is a place. What it raises is logged; its entry stays pending."""
        if entry_id in self._held:  # taken over from ourselves: this work knows no more than that which is held
            work.close()
            return
        self._held.add(entry_id)
        try:
            while not self.free:
                await self._freed.wait()
        except BaseException:
            self._held.discard(entry_id)
            work.close()
            raise
        task = asyncio.ensure_future(work)
        self._tasks[entry_id] = task
        self._at_work.add(entry_id)
        if not self.free:
            self._freed.clear()
        task.add_done_callback(lambda done: self._done(entry_id, done))

    def make_room(self, entry_id: str) -> None:
        """What is left to do for an entry is in nobody's way: its place may be taken."""
        self._at_work.discard(entry_id)
        self._look_for_room()

    async def drain(self, timeout_s: float) -> int:
        """Wait for what is under way, then cancel the rest; how many that was."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    def _look_for_room(self) -> None:
        if self.free:
            self._freed.set()

    def _done(self, entry_id: str, task: asyncio.Task[None]) -> None:
        self._held.discard(entry_id)
        self._tasks.pop(entry_id, None)
        self._at_work.discard(entry_id)
        self._look_for_room()
        if task.cancelled():
            return
        problem = task.exception()
        if isinstance(problem, BookingError):
            _log.warning("entry left pending", of=self._name, entry=entry_id, error=problem.message)
        elif problem is not None:
            _log.error("entry left pending", of=self._name, entry=entry_id, exc_info=problem)
