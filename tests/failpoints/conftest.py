"""One system for the whole matrix: the session's servers, a database of the module's own, receivers that are well."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Generator
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import redis

from service.app import open_services
from service.config import Settings
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.redis import EmbeddedRedis
from service.mocks.server import serving
from tests.api.client import open_client
from tests.conftest import database_named
from tests.failpoints.lives import book_some
from tests.failpoints.system import running
from tests.failpoints.world import CLAIM_TTL_S, ROUND_S, World
from tests.faults.receiver import Receiver
from tests.servers import eventually, folder_of_its_own

_SHOWN = 6_000
KEY = "failpoints"
# One for each case of the whole matrix that is not a booking, and a few more.
APPOINTMENTS = 80


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes wrote when a case failed."""
    report = yield
    if report.failed and isinstance(world := item.funcargs.get("world"), World):
        report.sections.append(("log of the processes", world.system.log()[-_SHOWN:]))
    return report


@pytest.fixture(scope="module")
def folder() -> Generator[Path]:
    """Where the processes write."""
    with folder_of_its_own() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    postgres_server: EmbeddedPostgres, redis_server: EmbeddedRedis, template_database: str, folder: Path
) -> AsyncIterator[World]:
    """The system, ready to book."""
    name = f"failpoints_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    url = database_named(postgres_server.url, name)
    with redis.Redis.from_url(redis_server.url) as empty:
        empty.flushall()
    settings = replace(Settings(), database_url=url, redis_url=redis_server.url, redis_timeout_ms=3_000)
    crm, calendar = Receiver(Random(1), calm=True), Receiver(Random(2), calm=True)
    async with serving(crm.app) as crm_url, serving(calendar.app) as calendar_url, open_services(settings) as services:
        environment = {
            "DATABASE_URL": url,
            "REDIS_URL": redis_server.url,
            "CRM_WEBHOOK_URL": crm_url,
            "CALENDAR_API_URL": calendar_url,
            "DATA_DIR": str(folder),
            "CLAIM_TTL_MS": str(round(CLAIM_TTL_S * 1000)),
            "RECONCILE_INTERVAL_MS": str(round(ROUND_S * 1000)),
            "SWEEP_INTERVAL_MS": "300",
            "SWEEP_OVERDUE_MS": "1500",
            "RECLAIM_IDLE_MS": "800",
            "WEBHOOK_RETRY_DELAY_MS": "20",
            "CALENDAR_SYNC_INTERVAL_S": "0",
            "REDIS_TIMEOUT_MS": "3000",
            "LOG_LEVEL": "info",
        }
        org = await services.roster_store.organization("demo")
        assert org is not None
        await admin_key(url)
        async with running(folder, environment) as system:
            opened = World(system, services, org, KEY, crm, [])

            async def ready() -> bool:
                async with open_client(system.url, KEY) as client:
                    return (await client("GET", "/readyz")).status == 200

            await opened.until(ready, what="a system that can book")
            await eventually(lambda: grid_is_whole(opened), what="every day of the grid")
            async with open_client(system.url, KEY) as client:
                offered = await client.slots(calendar_id="cal-1", days=30)
            # No two overlap, and few of a coach lie on one day; the first may be too near when their turn comes.
            opened.slots = [one for one in reversed(offered[100:]) if one["start_time"][11:16] in ("14:00", "16:00")]
            await book_some(opened, APPOINTMENTS)
            yield opened
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def grid_is_whole(world: World) -> bool:
    """Whether Redis has every day."""
    found = await world.services.rebuild.verify(lambda _: None)
    return all(one.holds and not one.unknown_days for one in found)


async def admin_key(url: str) -> None:
    """A key without a limit."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "INSERT INTO api_keys (org_id, key_id, key_hash, name, scopes, rate_limit)"
        " SELECT org_id, $1, $2, $3, $4, 0 FROM organizations WHERE name = 'demo'",
        uuid4(),
        hashlib.sha256(KEY.encode()).digest(),
        KEY,
        ["read", "write"],
    )
    await connection.close()
