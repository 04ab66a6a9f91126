"""The installation that is measured: Postgres and Redis on the disk, a real `booking up` on them, nothing shared.

Everything listens on the loopback, lives in one folder, and ends with the block however that ends; whoever kills the
benchmark itself ends it too, because the kernel tells every child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from loadtest.bench.usage import Pids, children_of
from service.config import Settings
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.process import OwnedProcess, Steps
from service.embedded.redis import EmbeddedRedis
from service.embedded.wheels import postgres_binaries

ROOT = Path(__file__).resolve().parents[2]
DEBIAN_POSTGRES = Path("/usr/lib/postgresql/15/bin")
API_PROCESSES = 2
DEBIAN_REDIS = Path("/usr/bin/redis-server")
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 12.0
_LOOK_S = 0.05
_READY = b"HTTP/1.1 200"
_BOOKING = ("-m", "service.cli")


class Place:
    """One installation in `folder`, its settings as shipped but for `knobs`; `servers` is "embedded" or "debian"."""

    def __init__(self, folder: Path, knobs: Mapping[str, object], *, servers: str = "embedded") -> None:
        debian = servers == "debian"
        self.folder = folder
        self.postgres_binaries = DEBIAN_POSTGRES if debian else postgres_binaries()
        self._postgres = EmbeddedPostgres(folder / "servers", binaries=self.postgres_binaries)
        self._redis = EmbeddedRedis(folder / "servers", binary=DEBIAN_REDIS if debian else None)
        self._knobs = knobs
        self.port = free_port()
        self._up: OwnedProcess | None = None

    @property
    def database_url(self) -> str:
        """Where Postgres is: a unix socket, for the service as for pgbench."""
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """Where Redis is: a unix socket."""
        return self._redis.url

    @property
    def pids(self) -> Pids:
        """Which processes belong to which part."""
        assert self._up is not None, "it was not started"
        family = children_of(self._up.pid)
        return Pids(
            api=tuple(pid for pid, words in family.items() if "api-process" in words),
            worker=tuple(pid for pid, words in family.items() if "service.cli worker" in words),
            mocks=tuple(pid for pid, words in family.items() if "service.cli mock" in words),
            redis=(self._redis.pid or 0,),
            postgres=self._postgres.pid or 0,
        )

    async def _start(self, stack: AsyncExitStack) -> None:
        for server in (self._postgres, self._redis):
            stack.push_async_callback(_stop, server)
            await _drive(server.starting(READY_WITHIN_S))
        ports = {name: free_port() for name in ("CALENDAR_PORT", "CRM_PORT", "AUTH_PORT")}
        self._up = await stack.enter_async_context(self._running((*_BOOKING, "up"), "up.log", self.port, ports))

    @asynccontextmanager
    async def serving(
        self, port: int, *, workers: int = API_PROCESSES, **knobs: object
    ) -> AsyncGenerator[tuple[int, ...]]:
        """More API processes on the same servers, with settings of their own; their process numbers."""
        name = f"serve-{port}.log"
        async with self._running((*_BOOKING, "serve"), name, port, knobs | {"WORKERS": workers}) as process:
            yield tuple(children_of(process.pid))

    @asynccontextmanager
    async def hello(self, port: int, *, processes: int = API_PROCESSES) -> AsyncGenerator[None]:
        """Bare Sanic on a port, with as many processes as the API has."""
        words = ("-m", "loadtest.bench.hello", "--port", str(port), "--processes", str(processes))
        async with self._running(words, "hello.log", port, {}, path="/"):
            yield

    @asynccontextmanager
    async def _running(
        self, words: Sequence[str], log: str, port: int, knobs: Mapping[str, object], *, path: str = "/readyz"
    ) -> AsyncGenerator[OwnedProcess]:
        """A program that listens on a port, once `path` answers 200 there; ended with the block."""
        with (self.folder / log).open("ab") as out:
            process = OwnedProcess(
                [sys.executable, *words],
                death_signal=signal.SIGTERM,
                env=self.environment(PORT=port, **knobs),
                output=out.fileno(),
                cwd=self.folder,
            )
        try:
            await _ready(process, port, path, self.folder / log)
            yield process
        finally:
            await _drive(process.stopping(((signal.SIGTERM, STOPPED_WITHIN_S),)))

    def environment(self, **knobs: object) -> dict[str, str]:
        """Settings as shipped, but for where things are; nothing of the caller's environment says otherwise."""
        settings = {field.metadata["env"] for field in fields(Settings)}
        kept = {name: value for name, value in os.environ.items() if name not in settings}
        chosen = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "DATA_DIR": self.folder / "data",
            "WORKERS": API_PROCESSES,
            "PYTHONPATH": ROOT,
            "MOCK_SEED": 7,
            **self._knobs,
            **knobs,
        }
        return kept | {name: str(value) for name, value in chosen.items()}

    async def cli(self, *words: str) -> None:
        """Run a `booking` command beside it. Raises RuntimeError with what it said when it fails."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.cli", *words),
            cwd=self.folder,
            env=self.environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"booking {' '.join(words)} failed:\n{said.decode()[-2000:]}")

    @contextlib.contextmanager
    def only_servers(self) -> Iterator[None]:
        """For the length of the block worker and mocks stand still: what else is measured has the machine."""
        pids = (*self.pids.worker, *self.pids.mocks)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @asynccontextmanager
    async def sql(self) -> AsyncGenerator[Any]:
        """A connection to its Postgres."""
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def redis(self) -> AsyncGenerator[Any]:
        """A client of its Redis."""
        client = Redis.from_url(self.redis_url, protocol=2)
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def running_place(
    folder: Path, knobs: Mapping[str, object], *, servers: str = "embedded"
) -> AsyncGenerator[Place]:
    """An installation that can book, for the length of the block. Raises RuntimeError when it does not start."""
    place = Place(folder, knobs, servers=servers)
    async with AsyncExitStack() as stack:
        await place._start(stack)  # noqa: SLF001 - the block is the only way to start one
        yield place


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def _ready(process: OwnedProcess, port: int, path: str, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
    while not await _answers(port, path):
        late = asyncio.get_running_loop().time() > deadline
        if late or not process.alive():
            what = f"was not ready within {READY_WITHIN_S:.0f} s" if late else "ended"
            raise RuntimeError(f"the service {what}:\n{_last_words(log)}")
        await asyncio.sleep(_LOOK_S)


async def _answers(port: int, path: str) -> bool:
    """Whether a path answers 200; the API's does when it can book."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    with contextlib.closing(writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        try:
            return (await asyncio.wait_for(reader.read(64), 2.0)).startswith(_READY)
        except (TimeoutError, OSError):
            return False


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _stop(server: EmbeddedPostgres | EmbeddedRedis) -> None:
    await _drive(server.stopping(10.0))


async def _drive(steps: Steps) -> None:
    for _ in steps:
        await asyncio.sleep(0.01)
