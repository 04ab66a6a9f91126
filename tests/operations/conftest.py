"""What tests of operations share: a connection of their own to the record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to look into the tables with, and to change them behind the service's back."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
