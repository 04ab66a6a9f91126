"""The API in the test's own process, served by two processes' objects, as the tests of coaches have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from service.app import Services, build_time_off
from service.domain.appointment import Appointment
from service.operations.time_off import TimeOff
from tests.api_people.conftest import api, elsewhere, second
from tests.time_off.asking import Around

__all__ = ["api", "elsewhere", "second"]


@pytest.fixture
def time_off(services: Services) -> TimeOff:
    """The operation, as the API and the worker have it."""
    return build_time_off(services)


@pytest.fixture
def moves_by(services: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[[Around], None]:
    """Moving an appointment as it is, with something before or after it."""
    really = services.move._move

    def put(around: Around) -> None:
        async def instead(org: int, appointment_id: UUID, *rest: Any) -> Appointment:
            return await around(appointment_id, lambda: really(org, appointment_id, *rest))

        monkeypatch.setattr(services.move, "_move", instead)

    return put
