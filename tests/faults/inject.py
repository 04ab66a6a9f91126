"""What a fault is, and what it is to inject one: begin it, hold it, wait for the proof that it was met, heal it.

Each fault is an async context manager: entering breaks something, leaving makes it whole again. What it yields is the
evidence, so that a fault that disturbed nothing cannot pass for one that was survived.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from random import Random

from tests.faults.clients import Load
from tests.faults.history import FaultSpan, History
from tests.faults.machine import Machine
from tests.servers import eventually

# So long a fault is held beyond its time when nothing has met it yet.
PATIENCE_S = 8.0


@dataclass(frozen=True)
class Site:
    """Where faults happen: the installation, its clients and what they have seen so far."""

    machine: Machine
    load: Load
    history: History


@dataclass
class Evidence:
    """How often something met the fault, in words `what`; `look` counts anew while it lasts."""

    what: str
    count: int = 0
    look: Callable[[], int | Awaitable[int]] | None = None

    async def seen(self) -> bool:
        """Whether anything has met it by now; true for a fault that can only tell when it is over."""
        if self.look is None:
            return True
        found = self.look()
        self.count = await found if inspect.isawaitable(found) else found
        return self.count > 0


Inject = Callable[[Site, Random], AbstractAsyncContextManager[Evidence]]


@dataclass(frozen=True)
class Fault:
    """One way to break something. `part` is what it breaks: two faults of one part never overlap.

    It is held for a time between the bounds of `seconds`.
    """

    name: str
    part: str
    inject: Inject
    seconds: tuple[float, float] = (1.0, 2.5)


async def inflict(fault: Fault, site: Site, chance: Random, seconds: float) -> FaultSpan:
    """Inject a fault, hold it for `seconds` and until it was met (or patience ends), heal it."""
    began = time.monotonic()
    try:
        async with fault.inject(site, chance) as evidence:
            await asyncio.sleep(seconds)
            with suppress(AssertionError):
                await eventually(evidence.seen, within_s=PATIENCE_S, what=evidence.what)
    except AssertionError as problem:
        return FaultSpan(fault.name, began, time.monotonic(), reached=False, note=f"not healed: {problem}")
    note = f"{evidence.count} {evidence.what}"
    return FaultSpan(fault.name, began, time.monotonic(), reached=evidence.count > 0, note=note)
