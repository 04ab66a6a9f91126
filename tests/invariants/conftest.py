"""Two processes on one set of servers: whatever is promised must hold across them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from service.app import Services, open_services
from service.config import Settings

Pair = tuple[Services, Services]


class StillClock:
    """A clock that stands amid the working hours of a coming Wednesday, so that two looks see the same choice."""

    def __init__(self) -> None:
        today = datetime.now(UTC).replace(hour=16, minute=3, second=0, microsecond=7)
        self._now = today + timedelta(days=(2 - today.weekday()) % 7)

    def now(self) -> datetime:
        """That instant."""
        return self._now


@pytest.fixture
async def pair(settings: Settings) -> AsyncIterator[Pair]:
    """Everything two API processes have."""
    clock = StillClock()
    async with open_services(settings, clock=clock) as one, open_services(settings, clock=clock) as other:
        yield one, other


@pytest.fixture
async def org(pair: Pair) -> int:
    """The sample organization's integer key."""
    found = await pair[0].roster_store.organization("demo")
    assert found is not None
    return found


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to look into the tables with, and to change the organization behind the service's back."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
