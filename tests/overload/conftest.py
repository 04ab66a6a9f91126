"""A door with room for four, and a folder for whole systems."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.app import open_services
from service.config import Settings
from tests.overload.door import Door, open_door
from tests.servers import folder_of_its_own

ROOM = 4


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[Door]:
    """A process that answers four requests at a time."""
    narrow = replace(settings, max_requests_in_flight=ROOM, cors_origin="https://clinic.example")
    async with open_services(narrow) as services, open_door(services) as opened:
        yield opened


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a system of the test's own."""
    with folder_of_its_own() as made:
        yield made
