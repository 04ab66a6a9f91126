"""The API in the test's own process, with the test's own database, and an organization besides the sample one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sanic import Sanic

from service.api.endpoint import Route
from service.api.server import build_application, serve
from service.app import Services, open_services
from service.assemble_api import build_api
from service.outside.http import open_session
from tests.api.client import Client, open_client
from tests.servers import eventually

ADMIN, READER, STRANGER = "admin-of-demo", "reader-of-demo", "admin-elsewhere"
EVERYTHING = frozenset({"read", "write", "admin"})


@asynccontextmanager
async def served(services: Services, *more: Route) -> AsyncIterator[Client]:
    """The API on a free port, for an administrator of the sample organization; with routes of the test's own."""
    async with open_session() as session:
        edge, routes = build_api(services, session)
        app = build_application(edge, [*routes, *more])
        Sanic.unregister_app(app)
        listening = socket.create_server(("127.0.0.1", 0))
        stop = asyncio.Event()
        serving = asyncio.ensure_future(serve(app, listening, stop))
        async with open_client(f"http://127.0.0.1:{listening.getsockname()[1]}", ADMIN) as client:

            async def answers() -> bool:
                return serving.done() or (await client("GET", "/livez")).status == 200

            await eventually(answers, what="the API")
            yield client
        stop.set()
        await serving


@pytest.fixture
async def elsewhere(services: Services) -> int:
    """Another organization."""
    async with services.database.transaction() as connection:
        return await connection.fetchval("INSERT INTO organizations (name) VALUES ('elsewhere') RETURNING org_id")


@pytest.fixture
async def api(services: Services, org: int, elsewhere: int) -> AsyncIterator[Client]:
    """A client with an administrator's key; keys of a reader and of another organization exist too."""
    await services.keys.add(org, ADMIN, "admin", EVERYTHING, 0)
    await services.keys.add(org, READER, "reader", frozenset({"read"}), 0)
    await services.keys.add(elsewhere, STRANGER, "stranger", EVERYTHING, 0)
    async with served(services) as client:
        yield client


@pytest.fixture
async def second(services: Services, api: Client) -> AsyncIterator[Client]:
    """The same API served by another process' objects."""
    async with open_services(services.settings) as others, served(others) as client:
        await client.slots(calendar_id="cal-1")  # it has a roster of its own now
        yield client
