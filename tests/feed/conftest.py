"""The API in the test's own process, another organization beside it, and deliveries to whatever the test serves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.app import Services
from service.outside.http import open_session
from tests.api_people.conftest import api, elsewhere
from tests.delivery.bench import Bench

__all__ = ["api", "elsewhere"]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session for calls outward."""
    async with open_session() as opened:
        yield opened


@pytest.fixture
def bench(services: Services, org: int, session: aiohttp.ClientSession) -> Bench:
    """Everything a test of deliveries needs."""
    return Bench(services=services, org=org, session=session)
