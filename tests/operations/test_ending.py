"""What runs beside the requests ends when it is told to, however often it has to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.app import _end as end_of_process
from service.delivery.worker import _end as end_of_worker


async def _end_one(task: asyncio.Task[None]) -> None:
    await end_of_worker([task], 0)


@pytest.mark.parametrize("end", [end_of_process, _end_one])
async def test_a_loop_that_takes_its_cancellation_for_a_timeout_is_cancelled_again(
    end: Callable[[asyncio.Task[None]], Coroutine[Any, Any, None]],
) -> None:
    lost = 0

    async def loop() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    task = asyncio.ensure_future(loop())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert lost == 2
