"""A background worker whose clock is wrong by so many seconds: `python -m tests.faults.skewed_worker SECONDS PORT`.

It works beside the true one until it is told to stop, and serves its own metrics on PORT.
"""

from __future__ import annotations

import asyncio
import sys

from prometheus_client import start_http_server

from service.app import open_services
from service.assemble_api import assemble_caretaker
from service.assemble_worker import assemble_worker
from service.claims.connection import connect
from service.clock import SystemClock
from service.config import Settings
from service.delivery.build import READ_TIMEOUT_S
from service.outside.http import open_foreign_session, open_session
from service.processes import until_told


async def work(offset_s: float, port: int, stop: asyncio.Event) -> None:
    """What `booking worker` does, and what API processes do beside requests, by another clock."""
    settings = Settings.from_environment()
    async with (
        open_services(settings, clock=SystemClock(offset_s)) as services,
        open_session() as session,
        open_foreign_session(allow_private=True) as foreign,
    ):
        start_http_server(port, "127.0.0.1", services.metrics.registry)
        reading = connect(settings.redis_url or "", timeout_s=READ_TIMEOUT_S)
        try:
            worker = assemble_worker(services, session, foreign, reading)
            await asyncio.gather(worker.run(stop), assemble_caretaker(services).run(stop))
        finally:
            await reading.aclose()


if __name__ == "__main__":
    until_told(lambda stop: work(float(sys.argv[1]), int(sys.argv[2]), stop))
