"""The same seed gives the same answers to the same requests; delays keep within their bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from service.mocks import chance
from service.mocks.auth import build_auth
from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour, Chance
from service.mocks.crm import build_crm

pytestmark = pytest.mark.asyncio

Build = Callable[..., web.Application]
Request = tuple[str, str, Any, dict[str, str]]
TIMES = {"start_time": "2026-03-09T14:00:00Z", "end_time": "2026-03-09T14:30:00Z"}
CREATED = {"appointment_id": "a", "coach_id": "c", "client_id": "p", **TIMES}
UPDATED = {"appointment_id": "a", "status": "x"}
CANCELLED = {"appointment_id": "a", "reason": "x"}
TIMED: list[tuple[Build, str, str, Any, float, float]] = [
    (build_calendar, "GET", "/coaches/c/availability?days=1", None, 0.1, 0.6),
    (build_calendar, "POST", "/coaches/{n}/block-slot", TIMES, 0.05, 0.35),
    (build_crm, "POST", "/webhooks/appointment-created", CREATED, 0.2, 1.2),
    (build_crm, "POST", "/webhooks/appointment-updated", UPDATED, 0.1, 0.9),
    (build_crm, "POST", "/webhooks/appointment-cancelled", CANCELLED, 0.1, 0.9),
]


def script(service: str) -> list[Request]:
    """Requests for one service, some repeated under one key."""
    if service == "calendar":
        offers: list[Request] = [("GET", f"/coaches/c-{n}/availability?days=3", None, {}) for n in range(40)]
        blocks: list[Request] = [("POST", f"/coaches/c-{n}/block-slot", TIMES, {}) for n in range(80)]
        return offers + blocks
    created, contact = "/webhooks/appointment-created", "/contacts/c-1"
    hooks: list[Request] = [("POST", created, CREATED, {"X-Idempotency-Key": f"k{n % 50}"}) for n in range(100)]
    contacts: list[Request] = [("GET", contact, None, {}) for _ in range(60)]
    return hooks + contacts


async def play(serve: Any, clock: Any, build: Build, service: str, seed: int, *, ask_health: bool = False) -> list[Any]:
    call = await serve(build(Behaviour(seed=seed, failure_rate=0.3, delay_scale=0.0), clock))
    answers: list[Any] = []
    for method, path, body, headers in script(service):
        if ask_health:
            assert (await call("GET", "/health"))[0] == 200
        answers.append(await call(method, path, body, headers=headers))
    return answers


@pytest.mark.parametrize(("build", "service"), [(build_calendar, "calendar"), (build_crm, "crm")])
async def test_two_runs_of_one_seed_answer_the_same_and_another_seed_differs(
    serve: Any, clock: Any, build: Build, service: str
) -> None:
    first = await play(serve, clock, build, service, 42)
    second = await play(serve, clock, build, service, 42, ask_health=True)
    assert first == second
    assert {200, 503} < {status for status, _ in first}
    assert await play(serve, clock, build, service, 43) != first


async def test_seed_0_draws_one_each_time(serve: Any, clock: Any) -> None:
    runs = [await play(serve, clock, build_calendar, "calendar", 0) for _ in range(2)]
    assert runs[0] != runs[1]


async def test_the_nth_requests_luck_depends_on_nothing_before_it() -> None:
    frugal, curious = (Chance(Behaviour(seed=9, failure_rate=0.5), "crm") for _ in range(2))
    frugal.next()
    before = curious.next()
    assert len({before.identifier("x") for _ in range(10)}) == 10
    assert frugal.next().identifier("x") == curious.next().identifier("x")


async def test_delays_keep_within_the_bounds_of_their_route(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits_s: list[float] = []

    async def pass_over(delay_s: float) -> None:
        waits_s.append(delay_s)

    # What is waited for, not what a busy machine makes of it.
    monkeypatch.setattr(chance, "asyncio", SimpleNamespace(sleep=pass_over))
    behaviour = Behaviour(seed=1, failure_rate=0.0, conflict_rate=0.0, never_answer_rate=0.0)
    for build, method, path, body, low_s, high_s in TIMED:
        call = await serve(build(behaviour))
        waits_s.clear()
        for n in range(8):
            status, _ = await call(method, path.format(n=n), body, headers={"X-Idempotency-Key": f"{path}-{n}"})
            assert status == 200
        assert len(waits_s) == 8
        assert all(low_s <= wait_s <= high_s for wait_s in waits_s), (path, waits_s)
        assert max(waits_s) - min(waits_s) > (high_s - low_s) / 4, (path, waits_s)


async def test_a_delay_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await Chance(Behaviour(seed=1, failure_rate=0.0), "crm").next().pause(50, 60)
    # Timers may fire a hair early by another clock.
    assert loop.time() - begun >= 0.045


@pytest.mark.parametrize("build", [build_calendar, build_crm, build_auth])
async def test_unknown_routes_and_methods_are_refused_in_json(serve: Any, build: Build) -> None:
    call = await serve(build(Behaviour.calm()))
    assert await call("GET", "/nothing/here") == (404, {"error": "Not Found"})
    assert await call("DELETE", "/health") == (405, {"error": "Method Not Allowed"})
