"""No loop dies silently, none takes another with it, and the worker stops quickly."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from service.app import Services
from service.claims.keys import Shards
from service.delivery.build import WorkerTimes
from service.delivery.dispatcher import RetryPolicy
from service.delivery.patience import pause_s
from service.delivery.stream import Stream
from service.delivery.watch import StreamWatch
from service.delivery.worker import Loop, Worker, every
from service.embedded.redis import EmbeddedRedis
from service.errors import Unavailable
from service.metrics import Metrics
from service.mocks.server import serving
from tests.delivery.bench import Bench, Recorder, answering
from tests.servers import eventually


async def test_a_loop_that_fails_is_counted_and_started_again_beside_the_others(services: Services) -> None:
    runs: list[str] = []

    async def fails(_: asyncio.Event) -> None:
        runs.append("fails")
        raise Unavailable("not now") if len(runs) % 2 else KeyError("a bug")

    async def goes_on() -> None:
        runs.append("goes on")

    worker = Worker(
        reading=[],
        periodic=[Loop("failing", fails), every("healthy", 0.01, goes_on)],
        works=[],
        metrics=services.metrics,
        chance=random.Random(1),
    )
    stop = asyncio.Event()
    running = asyncio.ensure_future(worker.run(stop))
    await eventually(lambda: runs.count("fails") >= 3 and runs.count("goes on") >= 10, what="both loops going on")
    stop.set()
    await asyncio.wait_for(running, 60)
    count = services.metrics.registry.get_sample_value("booking_worker_loop_failures_total", {"loop": "failing"})
    assert count == runs.count("fails")


@pytest.mark.parametrize("failures", [1, 5, 100_000])
def test_the_pause_after_a_failure_is_at_most_two_seconds_however_long_an_outage_lasts(failures: int) -> None:
    assert 0 < pause_s(failures, random.Random(1)) <= 2


async def test_an_attempt_under_way_ends_before_the_worker_and_a_hanging_one_stays_pending(
    bench: Bench,
) -> None:
    arrived: list[str] = []
    let_go = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        arrived.append(request.headers["X-Idempotency-Key"])
        if len(arrived) == 1:
            await asyncio.Event().wait()
        await let_go.wait()
        return web.json_response({"crm_id": "c"})

    async with serving(answering(answer)) as crm:
        began = time.monotonic()
        async with bench.worker(crm=crm, timeout_s=60):
            await bench.book(2)
            await eventually(lambda: len(arrived) == 2, what="two attempts")
            began = time.monotonic()
            asyncio.get_running_loop().call_later(0.1, let_go.set)
        assert time.monotonic() - began > 0.1
    rows = await bench.deliveries("crm")
    assert [row["state"] for row in rows] == ["delivered"]
    assert await bench.left("crm") == (1, 1, 0)


async def test_the_worker_waits_out_a_redis_that_is_away(bench: Bench, redis_server: EmbeddedRedis) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    failures = bench.services.metrics.worker_failures
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        await bench.book(1)
        await eventually(lambda: len(recorder.seen) == 1, what="the first webhook")
        redis_server.stop()
        await eventually(lambda: sum(s.value for m in failures.collect() for s in m.samples) > 5, what="failing loops")
        redis_server.start()
        await bench.book(1, calendar="cal-2")
        await eventually(lambda: len(recorder.seen) == 2, what="the webhook after it")


async def test_the_gauges_show_what_each_stream_has_left(bench: Bench) -> None:
    over = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.json_response({})

    value = bench.services.metrics.registry.get_sample_value
    async with serving(answering(hang)) as crm, bench.worker(crm=crm, timeout_s=60):
        await bench.book(3)
        await eventually(
            lambda: (
                value("booking_stream_depth", {"stream": "crm"}) == 3
                and (value("booking_stream_oldest_age_seconds", {"stream": "crm"}) or 0) > 0
            ),
            what="the gauge",
        )
        over.set()
    text = generate_latest(bench.services.metrics.registry).decode()
    for name in ("crm", "calendar-blocks", "notifications", "calendar-events", "idempotency"):
        assert f'booking_stream_dead{{stream="{name}"}}' in text


async def test_what_a_receiver_that_is_away_keeps_waiting_is_due_and_no_old_entry(bench: Bench) -> None:
    value = bench.services.metrics.registry.get_sample_value
    async with bench.worker(policy=RetryPolicy(attempts=12, delay_ms=3_600_000, turn_ms=3_600_000)):
        await bench.book(12)
        await eventually(lambda: value("booking_stream_due", {"stream": "crm"}) == 12, what="what waits")
        await eventually(lambda: value("booking_stream_depth", {"stream": "crm"}) == 0, what="an empty stream")
        assert value("booking_stream_oldest_age_seconds", {"stream": "crm"}) == 0
    assert (value("booking_deliveries_total", {"destination": "crm", "outcome": "retrying"}) or 0) >= 10
    assert value("booking_deliveries_total", {"destination": "crm", "outcome": "delivered"}) == 0


async def test_a_stream_nobody_has_looked_at_yet_has_no_figures(bench: Bench) -> None:
    registry = CollectorRegistry()
    look = StreamWatch({"crm": [bench.stream("crm")]}, Metrics(registry))
    assert b"booking_stream_dead{" not in generate_latest(registry)
    assert registry.get_sample_value("booking_streams_seen_timestamp_seconds") == 0
    began = time.time()
    await look()
    assert began <= (registry.get_sample_value("booking_streams_seen_timestamp_seconds") or 0) <= time.time()
    assert b'booking_stream_dead{stream="crm"} 0.0' in generate_latest(registry)


async def test_the_figures_of_a_stream_are_those_of_all_its_shards(bench: Bench) -> None:
    s, registry = bench.services, CollectorRegistry()
    streams = [
        Stream(s.redis, s.redis, s.scripts, keys, "crm", consumer="test", reclaim_idle_ms=60_000)
        for keys in Shards(2).all
    ]
    for stream, waiting, due, dead in zip(streams, (1, 2), (3, 1), (2, 4), strict=True):
        await stream.add_all([(f"event {number}", 1) for number in range(waiting + due + dead)])
        entries = await stream.read(due + dead, 10)
        for entry in entries[:due]:
            await stream.later(entry, 60_000, 2)
        for entry in entries[due:]:
            await stream.bury(entry, 1, "no")
    await StreamWatch({"crm": streams}, Metrics(registry))()
    names = ("depth", "due", "dead")
    assert [registry.get_sample_value(f"booking_stream_{name}", {"stream": "crm"}) for name in names] == [3, 4, 6]


async def test_the_grid_is_filled_when_the_worker_starts(bench: Bench) -> None:
    s = bench.services

    async def whole() -> bool:
        return await s.keeper.fill(bench.org) == 0

    assert await s.grid.has_roster(bench.org) is None
    async with bench.worker():
        await eventually(lambda: _filled(bench), what="a grid")
    assert await whole()


async def _filled(bench: Bench) -> bool:
    keys = bench.services.shards.of(bench.org)
    return len(await bench.services.redis.keys(f"{keys.tag}:open:{bench.org}:*")) >= 34


def test_an_entry_is_not_taken_over_while_an_attempt_may_last() -> None:
    times = WorkerTimes.of(
        attempts=3,
        delay_ms=5,
        timeout_ms=5_000,
        reclaim_idle_ms=0,
        calendar_sync_s=0,
        sweep_ms=30_000,
        overdue_ms=60_000,
    )
    assert times.reclaim_idle_ms == 25_000
