"""The API served by two processes' objects, as the tests of coaches have it, and a look into the record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from service.app import Services
from service.assemble_api import carry_out_once
from service.operations.carry_out_once import CarryOutOnce
from tests.api_people.conftest import api, elsewhere, second

__all__ = ["api", "elsewhere", "second"]


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to look into the tables with, and to change them behind the service's back."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def once(services: Services) -> CarryOutOnce:
    """The operation, as the API has it."""
    return carry_out_once(services)
