"""One call for everybody who is waiting: the shape both the Redis gate and the Postgres commit share.

While a call is in flight the next batch collects, so an idle service answers at once and a busy one makes fewer, larger
calls. There is a timer only for what nobody waits for, and for what would have to wait anyway. A caller that goes away
does not take the batch with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items and hands them to `call` in batches of at most `most`, `lanes` calls at a time.

    `call` gets the items in the order they came and returns one result each. When it raises, everybody
    in that batch gets the exception. `observe` is told the size of each batch, `done` is called after each call.

    With `gathering_s` a batch is handed over so long after its first item, or before: when it is `enough`, when an item
    comes and `more_to_come` denies that more will, or on `hurry`.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        most: int,
        lanes: int = 1,
        gathering_s: float = 0.0,
        enough: int = 1,
        more_to_come: Callable[[], bool] = lambda: True,
        observe: Callable[[int], None] | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        self._call = call
        self._most = most
        self._free_lanes = lanes
        self._gathering_s = gathering_s
        self._enough = enough if gathering_s else 1
        self._more_to_come = more_to_come
        self._observe = observe
        self._done = done
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._scheduled: asyncio.Handle | None = None
        self._hurried = False
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many items wait for a lane."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a call is in flight."""
        return bool(self._running)

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """A future for the item's result; await it, or shield it when the item must outlive the caller."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._free_lanes:
            self._schedule(loop)
        return future

    def hurry(self) -> None:
        """What waits has waited long enough."""
        if self._waiting and self._free_lanes:
            if self._scheduled is not None:
                self._scheduled.cancel()
            self._start()

    async def drain(self) -> None:
        """Wait until nothing is waiting or in flight."""
        while self._waiting or self._running:
            if self._running:
                await asyncio.wait(self._running)
            else:
                await asyncio.sleep(self._gathering_s)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._hurried:
            return
        if len(self._waiting) >= self._enough or not self._more_to_come():
            if self._scheduled is not None:
                self._scheduled.cancel()
            # call_soon, not now: every request parsed in this turn of the loop joins the batch.
            self._scheduled = loop.call_soon(self._start)
            self._hurried = True
        elif self._scheduled is None:
            self._scheduled = loop.call_later(self._gathering_s, self._start)

    def _start(self) -> None:
        self._scheduled, self._hurried = None, False
        while self._free_lanes and self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            self._free_lanes -= 1
            task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if self._observe is not None:
            self._observe(len(batch))
        try:
            results = await self._call([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except BaseException as problem:
            for _, future in batch:
                if not future.done():
                    future.set_exception(problem)
            if not isinstance(problem, Exception):
                raise
        finally:
            self._free_lanes += 1
            if len(self._waiting) >= self._enough or not self._more_to_come():
                self._start()
            elif self._waiting:
                self._schedule(asyncio.get_running_loop())
            if self._done is not None:
                self._done()
