"""What API processes do beside requests: what is overdue is ended in time, by one of them a round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from service.app import Services, open_services
from service.assemble_api import assemble_caretaker
from service.claims.grid import PendingEntry
from service.claims.lease import Leases
from service.config import Settings
from service.db.gate import CoachDays
from service.domain.grid import day_of
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import free_starts, wish

ROUND_S = 0.4


@asynccontextmanager
async def cared_for(services: Services) -> AsyncIterator[None]:
    """A process' care for the length of the block."""
    stop = asyncio.Event()
    running = asyncio.ensure_future(assemble_caretaker(services).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


def shown_pending(services: Services) -> float:
    """What is pending, as the gauge of this process has it."""
    return services.metrics.pending._value.get()


@asynccontextmanager
async def two_processes(settings: Settings) -> AsyncIterator[tuple[Services, Services]]:
    """The objects of two processes whose rounds are short."""
    quick = replace(settings, reconcile_interval_ms=round(ROUND_S * 1000))
    async with open_services(quick) as first, open_services(quick) as second:
        yield first, second


async def test_a_process_that_stands_still_in_its_round_keeps_nobody_waiting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_processes(settings) as (still, well):
        begun, never = asyncio.Event(), asyncio.Event()

        async def stand_still() -> dict[str, PendingEntry]:
            begun.set()
            await never.wait()
            return {}

        monkeypatch.setattr(still.grid, "pending", stand_still)
        org = await well.roster_store.organization("demo")
        assert org is not None
        await steps.claim(well, org, wish((await free_starts(well, org, "cal-2"))[7], "cal-2"))
        await steps.expire_pending(well)
        async with cared_for(still):
            await begun.wait()
            async with cared_for(well):

                async def ended() -> bool:
                    return await well.grid.pending() == {}

                await eventually(ended, what="the end of the claim")
        assert await steps.differences(well, org) == 0


async def test_one_process_a_round_looks_for_what_is_overdue(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def look() -> dict[str, PendingEntry]:
        nonlocal looks
        looks += 1
        return {}

    async with two_processes(settings) as both:
        for services in both:
            monkeypatch.setattr(services.grid, "pending", look)
        began = time.monotonic()
        async with cared_for(both[0]), cared_for(both[1]):
            await eventually(lambda: looks >= 5, what="five rounds")
        # A lease of three quarters of a round lies between two of them.
        assert time.monotonic() - began + 0.01 >= 4 * 0.75 * ROUND_S


async def test_each_process_shows_what_is_pending_also_while_others_have_all_the_turns(settings: Settings) -> None:
    async with two_processes(settings) as (busy, other):
        org = await busy.roster_store.organization("demo")
        assert org is not None
        await steps.claim(busy, org, wish((await free_starts(busy, org, "cal-2"))[7], "cal-2"))
        leases = Leases(busy.redis, busy.shards, busy.breaker)
        assert await leases.take("reconciler", 60_000)
        async with cared_for(other):
            await eventually(lambda: shown_pending(other) == 1, what="the claim in the gauge")
            await steps.expire_pending(busy)
            assert await busy.reconcile() == 1
            await eventually(lambda: shown_pending(other) == 0, what="its end in the gauge")


async def test_coach_days_that_are_noted_are_repaired_without_the_worker(services: Services, org: int) -> None:
    today = day_of(services.clock.now())
    await services.gate_store.note(CoachDays(org, 0, today, today))
    assert len(await services.gate_store.repairs()) == 1
    async with cared_for(services):

        async def repaired() -> bool:
            return await services.gate_store.repairs() == []

        await eventually(repaired, what="the repair")
