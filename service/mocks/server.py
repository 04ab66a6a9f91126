"""Serving the mocks: all three in one process, one by name, or any of them on a free port for a test.

Stopping waits a moment for answers on their way and then cuts the rest, hanging ones included. Nothing
survives a stop: what the mocks remember is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from service.config import Settings
from service.errors import ConfigurationError
from service.logs import get_logger
from service.mocks.auth import build_auth
from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour, random_seed
from service.mocks.crm import build_crm

ALL = frozenset({"calendar", "crm", "auth"})
GRACE_S = 0.1


async def run_mocks(settings: Settings, stop: asyncio.Event, only: frozenset[str] = ALL) -> None:
    """Serve the mocks named in `only` on `settings.host` and their own ports until `stop` is set.

    Asked for all, it leaves out those for which a URL of the real service is set; one asked for by name is
    served in any case. Raises ConfigurationError, naming the setting, when a port cannot be had.
    """
    if unknown := only - ALL:
        raise ConfigurationError(f"mock: must be one of {', '.join(sorted(ALL))}; got {min(unknown)!r}")
    log = get_logger("mocks")
    seed = settings.mock_seed or random_seed()
    failure_rates = {
        "calendar": settings.mock_calendar_failure_rate,
        "crm": settings.mock_crm_failure_rate,
        "auth": 0.0,
    }
    behaviour = {
        name: Behaviour(seed=seed, failure_rate=rate, delay_scale=settings.mock_delay_scale)
        for name, rate in failure_rates.items()
    }
    services = (
        ("calendar", build_calendar, settings.calendar_port, settings.calendar_api_url),
        ("crm", build_crm, settings.crm_port, settings.crm_webhook_url),
        ("auth", build_auth, settings.auth_port, settings.auth_service_url),
    )
    async with AsyncExitStack() as stack:
        for name, build, port, real_url in services:
            if name not in only or (only == ALL and real_url is not None):
                continue
            try:
                url = await stack.enter_async_context(_listening(build(behaviour[name]), settings.host, port))
            except OSError as error:
                variable = f"{name.upper()}_PORT"
                raise ConfigurationError(
                    f"{variable}: cannot listen on {settings.host}:{port} ({error.strerror})"
                ) from error
            log.info("mock_listening", mock=name, url=url, seed=seed)
        await stop.wait()


@asynccontextmanager
async def serving(app: web.Application) -> AsyncGenerator[str, None]:
    """Serve `app` on a free port of the loopback address for the length of the block; gives its URL."""
    async with _listening(app, "127.0.0.1", 0) as url:
        yield url


@asynccontextmanager
async def _listening(app: web.Application, host: str, port: int) -> AsyncGenerator[str, None]:
    # handler_cancellation: a caller who gives up on a webhook that never answers ends its handler too,
    # otherwise each would stay until the stop.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
