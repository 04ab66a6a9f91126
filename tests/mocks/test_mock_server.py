"""The three mocks are served together or alone, and stop promptly whatever they are doing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.config import Settings
from service.errors import ConfigurationError
from service.mocks.server import ALL, run_mocks, serving
from tests.servers import LONGEST_STOP_S, free_port

pytestmark = pytest.mark.asyncio


def settings(**more: str) -> Settings:
    environment = {name: str(free_port()) for name in ("CALENDAR_PORT", "CRM_PORT", "AUTH_PORT")}
    return Settings.from_environment({**environment, "MOCK_DELAY_SCALE": "0", "MOCK_SEED": "1", **more})


def ports(chosen: Settings) -> dict[str, int]:
    return {"calendar": chosen.calendar_port, "crm": chosen.crm_port, "auth": chosen.auth_port}


async def answering(session: aiohttp.ClientSession, chosen: Settings) -> frozenset[str]:
    names: set[str] = set()
    for name, port in ports(chosen).items():
        try:
            async with session.get(f"http://127.0.0.1:{port}/health") as response:
                assert (await response.json())["service"].startswith(name)
                names.add(name)
        except aiohttp.ClientConnectionError:
            pass
    return frozenset(names)


@asynccontextmanager
async def running(
    chosen: Settings,
    session: aiohttp.ClientSession,
    eventually: Any,
    *,
    only: frozenset[str],
    up: frozenset[str],
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[None]]]:
    """The mocks in a task of their own, from the moment those in `up` answer."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_mocks(chosen, stop, only))
    try:
        await eventually(lambda: answering(session, chosen), lambda names: task.done() or names >= up)
        yield stop, task
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


@pytest.mark.parametrize(
    ("only", "urls", "expected"),
    [
        (ALL, {}, ALL),
        (ALL, {"CRM_WEBHOOK_URL": "http://crm.example.com"}, ALL - {"crm"}),
        (
            ALL,
            {"CALENDAR_API_URL": "http://c.example.com", "AUTH_SERVICE_URL": "http://a.example.com"},
            {"crm"},
        ),
        (frozenset({"auth"}), {}, {"auth"}),
        (frozenset({"crm"}), {"CRM_WEBHOOK_URL": "http://crm.example.com"}, {"crm"}),
    ],
)
async def test_those_asked_for_are_served_on_their_ports_until_stopped(
    session: aiohttp.ClientSession,
    eventually: Any,
    only: frozenset[str],
    urls: dict[str, str],
    expected: set[str],
) -> None:
    chosen = settings(**urls)
    async with running(chosen, session, eventually, only=only, up=frozenset(expected)):
        assert await answering(session, chosen) == expected
    assert await answering(session, chosen) == frozenset()


async def test_rates_and_seed_come_from_the_settings(session: aiohttp.ClientSession, eventually: Any) -> None:
    chosen = settings(MOCK_CALENDAR_FAILURE_RATE="1", MOCK_CRM_FAILURE_RATE="0")
    seen: list[Any] = []
    for _ in range(2):
        async with running(chosen, session, eventually, only=ALL, up=ALL):
            async with session.get(f"http://127.0.0.1:{chosen.calendar_port}/coaches/c/settings") as response:
                assert response.status == 503
            hook = f"http://127.0.0.1:{chosen.crm_port}/webhooks/appointment-updated"
            body, headers = {"appointment_id": "a", "status": "x"}, {"X-Idempotency-Key": "k"}
            async with session.post(hook, json=body, headers=headers) as response:
                assert response.status == 200
                seen.append((await response.json())["crm_id"])
    assert seen[0] == seen[1]


async def test_they_stop_although_requests_hang(session: aiohttp.ClientSession, eventually: Any) -> None:
    chosen = settings(MOCK_CRM_FAILURE_RATE="0", MOCK_CALENDAR_FAILURE_RATE="0", MOCK_DELAY_SCALE="100")
    crm, calendar = (f"http://127.0.0.1:{port}" for port in (chosen.crm_port, chosen.calendar_port))

    async def cancel(n: int) -> None:
        body, headers = {"appointment_id": "a", "reason": None}, {"X-Idempotency-Key": str(n)}
        async with session.post(f"{crm}/webhooks/appointment-cancelled", json=body, headers=headers):
            pass

    async def look() -> None:
        async with session.get(f"{calendar}/coaches/c/availability"):
            pass

    async def abandoned() -> int:
        async with session.get(f"{crm}/webhooks/ledger") as response:
            return sum(entry["abandoned"] for entry in (await response.json())["keys"].values())

    async with running(chosen, session, eventually, only=ALL, up=ALL) as (stop, task):
        waiting = [asyncio.create_task(cancel(n)) for n in range(60)]
        waiting += [asyncio.create_task(look()) for _ in range(5)]
        assert await eventually(abandoned, lambda count: count >= 1)
        assert not any(request.done() for request in waiting)
        begun = time.monotonic()
        stop.set()
        await asyncio.wait_for(task, 60)
        assert time.monotonic() - begun < LONGEST_STOP_S
        ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
    assert all(isinstance(outcome, aiohttp.ClientError) for outcome in ended)
    assert await answering(session, chosen) == frozenset()


async def test_a_caller_who_gives_up_ends_the_request(session: aiohttp.ClientSession) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", hang)
    async with serving(app) as url:
        caller = asyncio.ensure_future(session.get(url))
        await asyncio.wait_for(begun.wait(), 60)
        caller.cancel()
        await asyncio.wait_for(ended.wait(), 60)


async def test_cancelling_the_task_stops_them_too(session: aiohttp.ClientSession, eventually: Any) -> None:
    chosen = settings()
    task = asyncio.create_task(run_mocks(chosen, asyncio.Event()))
    await eventually(lambda: answering(session, chosen), lambda names: names == ALL)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    assert await answering(session, chosen) == frozenset()


async def test_a_port_in_use_is_named_and_nothing_stays_open(session: aiohttp.ClientSession) -> None:
    chosen = settings()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", chosen.crm_port))
        taken.listen()
        with pytest.raises(ConfigurationError, match=r"^CRM_PORT: cannot listen"):
            await run_mocks(chosen, asyncio.Event())
    assert await answering(session, chosen) == frozenset()


async def test_a_mock_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'mail'"):
        await run_mocks(settings(), asyncio.Event(), frozenset({"mail"}))
