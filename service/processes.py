"""The processes of the service: one API process, the worker, the mocks, each until it is told to stop.

Each builds its objects with `open_services`, listens for SIGTERM and SIGINT, and ends what it began: requests
under way are answered, commits under way are committed.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable

from prometheus_client import start_http_server

from service.api.server import build_application, serve
from service.app import open_services
from service.assemble_api import build_api
from service.assemble_worker import assemble_caretaker, assemble_worker, calendar_fetches
from service.claims.connection import connect
from service.config import Settings
from service.delivery.build import READ_TIMEOUT_S
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.mocks.server import ALL, run_mocks
from service.outside.calendar_api import CalendarApi
from service.outside.http import open_foreign_session, open_session


def until_told(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a process's main work on uvloop until SIGTERM or SIGINT."""
    import uvloop

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    uvloop.run(main())


async def api_process(settings: Settings, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve the API on a bound socket until `stop`. Raises ConfigurationError or Unavailable."""
    async with open_services(settings) as services, open_session() as session:
        edge, routes = build_api(services, session)
        application = build_application(edge, routes)
        _collect_less_often()
        care = asyncio.ensure_future(assemble_caretaker(services).run(stop))
        try:
            await serve(application, listening, stop)
        finally:
            stop.set()
            await care
            services.metrics.later.write()


def _collect_less_often() -> None:
    """What is there now stays, and requests leave few cycles: looking for them took a twentieth of a booking's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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


async def mock_process(settings: Settings, only: str | None, stop: asyncio.Event) -> None:
    """Serve the mocks (one of them, or all) until `stop`."""
    await run_mocks(settings, stop, only=ALL if only is None else frozenset({only}))
