"""A bench for deliveries, and mocks that do not ask to wait five seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.app import Services
from service.mocks import answers
from service.outside.http import open_session
from tests.delivery.bench import Bench


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session for calls outward."""
    async with open_session() as opened:
        yield opened


@pytest.fixture
def bench(services: Services, org: int, session: aiohttp.ClientSession, impatient_mocks: None) -> Bench:
    """Everything a test of deliveries needs."""
    return Bench(services=services, org=org, session=session)


@pytest.fixture
def impatient_mocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing mock asks to come back at once, so that a test of many failures is short."""
    monkeypatch.setattr(answers, "RETRY_AFTER_S", 0)
