"""How a process of the service runs: until it is told to stop."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable

# Each connection is one; many shells and services allow 1,024 unless one asks for more.
_OPEN_FILES = 65_536


def until_told(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a process's main work on uvloop until SIGTERM or SIGINT."""
    import uvloop

    allow_open_files()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    uvloop.run(main())


def allow_open_files(wanted: int = _OPEN_FILES) -> None:
    """Let this process, and those it starts, have so many files open, or as many as it may allow itself."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
