"""A bench with endpoints on the loopback, and the API for those who register them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from service.config import Settings
from service.outside.http import open_foreign_session
from tests.api_people.conftest import api, elsewhere
from tests.delivery.bench import Bench
from tests.delivery.conftest import bench, impatient_mocks, session
from tests.endpoints.hooks import Hooks

__all__ = ["api", "bench", "elsewhere", "impatient_mocks", "session"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Receivers of the tests listen on the loopback."""
    return replace(settings, webhook_allow_private=True, max_booking_days_ahead=8)


@pytest.fixture
async def open_door() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that connects anywhere."""
    async with open_foreign_session(allow_private=True) as opened:
        yield opened


@pytest.fixture
async def guarded() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that connects to public addresses only."""
    async with open_foreign_session(allow_private=False) as opened:
        yield opened


@pytest.fixture
def hooks(bench: Bench, open_door: aiohttp.ClientSession) -> Hooks:
    """Endpoints of the bench's organization."""
    return Hooks.of(bench, open_door)
