"""Clients that go away in the middle of their requests, and a worker that has the wrong time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from aiohttp import ClientError, ClientSession
from prometheus_client.parser import text_string_to_metric_families

from tests.api.stack import ROOT
from tests.faults.inject import Evidence, Fault, Site
from tests.servers import eventually, free_port

_AT_WORK_WITHIN_S = 20.0
_STOPPED_WITHIN_S = 20.0


@asynccontextmanager
async def _client_disconnects(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    first = len(site.history.operations)
    site.load.disconnecting = True
    evidence = Evidence("requests without an answer")
    try:
        yield evidence
    finally:
        site.load.disconnecting = False
    # Those that are merely not answered yet are few beside those that never will be.
    evidence.count = sum(one.status is None for one in site.history.operations[first:])


@asynccontextmanager
async def _wrong_clock(site: Site, chance: Random) -> AsyncIterator[Evidence]:
    """One more worker, minutes fast or slow."""
    offset_s = chance.choice((-600, -120, 120, 600))
    port = free_port()
    stack = site.machine.stack
    servers = stack.run_file
    environment = stack.environment | {
        "CALENDAR_API_URL": servers.calendar_api_url,
        "AUTH_SERVICE_URL": servers.auth_service_url,
        "PYTHONPATH": str(ROOT),
    }
    with (site.machine.folder / "skewed_worker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.skewed_worker", str(offset_s), str(port)),
            cwd=site.machine.folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:

        async def at_work() -> bool:
            return process.returncode is not None or await _deliveries(port) > 0

        await eventually(at_work, within_s=_AT_WORK_WITHIN_S, what="a worker with the wrong clock at work")
        yield Evidence(f"deliveries by a clock {offset_s:+d} s off", look=lambda: _deliveries(port))
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOPPED_WITHIN_S)
        except TimeoutError:
            process.kill()
            raise AssertionError("the worker with the wrong clock did not stop") from None


async def _deliveries(port: int) -> int:
    """How many deliveries a worker has tried; 0 while it is not there yet."""
    try:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
            families = text_string_to_metric_families(await answer.text())
    except (ClientError, OSError):
        return 0
    samples = (sample for family in families for sample in family.samples)
    return round(sum(sample.value for sample in samples if sample.name == "booking_deliveries_total"))


FAULTS = (
    Fault("client_disconnects", "clients", _client_disconnects),
    Fault("wrong_clock", "worker", _wrong_clock, (2.0, 3.0)),
)
