"""An endpoint registered at one process is known to every other at its next change, with a claim or without."""

from __future__ import annotations

from uuid import UUID

from service.app import open_services
from service.operations.local_rates import RateSeen
from tests.delivery.bench import Bench
from tests.endpoints.hooks import Hooks
from tests.wishes import caller, free_starts, wish


async def test_a_change_and_a_booking_of_another_process_are_announced(bench: Bench, hooks: Hooks) -> None:
    (appointment,) = await bench.book(1)
    one = UUID(appointment["appointment_id"])
    settings = bench.services.settings
    async with open_services(settings) as one_other, open_services(settings) as another:
        for process in (one_other, another):
            assert not (await process.rosters.get(bench.org)).has_endpoints
        starts = await free_starts(another, bench.org)
        await hooks.register("http://127.0.0.1:9999/")
        await one_other.change.confirm(bench.org, one, actor="tests", correlation_id="c")
        assert await bench.left("endpoints") == (1, 0, 0)
        assert not (await another.rosters.get(bench.org)).has_endpoints
        await another.book(wish(starts[-1]), caller(bench.org), RateSeen())
        await another.gate.drain()
        assert await bench.left("endpoints") == (2, 0, 0)
