"""A clinic with a mail server, whose clock is moved by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from service.app import Services, open_services
from service.assemble_worker import mailed_notifications
from service.config import Settings
from service.delivery.destinations import Destination
from service.outside.http import open_session
from tests.delivery.bench import Bench
from tests.notifications.post_office import PostOffice


@dataclass
class MovedClock:
    """Shows what it is set to."""

    time: datetime

    def now(self) -> datetime:
        """That instant."""
        return self.time

    def forward(self, by: timedelta) -> None:
        """Let time pass."""
        self.time += by


@pytest.fixture
def clock() -> MovedClock:
    """The service's clock."""
    return MovedClock(datetime.now(UTC))


@pytest.fixture
async def office() -> AsyncIterator[PostOffice]:
    """An open mail server that takes everything."""
    office = PostOffice()
    async with office.open():
        yield office


@pytest.fixture
def mail_settings(settings: Settings, office: PostOffice) -> Settings:
    """The settings that lead to it."""
    return replace(
        settings,
        smtp_host="127.0.0.1",
        smtp_port=office.port,
        smtp_tls="none",
        smtp_from='"Clinic, the" <hello@clinic.example>',
        smtp_timeout_ms=60_000,  # a machine that stands still for a moment is not a mail server that says nothing
    )


@pytest.fixture
async def services(mail_settings: Settings, clock: MovedClock) -> AsyncIterator[Services]:
    """Every object of a process, living by that clock."""
    async with open_services(mail_settings, clock=clock) as opened:
        yield opened


@pytest.fixture
async def bench(services: Services, org: int) -> AsyncIterator[Bench]:
    """The bench on those."""
    async with open_session() as session:
        yield Bench(services=services, org=org, session=session)


@pytest.fixture
def mail(services: Services) -> Destination:
    """The destination that a worker delivers notifications to."""
    found = mailed_notifications(services)
    assert found is not None
    return found
