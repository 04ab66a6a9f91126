"""The promise: however the load ends, what is judged is all of it, and nothing of it stays.

The page is Locust's own, and Ctrl-C comes in the middle of the load.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from tests.load.running import ROOT
from tests.load.stub import Stub, serving
from tests.load.test_smoke import processes_of
from tests.servers import eventually, free_port

ENOUGH = 200  # requests, of which some are always under way


@asynccontextmanager
async def load(folder: Path, *words: str, **environment: object) -> AsyncIterator[Process]:
    """A load under way, in a group of its own, as a terminal starts it: one that hears Ctrl-C.

    Whoever runs the tests in the background of a script may have been started with SIGINT ignored, which is inherited.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.load", "--shape", "smoke", "--report", str(folder), *words),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in environment.items()}},
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def test_what_users_do_after_ctrl_c_on_the_page_is_in_the_ledger(folder: Path) -> None:
    port, stub = free_port(), Stub(slow_s=0.05)

    async def begun() -> bool:
        form = {"user_count": 1, "spawn_rate": 1, "host": stub.url}
        page = f"http://127.0.0.1:{port}/swarm"
        with suppress(aiohttp.ClientConnectionError):
            async with aiohttp.ClientSession() as session, session.post(page, data=form) as answer:
                return answer.status == 200
        return False

    async with serving(stub):
        words = ["--host", stub.url, "--users", "20", "--pace", "0.05", "--seconds", "60", "--web"]
        async with load(folder, *words, KEY="any", LOCUST_WEB_PORT=port) as process:
            await eventually(begun, within_s=30)
            await eventually(lambda: stub.asked.total() > ENOUGH, within_s=30)
            os.killpg(process.pid, signal.SIGINT)
            out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert "verify: answered 201" in out.decode()
    assert "nobody was told so" not in out.decode()
    assert "was told as" not in out.decode()


async def test_an_installation_of_its_own_ends_with_a_load_that_is_killed(folder: Path) -> None:
    async with load(folder, "--users", "1", PORT=1, TMPDIR=folder) as process:
        assert process.stdout is not None
        while b"smoke on http" not in await asyncio.wait_for(process.stdout.readline(), 60):
            pass
        assert any("service.cli up" in words for words in processes_of(folder))
        os.killpg(process.pid, signal.SIGKILL)
        await eventually(lambda: not processes_of(folder), within_s=30)
