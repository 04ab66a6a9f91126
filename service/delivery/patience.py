"""Waiting out an outage: a step that must be done is tried until it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.errors import OutcomeUnknown, Unavailable
from service.logs import get_logger

Result = TypeVar("Result")
LONGEST_PAUSE_S = 2.0

_log = get_logger("delivery.patience")


def pause_s(tries: int, chance: random.Random) -> float:
    """Seconds to wait after `tries` failures in a row: doubling with jitter, at most two seconds."""
    return chance.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, 0.1 * 2 ** min(tries, 10))


async def patiently(what: str, step: Callable[[], Awaitable[Result]], chance: random.Random) -> Result:
    """The result of `step`, which may safely be run again, once Postgres or Redis answers it."""
    tries = 0
    while True:
        try:
            return await step()
        except (Unavailable, OutcomeUnknown) as problem:
            tries += 1
            # Once a burst, not once a try: an outage is one thing to read about.
            if tries == 1:
                _log.warning("waiting", step=what, error=problem.message)
            await asyncio.sleep(pause_s(tries, chance))


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep for `seconds`, or until `stop` is set; whether it is."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return stop.is_set()
    return True
