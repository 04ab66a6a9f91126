"""The API in the test's own process, served by two processes' objects, as the tests of coaches have it."""

from __future__ import annotations

import pytest

from service.app import Services
from service.operations.time_off import TimeOff
from service.processes import build_time_off
from tests.api_people.conftest import api, elsewhere, second

__all__ = ["api", "elsewhere", "second"]


@pytest.fixture
def time_off(services: Services) -> TimeOff:
    """The operation, as the API and the worker have it."""
    return build_time_off(services)
