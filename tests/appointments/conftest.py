"""The API in this process, on a free port, with the test's own servers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from service.api.server import build_application, serve
from service.app import Services
from service.assemble_api import build_api
from service.outside.http import open_session
from service.up import listen
from tests.servers import free_port


class Api:
    """Speaks JSON to the API with a key."""

    def __init__(self, session: aiohttp.ClientSession, base: str, key: str) -> None:
        self._session = session
        self._base = base
        self._headers = {"X-API-Key": key}

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, body) of one request."""
        async with self._session.request(
            method, self._base + path, json=body, headers={**self._headers, **headers}
        ) as answer:
            return answer.status, await answer.json(content_type=None)


@pytest.fixture
async def api(services: Services, org: int) -> AsyncIterator[Api]:
    from dataclasses import replace

    settings = replace(services.settings, port=free_port())
    await services.keys.add(org, "unlimited", "unlimited", frozenset({"read", "write", "admin"}), 0)
    listening = listen(settings)
    stop = asyncio.Event()
    async with open_session() as outward, aiohttp.ClientSession() as session:
        edge, routes = build_api(services, outward)
        running = asyncio.ensure_future(serve(build_application(edge, routes), listening, stop))
        yield Api(session, f"http://127.0.0.1:{settings.port}", "unlimited")
        await session.close()
        stop.set()
        await running
    listening.close()
