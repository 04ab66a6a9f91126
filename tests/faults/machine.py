"""The installation under test: servers and a CRM of its own, a proxy before each, and a real `booking up` on them.

`booking up` replaces its processes when they die; Postgres and Redis are this machine's, and it starts them again.
Everything listens on the loopback, lives in one folder and ends with the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from redis.asyncio import Redis

from service.embedded.postgres import EmbeddedPostgres
from service.embedded.process import Steps
from service.embedded.redis import EmbeddedRedis
from tests.api.stack import CALM, Ended, Stack, listening
from tests.faults.crm import Crm
from tests.faults.postgres_wire import CommitWatch
from tests.faults.proxy import Proxy
from tests.faults.world import IN_CALENDAR
from tests.servers import eventually, free_port

DEBIAN_POSTGRES = Path("/usr/lib/postgresql/15/bin")
DEBIAN_REDIS = Path("/usr/bin/redis-server")
WORKERS = 2
CLAIM_TTL_MS = 3_000
# Everything that waits waits for as short as it may, so that a run of minutes sees what otherwise takes hours.
IMPATIENT: dict[str, object] = {
    **CALM,
    "WORKERS": WORKERS,
    "CLAIM_TTL_MS": CLAIM_TTL_MS,
    "RECONCILE_INTERVAL_MS": 500,
    "SWEEP_INTERVAL_MS": 500,
    "SWEEP_OVERDUE_MS": 4_000,
    "RECLAIM_IDLE_MS": 2_000,
    "WEBHOOK_RETRY_DELAY_MS": 50,
    "WEBHOOK_TIMEOUT_MS": 500,
    "WEBHOOK_RETRY_ATTEMPTS": 100,
    "RATE_LIMIT_MAX_REQUESTS": 0,
    "MIN_BOOKING_HOURS_AHEAD": 0,
    "LOG_LEVEL": "info",
}


class Machine:
    """One installation. `servers` is "embedded" or "debian"; `cluster` makes Redis a cluster of one node."""

    def __init__(self, folder: Path, chance: Random, *, servers: str = "embedded", cluster: bool = False) -> None:
        debian = servers == "debian"
        self.folder = folder
        self.postgres = EmbeddedPostgres(
            folder / "servers", binaries=DEBIAN_POSTGRES if debian else None, tcp_port=free_port()
        )
        self.redis_server = EmbeddedRedis(
            folder / "servers", binary=DEBIAN_REDIS if debian else None, cluster=cluster, tcp_port=free_port()
        )
        self._crm_port = free_port()
        self.crm = Crm()
        self.postgres_proxy = Proxy(_port(self.postgres.tcp_url), Random(chance.random()), CommitWatch)
        self.redis_proxy = Proxy(_port(self.redis_server.tcp_url), Random(chance.random()))
        self.crm_proxy = Proxy(self._crm_port, Random(chance.random()))
        self.stack = Stack(
            folder,
            **IMPATIENT,
            DATABASE_URL=_through(self.postgres.tcp_url, self.postgres_proxy),
            REDIS_URL=_through(self.redis_server.tcp_url, self.redis_proxy),
            DEFAULT_ORGANIZATION=IN_CALENDAR,
            CRM_WEBHOOK_URL=f"http://127.0.0.1:{self.crm_proxy.port}",
        )
        self._opened = AsyncExitStack()

    @property
    def url(self) -> str:
        """Where the API is."""
        return self.stack.url

    @property
    def database_url(self) -> str:
        """Postgres itself, beside the proxy."""
        return self.postgres.tcp_url

    @property
    def redis_url(self) -> str:
        """Redis itself, beside the proxy."""
        return self.redis_server.tcp_url

    async def start(self) -> None:
        """Start everything and wait until it can book."""
        self._opened.push_async_callback(self._stop_servers)
        await asyncio.gather(self.start_server(self.postgres), self.start_server(self.redis_server))
        for proxy in (self.postgres_proxy, self.redis_proxy, self.crm_proxy):
            self._opened.push_async_callback(proxy.close)
            await proxy.open()
        await self._opened.enter_async_context(listening(self.crm.app, self._crm_port))
        self._opened.push_async_callback(self.stack.remove)
        await self.stack.start()

    async def stop(self) -> None:
        """End everything, whatever state it is in."""
        await self._opened.aclose()

    async def start_server(self, server: EmbeddedPostgres | EmbeddedRedis) -> None:
        """Start Postgres or Redis, also after its death, and wait until it answers."""
        await _drive(server.starting(60.0))

    async def cli(self, *words: str) -> Ended:
        """Run a `booking` command beside it (through the proxies, as an operator would)."""
        return await self.stack.cli(*words)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to Postgres itself."""
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Any]:
        """A client of Redis itself."""
        client = Redis.from_url(self.redis_url, protocol=2)
        try:
            yield client
        finally:
            await client.aclose()

    def api_pids(self) -> list[int]:
        """The API processes."""
        return self.stack.pids("api-process")

    def worker_pids(self) -> list[int]:
        """The background worker (the one that `booking up` runs)."""
        return self.stack.pids("service.cli worker")

    async def complete(self, within_s: float = 20.0) -> None:
        """Wait until every process of `booking up` is there."""

        def all_there() -> bool:
            return len(self.api_pids()) == WORKERS and len(self.worker_pids()) == 1

        await eventually(all_there, within_s=within_s, what="all processes")

    async def _stop_servers(self) -> None:
        await asyncio.gather(_drive(self.postgres.stopping(10.0)), _drive(self.redis_server.stopping(5.0)))


@asynccontextmanager
async def running_machine(
    folder: Path, chance: Random, *, servers: str = "embedded", cluster: bool = False
) -> AsyncIterator[Machine]:
    """A machine that can book, for the length of the block."""
    machine = Machine(folder, chance, servers=servers, cluster=cluster)
    try:
        await machine.start()
        yield machine
    finally:
        await machine.stop()


async def _drive(steps: Steps) -> None:
    for _ in steps:
        await asyncio.sleep(0.01)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def _through(url: str, proxy: Proxy) -> str:
    return url.replace(f":{_port(url)}", f":{proxy.port}")
