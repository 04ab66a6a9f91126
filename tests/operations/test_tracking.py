"""Work that outlives its request tells who waits what came of it, and goes on when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from service.errors import Unavailable
from service.operations.tracking import TrackedTasks


async def done_at(moment: asyncio.Event, told: list[str]) -> str:
    await moment.wait()
    told.append("done")
    return "its result"


async def test_who_waits_has_the_result() -> None:
    tasks, moment, told = TrackedTasks(), asyncio.Event(), list[str]()
    waiting = asyncio.ensure_future(tasks.run(done_at(moment, told)))
    await asyncio.sleep(0)
    assert (len(tasks), told) == (1, [])
    moment.set()
    assert await waiting == "its result"
    assert (len(tasks), told) == (0, ["done"])


async def test_it_goes_on_when_who_waits_goes_away() -> None:
    tasks, moment, told = TrackedTasks(), asyncio.Event(), list[str]()
    waiting = asyncio.ensure_future(tasks.run(done_at(moment, told)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(tasks) == 1
    moment.set()
    assert await tasks.drain(5.0) == 0
    assert told == ["done"]


async def test_work_that_is_cancelled_cancels_who_waits() -> None:
    tasks = TrackedTasks()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await tasks.run(cancelled())
    assert len(tasks) == 0


async def test_a_failure_is_who_waits_for_its_and_leaves_nothing_to_the_collector() -> None:
    tasks = TrackedTasks()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise Unavailable("for now")

    with pytest.raises(Unavailable, match="for now"):
        await tasks.run(fails())
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with contextlib.suppress(Unavailable):
                await tasks.run(fails())
        left = gc.collect()
    finally:
        gc.enable()
    assert left < 50
