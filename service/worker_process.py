"""The worker, until it is told to stop, and the fetch of calendars by itself."""

from __future__ import annotations

import asyncio

from prometheus_client import start_http_server

from service.app import open_services
from service.assemble_worker import assemble_worker, calendar_fetches
from service.claims.connection import connect
from service.config import Settings
from service.delivery.build import READ_TIMEOUT_S
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.outside.calendar_api import CalendarApi
from service.outside.http import open_foreign_session, open_session


async def worker_process(settings: Settings, stop: asyncio.Event) -> None:
    """Deliver, process and keep the grid until `stop`. Raises ConfigurationError or Unavailable."""
    async with (
        open_services(settings) as services,
        open_session() as session,
        open_foreign_session(allow_private=settings.webhook_allow_private) as foreign,
    ):
        if settings.metrics_port:
            _serve_metrics(settings, services.metrics)
        reading = connect(settings.redis_url or "", timeout_s=READ_TIMEOUT_S)
        try:
            await assemble_worker(services, session, foreign, reading).run(stop)
        finally:
            await reading.aclose()


async def fetch_calendars(settings: Settings) -> None:
    """Fetch every external calendar once. Raises Unavailable."""
    async with open_services(settings) as services, open_session() as session:
        calendar = CalendarApi(settings.calendar_api_url or "", session, settings.webhook_timeout_ms / 1000)
        await calendar_fetches(services, calendar)()


def _serve_metrics(settings: Settings, metrics: Metrics) -> None:
    try:
        start_http_server(settings.metrics_port, settings.host, metrics.registry)
    except OSError as problem:
        raise ConfigurationError(
            f"METRICS_PORT: cannot listen on {settings.host}:{settings.metrics_port}: {problem.strerror}"
        ) from None
