"""What tests need of the machine: free ports, folders, and waiting for a condition with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from pathlib import Path

# What may pass between a signal and the end of everything (the contract's word).
LONGEST_STOP_S = 10.0
MEMORY = Path("/dev/shm")  # noqa: S108 - `mkdtemp` makes the folder in it ours
# Below those that the kernel gives to whoever asks for any: between the look and the listening nobody gets one of them.
# And so that nobody gets, or is given here, what a node of a Redis Cluster listens on too: its port and ten thousand.
_FIRST_PORT, _AFTER_LAST_PORT = 10_000, 20_000


def ports_of_this_process() -> Iterator[int]:
    """Each once before any comes again; of processes that test beside each other no two have one in common."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = list(range(_FIRST_PORT + number, _AFTER_LAST_PORT, beside))
    random.shuffle(ports)
    return cycle(ports)


_PORTS = ports_of_this_process()


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on, and that is given to nobody else."""
    while True:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    *,
    within_s: float = 60.0,
    every_s: float = 0.02,
    what: str = "the condition",
) -> None:
    """Wait until `condition` holds, looking every so often; fail with `what` when the deadline passes."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s} s"
        await asyncio.sleep(every_s)


@contextlib.contextmanager
def folder_of_its_own(place: Path | None = None) -> Iterator[Path]:
    """A folder in `place` that is removed in the end; by default in memory if there is room: quicker.

    Not below pytest's: every pytest that starts closes that to other users, and root's Postgres runs as one.
    """
    if place is None and MEMORY.exists() and shutil.disk_usage(MEMORY).free > 2**30:
        place = MEMORY
    folder = Path(tempfile.mkdtemp(prefix="booking-test-", dir=place)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
