"""A whole system for a test: a real `booking up` in a folder of its own, ended by process number, log kept.

Its outside services are the mocks it starts by itself, or applications the test serves on the ports it is
told. Nothing here waits for time to pass; everything waits for a condition.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from aiohttp import web
from redis.asyncio import Redis

from service.config import Settings
from service.embedded import RunFile
from tests.servers import LONGEST_STOP_S, eventually, free_port

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = LONGEST_STOP_S
# Of the shared system: long enough for a hundred requests, short enough to see the next one.
RATE_WINDOW_MS = 3000
UNREPAIRED = "SELECT count(*) FROM grid_repairs WHERE repaired_at IS NULL OR owed"
# What coaches are owed is looked at every five seconds, and once more after it was repaired.
REPAIRED_WITHIN_S = 60.0
# The mocks answer at once and never fail, and calendars are not fetched, unless a test asks for it.
CALM: dict[str, object] = {
    "CALENDAR_SYNC_INTERVAL_S": 0,
    "MOCK_CALENDAR_FAILURE_RATE": 0,
    "MOCK_CRM_FAILURE_RATE": 0,
    "MOCK_DELAY_SCALE": 0,
    "MOCK_SEED": 7,
    # A machine that stands still for a moment is not a Redis that is away.
    "REDIS_TIMEOUT_MS": 3_000,
    "WEBHOOK_RETRY_DELAY_MS": 20,
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that came to its end."""

    code: int
    out: str
    err: str


class Stack:
    """One installation: start, look into, disturb and stop it."""

    def __init__(self, folder: Path, **knobs: object) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.ports = {name: free_port() for name in ("PORT", "CALENDAR_PORT", "CRM_PORT", "AUTH_PORT")}
        settings = {field.metadata["env"] for field in fields(Settings)}
        self.environment = {name: value for name, value in os.environ.items() if name not in settings}
        chosen = {**self.ports, "DATA_DIR": self.data_dir, **knobs}
        self.environment |= {"PYTHONPATH": str(ROOT), **{name: str(value) for name, value in chosen.items()}}
        self._log = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._seen = 0

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.ports['PORT']}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running `booking up`."""
        assert self._process is not None, "it was not started"
        return self._process

    def log(self) -> str:
        """What it and its children wrote since the last start."""
        with self._log.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode(errors="replace")

    def begin(self) -> None:
        """Start it, without waiting for anything."""
        with self._log.open("ab") as out:
            self._seen = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "up"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.begin()

        def ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()[-3000:]}"
            return "\nReady.\n" in self.log()

        await eventually(ready, within_s=READY_WITHIN_S, what="being ready")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send it a stop signal and wait for its end; how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        await eventually(lambda: self.process.poll() is not None, within_s=STOPPED_WITHIN_S, what="the end")
        return time.monotonic() - began

    async def remove(self) -> None:
        """End whatever is left of it, by force if it must be."""
        if self._process is not None and self._process.poll() is None:
            with suppress(AssertionError):
                await self.stop()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(5)

    def processes(self) -> dict[int, str]:
        """Command lines of all its processes by number: those with its DATA_DIR, and Postgres' that live in it."""
        mark = f"DATA_DIR={self.data_dir}\0".encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = mark in (entry / "environ").read_bytes() + b"\0"
                # Postgres' children write their titles over their environment.
                if command and (ours or (entry / "cwd").readlink().is_relative_to(self.data_dir)):
                    found[int(entry.name)] = command
        return found

    def pids(self, word: str) -> list[int]:
        """Numbers of its processes whose command line holds `word`."""
        return sorted(pid for pid, command in self.processes().items() if word in command)

    def kill(self, *pids: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to some of its processes."""
        for pid in pids:
            os.kill(pid, number)

    @property
    def run_file(self) -> RunFile:
        """Where its servers are."""
        found = RunFile.read(self.data_dir)
        assert found is not None, "it is not running"
        return found

    async def cli(self, *words: str) -> Ended:
        """Run a `booking` command beside it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.cli",
            *words,
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Ended(process.returncode or 0, out.decode(), err.decode())

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to its Postgres."""
        connection = await asyncpg.connect(self.run_file.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, query: str, *arguments: object) -> list[Any]:
        """The rows of one statement."""
        async with self.database() as connection:
            return await connection.fetch(query, *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        """The only value of one statement."""
        async with self.database() as connection:
            return await connection.fetchval(query, *arguments)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Any]:
        """A client of its Redis."""
        client = Redis.from_url(self.run_file.redis_url, protocol=2)
        try:
            yield client
        finally:
            await client.aclose()

    async def pending(self) -> int:
        """Claims and releases that are not settled."""
        async with self.redis() as redis:
            return await redis.hlen("{s0}:pending")

    async def settled(self) -> bool:
        """Whether nothing is pending nor to be repaired: a machine that stands still for a moment books without Redis.

        Only then do the two sides agree on what coaches are owed.
        """
        return await self.pending() == 0 and await self.value(UNREPAIRED) == 0

    async def verify(self) -> None:
        """See that Redis and Postgres agree once all is settled."""
        await eventually(self.settled, within_s=REPAIRED_WITHIN_S, what="everything being settled")
        verified = await self.cli("verify")
        assert (verified.code, verified.out.split()[-1:]) == (0, ["holds"]), verified

    async def add_key(self, *scopes: str, limit: int | None = 0, organization: str = "demo") -> str:
        """A new key, put straight into the table (`booking keys create` has a test of its own)."""
        key = f"key-{uuid.uuid4().hex}"
        await self.rows(
            "INSERT INTO api_keys (org_id, key_id, key_hash, name, scopes, rate_limit)"
            " SELECT org_id, $1, $2, $3, $4, $5 FROM organizations WHERE name = $6",
            uuid.uuid4(),
            hashlib.sha256(key.encode()).digest(),
            key,
            list(scopes),
            limit,
            organization,
        )
        return key


@asynccontextmanager
async def running(folder: Path, **knobs: object) -> AsyncIterator[Stack]:
    """A calm installation in `folder`, ready, for the length of the block."""
    stack = Stack(folder, **{**CALM, **knobs})
    try:
        await stack.start()
        yield stack
    finally:
        await stack.remove()


@asynccontextmanager
async def listening(app: web.Application, port: int) -> AsyncIterator[None]:
    """Serve `app` on a port of the loopback for the length of the block."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        yield
    finally:
        await runner.cleanup()


def window_is_over(began: float) -> bool:
    """Whether the shared system may have begun another window since: where the machine stood still, it has."""
    return time.monotonic() - began >= RATE_WINDOW_MS / 1000


def log_lines(text: str) -> list[dict[str, Any]]:
    """The log's JSON lines."""
    return [msgspec.json.decode(line) for line in text.splitlines() if line.startswith("{")]
