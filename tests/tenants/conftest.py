"""Two organizations in one installation, with the same ids and with different ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from service.app import Services
from service.config import Settings
from tests.api.client import Client
from tests.api_people.conftest import served
from tests.tenants.endpoints import Endpoint, endpoints_of
from tests.tenants.tenant import SCOPES, Tenant


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A short horizon, so that each change of a roster is shown quickly."""
    return replace(settings, max_booking_days_ahead=4)


@pytest.fixture
async def nobody(services: Services) -> AsyncIterator[Client]:
    """The API, served, for somebody without a key."""
    async with served(services) as client:
        yield client.with_key(None)


@pytest.fixture
async def endpoints(nobody: Client) -> list[Endpoint]:
    """Every endpoint that is served."""
    return endpoints_of((await nobody("GET", "/openapi.json")).json)


@pytest.fixture
async def keyed(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Every endpoint that asks for a key."""
    return [endpoint for endpoint in endpoints if endpoint.scope is not None]


@pytest.fixture
async def pair(services: Services, nobody: Client, endpoints: list[Endpoint]) -> tuple[Tenant, Tenant]:
    """The organizations; each test has the second ask for what is the first's."""
    paths = {endpoint.path for endpoint in endpoints}
    quartz, indigo = [await _tenant(services, name, nobody) for name in ("quartz", "indigo")]
    await asyncio.gather(quartz.settle_in(paths), indigo.settle_in(paths))
    return quartz, indigo


@pytest.fixture
def quartz(pair: tuple[Tenant, Tenant]) -> Tenant:
    """Whose data is asked for."""
    return pair[0]


@pytest.fixture
def indigo(pair: tuple[Tenant, Tenant]) -> Tenant:
    """Who asks."""
    return pair[1]


async def _tenant(services: Services, name: str, nobody: Client) -> Tenant:
    async with services.database.transaction() as connection:
        org = await connection.fetchval("INSERT INTO organizations (name) VALUES ($1) RETURNING org_id", name)
    await services.keys.add(org, f"{name}-all", f"key of {name}", SCOPES, 0)
    for scope in SCOPES:
        await services.keys.add(org, f"{name}-without-{scope}", f"key of {name}", SCOPES - {scope}, 0)
    return Tenant(services, org, name, nobody.with_key(f"{name}-all"))
