"""One API process, until it is told to stop: requests under way are answered, commits under way are committed."""

from __future__ import annotations

import asyncio
import gc
import socket

from service.api.server import build_application, serve
from service.app import open_services
from service.assemble_api import assemble_caretaker, build_api
from service.config import Settings
from service.outside.http import open_session


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


def _collect_less_often() -> None:
    """What is there now stays, and requests leave few cycles: looking for them took a twentieth of a booking's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
