"""Real servers for every test: one Postgres and one Redis a session, a database of its own and an empty Redis a test.

`TEST_POSTGRES_BIN` and `TEST_REDIS_BIN` name other binaries to run the suite on (Debian's, say);
`TEST_REDIS_CLUSTER=1` runs Redis as a cluster of one node, which refuses scripts that touch undeclared keys.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import redis

from service.app import Services, default_slot, open_services
from service.config import Settings
from service.db.connection import Database
from service.db.migrate import migrate
from service.db.sample import load_sample
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.redis import EmbeddedRedis
from tests.servers import eventually, folder_of_its_own, free_port


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests of two processes run beside each other; one marked `alone` waits for the others, and they for it.

    Around everything else, so that nobody's time runs while it waits.
    """
    with Path(__file__).open() as whoever_runs_these_tests:
        fcntl.flock(whoever_runs_these_tests, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """One Postgres for the session."""
    binaries = os.environ.get("TEST_POSTGRES_BIN")
    with folder_of_its_own() as folder:
        # Dropping a database writes all others out first; it is quick where nothing must outlive the machine.
        server = EmbeddedPostgres(folder, binaries=Path(binaries) if binaries else None, durable=False)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """One Redis for the session."""
    binary = os.environ.get("TEST_REDIS_BIN")
    cluster = os.environ.get("TEST_REDIS_CLUSTER") == "1"
    with folder_of_its_own() as folder:
        server = EmbeddedRedis(
            folder,
            binary=Path(binary) if binary else None,
            cluster=cluster,
            tcp_port=free_port() if cluster else None,
        )
        server.start()
        yield server
        server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(postgres_server: EmbeddedPostgres) -> str:
    """The name of a migrated database with the sample data, to be copied for each test."""
    name = "template_booking"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"DROP DATABASE IF EXISTS {name}")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    url = database_named(postgres_server.url, name)
    await migrate(url)
    database = Database(url)
    await database.open()
    await load_sample(database, default_slot(Settings()))
    await database.close()
    return name


@pytest.fixture
async def database_url(postgres_server: EmbeddedPostgres, template_database: str) -> AsyncIterator[str]:
    """A migrated database of the test's own, with the sample data."""
    name = f"t_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield database_named(postgres_server.url, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """An empty Redis."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings that point to the test's servers, with the mocks' chances switched off."""
    return replace(
        Settings(),
        database_url=database_url,
        redis_url=redis_url,
        data_dir=tmp_path,
        redis_timeout_ms=3_000,  # a machine that stands still for a moment is not a Redis that is away
        mock_seed=7,
        mock_calendar_failure_rate=0.0,
        mock_crm_failure_rate=0.0,
        mock_delay_scale=0.0,
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    """Every object of a process, on the test's servers, once it goes by its grid alone."""
    async with open_services(settings) as opened:
        await eventually(lambda: not opened.breaker.behind, what="the grid told", every_s=0.001)
        yield opened


@pytest.fixture
async def org(services: Services) -> int:
    """The sample organization's integer key."""
    found = await services.roster_store.organization("demo")
    assert found is not None
    return found


def database_named(url: str, name: str) -> str:
    """The same server's URL for another database."""
    return url.replace("/scheduling_db", f"/{name}", 1)
