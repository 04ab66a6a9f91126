"""What tests need of the machine: free ports, and waiting for a condition with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 15.0, what: str = "the condition"
) -> None:
    """Wait until `condition` holds; fail with `what` when the deadline passes."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s} s"
        await asyncio.sleep(0.02)
