"""A Redis of the test's own, which may be hung, killed and emptied, and processes that are told to do without it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.app import Services, open_services
from service.claims.breaker import Trip
from service.config import Settings
from service.embedded.redis import EmbeddedRedis
from service.errors import GateClosed
from tests.servers import eventually, folder_of_its_own, free_port


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A Redis that may be hung or killed."""
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


@pytest.fixture
def redis_url(server: EmbeddedRedis) -> str:
    """That Redis instead of the session's."""
    return server.url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A process that waits as short for Redis as it does in production, and gives claims up soon."""
    return replace(settings, redis_timeout_ms=250, claim_ttl_ms=1_500)


@pytest.fixture
async def without(settings: Settings) -> AsyncIterator[Services]:
    """Another process, which never asks Redis."""
    async with open_services(settings) as opened:
        stay_away(opened)
        yield opened


def stay_away(services: Services) -> None:
    """Make a process do without Redis from now on, as if nobody but it could not reach it."""
    services.keeping_gate.cancel()
    services.breaker.trip(Trip.FAULT)


async def agreed(services: Services) -> None:
    """Do what the worker does until nothing is pending, nothing waits to be repaired, and deficits are looked at.

    On a slow machine a claim's reply may come too late although nobody hung Redis: that claim waits to be given up.
    """

    async def all_done() -> bool:
        try:
            await services.reconcile()
            await services.heal()
            await services.heal.owed()
            return not await services.grid.pending() and not await services.gate_store.owed()
        except GateClosed:
            return False

    await eventually(all_done, what="nothing pending, nothing to repair, deficits right")


async def asked_again(services: Services) -> None:
    """Wait until Redis is asked again."""
    await eventually(lambda: services.breaker.closed, what="Redis asked again")


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to look into the tables with."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
