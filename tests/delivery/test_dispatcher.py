"""A dispatcher by itself: whom it asks when, and which entries are whose."""

from __future__ import annotations

from service.claims.keys import Shards
from service.delivery.destinations import CalendarDestination, CrmDestination, Destination
from service.delivery.dispatcher import Dispatcher
from service.delivery.recorder import DeliveryRecorder
from service.delivery.stream import Stream
from service.mocks.server import serving
from service.outside.breaker import Breaker, BreakerState
from service.outside.calendar_api import CalendarApi
from service.outside.crm import Crm
from tests.delivery.bench import QUICK, Bench, Recorder
from tests.delivery.test_outside import MovedTime


def _dispatcher(bench: Bench, destination: Destination, breaker: Breaker | None = None) -> Dispatcher:
    s = bench.services
    return Dispatcher(
        destination,
        store=s.deliveries,
        recorder=DeliveryRecorder(s.deliveries, s.chance),
        breaker=breaker or Breaker(),
        policy=QUICK,
        metrics=s.metrics,
        chance=s.chance,
    )


async def test_what_needs_no_call_does_not_use_up_the_turn_of_what_does(bench: Bench) -> None:
    """A receiver that was left alone is asked by one call, and to end what was never blocked none is made."""
    recorder = Recorder(lambda _path, _body: (503, {"error": "still down"}))
    clock = MovedTime()
    breaker = Breaker(failures=3, pause_s=5, monotonic=clock)
    *cancelled, _ = await bench.book(4)
    for appointment in cancelled:
        await bench.cancel(appointment)
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
        " SELECT org_id, appointment_id, 1, 'calendar-blocks', 'delivered', 1 FROM appointments"
        " WHERE status = 'cancelled'"
    )
    stream = bench.stream("calendar-blocks")
    entries = await stream.read(10, 10)
    async with serving(recorder.app) as calendar:
        told = CalendarDestination(
            CalendarApi(calendar, bench.session, 2),
            bench.services.deliveries,
            bench.services.roster_store,
            attempts=QUICK.attempts,
            chance=bench.services.chance,
        )
        dispatcher = _dispatcher(bench, told, breaker)
        for _ in range(3):
            breaker.failed()
        clock.now += 5
        await dispatcher.take(stream, sorted(entries, key=lambda entry: entry.event.endswith(" 1")))
        assert await dispatcher.drain(5) == 0
    assert len(recorder.seen) == 1
    assert await bench.left("calendar-blocks") == (0, 0, 1)
    rows = await bench.deliveries("calendar-blocks")
    assert sorted(row["state"] for row in rows if row["sequence"] == 2) == ["delivered"] * 3
    assert breaker.state is BreakerState.OPEN, "what made no call says nothing about the receiver"


async def test_what_a_replay_delivered_is_no_dead_letter_whoever_buried_it_late(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    (appointment,) = await bench.book(1)
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts, replays)"
        " VALUES ($1, $2, 1, 'crm', 'pending', 0, 1)",
        bench.org,
        appointment["appointment_id"],
    )
    stream = bench.stream("crm")
    (entry,) = await stream.read(10, 10)
    await stream.bury(entry, 12, "late")
    assert await stream.add(entry.event)
    async with serving(recorder.app) as crm:
        dispatcher = _dispatcher(bench, CrmDestination(Crm(crm, bench.session, 2)))
        await dispatcher.take(stream, await stream.read(10, 10))
        assert await dispatcher.drain(5) == 0
    assert len(recorder.seen) == 1
    assert await bench.dead("crm") == []
    assert await bench.left("crm") == (0, 0, 0)


async def test_entries_of_two_shards_may_have_the_same_id(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    s, streams = bench.services, list[Stream]()
    for keys, appointment in zip(Shards(2).all, await bench.book(2), strict=True):
        stream = Stream(s.redis, s.redis, s.scripts, keys, "crm", consumer="test", reclaim_idle_ms=60_000)
        await s.redis.delete(stream.key)
        event = f"{bench.org} {appointment['appointment_id'].replace('-', '')} 1"
        await s.redis.xadd(stream.key, {"event": event}, id="1-1")
        streams.append(stream)
    async with serving(recorder.app) as crm:
        dispatcher = _dispatcher(bench, CrmDestination(Crm(crm, bench.session, 2)))
        for stream in streams:
            await dispatcher.take(stream, await stream.read(10, 10))
        assert await dispatcher.drain(5) == 0
    assert len(recorder.seen) == 2
