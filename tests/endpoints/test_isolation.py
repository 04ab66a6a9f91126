"""An endpoint that hangs delays no other, whatever waits for it."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from service.mocks.server import serving
from tests.delivery.bench import Bench
from tests.endpoints.hooks import Hooks, Receiver
from tests.servers import eventually

ROUNDS = 3
CHANGES = 12
# The machine is shared: what is compared are medians of the same run, the quietest round of each kind.
MOST = 1.5


async def test_a_healthy_endpoint_beside_a_hanging_one_hears_as_soon_as_alone(bench: Bench, hooks: Hooks) -> None:
    hanging, healthy = Receiver(), Receiver()
    delays: dict[bool, list[float]] = {False: [], True: []}

    async def round_of(appointments: list[dict[str, str]], begun: list[float]) -> float:
        known = len(healthy.accepted)
        for appointment in appointments:
            begun.append(time.monotonic())
            await bench.confirm(appointment)
            await eventually(lambda: len(healthy.accepted) == known + len(begun), what="the healthy one's event")
        return median(one.at - start for one, start in zip(healthy.accepted[known:], begun, strict=True))

    async with serving(hanging.app) as url, serving(healthy.app) as other_url, hooks.worker(timeout_s=60):
        await hooks.register(url, "appointment.created", "appointment.confirmed")
        await hooks.register(other_url, "appointment.confirmed")
        booked = await bench.book(2 * ROUNDS * CHANGES + 24)
        pools, rest = booked[: 2 * ROUNDS * CHANGES], booked[2 * ROUNDS * CHANGES :]
        await eventually(lambda: len(hanging.accepted) == len(booked), what="every booking at the first")
        for hangs in (False, True):
            if hangs:
                hanging.hangs = asyncio.Event()
                busy = len(hanging.seen) + 16
                # More than it has places for: what is left is put off again and again.
                for appointment in rest:
                    await bench.confirm(appointment)
                await eventually(lambda busy=busy: len(hanging.seen) >= busy, what="all of its places taken")
                await eventually(lambda: len(healthy.accepted) == ROUNDS * CHANGES + len(rest), what="the others")
            for _ in range(ROUNDS):
                some, pools = pools[:CHANGES], pools[CHANGES:]
                delays[hangs].append(await round_of(some, []))
        assert hanging.hangs is not None
        assert len(hanging.accepted) < len(hanging.seen)
        hanging.hangs.set()
    assert min(delays[True]) < MOST * min(delays[False]), delays
