"""What is undelivered comes back by itself, and nothing is on its way twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from aiohttp import web

from service.db.sweep import SweepStore
from service.delivery.destinations import CalendarDestination, CrmDestination
from service.delivery.mover import Mover
from service.delivery.sweep import Sweep
from tests.delivery.bench import Bench, Recorder, answering
from tests.delivery.test_every_event_arrives import serving
from tests.servers import eventually

DONE = {"crm_id": "c", "success": True, "block_id": "b"}
HEARD = {"crm": CrmDestination.types, "calendar-blocks": CalendarDestination.types}


def sweeper(bench: Bench, *, overdue_s: float = 0.0) -> Sweep:
    """A sweeper for which an event is overdue after so long."""
    s = bench.services
    return Sweep(
        store=SweepStore(s.database),
        roster_store=s.roster_store,
        shards=s.shards,
        heard=HEARD,
        streams={name: [bench.stream(name)] for name in HEARD},
        overdue_after=timedelta(seconds=overdue_s),
        clock=s.clock,
        metrics=s.metrics,
    )


async def waiting(bench: Bench, name: str) -> Counter[str]:
    """How often each event is in a stream or due later."""
    keys, redis = bench.services.shards.of(bench.org), bench.services.redis
    entries: Any = await redis.xrange(keys.stream(name))
    members: Any = await redis.zrange(keys.due(name), 0, -1)
    found = [fields[b"event"].decode() for _, fields in entries]
    return Counter([*found, *(member.decode().partition(" ")[2] for member in members)])


async def test_streams_that_were_emptied_fill_again(bench: Bench) -> None:
    booked = await bench.book(7)
    await bench.cancel(booked[0])
    await bench.confirm(booked[1])
    before = {name: await waiting(bench, name) for name in HEARD}
    assert [sum(before[name].values()) for name in HEARD] == [9, 8]
    assert await sweeper(bench)() == 0, "all of them are on their way"
    await bench.services.redis.flushall()
    assert await sweeper(bench, overdue_s=60)() == 0, "they may still be announced"
    assert await sweeper(bench)() == 17
    assert {name: await waiting(bench, name) for name in HEARD} == before
    assert await sweeper(bench)() == 0


async def test_what_was_heard_or_is_dead_is_left_alone_and_attempts_are_not_forgotten(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, DONE))
    async with serving(recorder.app) as url, bench.worker(crm=url, calendar=url):
        await bench.book(3)
        await eventually(bench.nothing_left, what="empty streams")
    assert await sweeper(bench)() == 0
    booked = await bench.book(2)
    for appointment, state in zip(booked, ("dead", "retrying"), strict=True):
        await bench.sql(
            "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
            " VALUES ($1, $2, 1, 'crm', $3, 4)",
            bench.org,
            appointment["appointment_id"],
            state,
        )
    await bench.services.redis.flushall()
    assert await sweeper(bench)() == 3, "one for the CRM, two for the calendar"
    (entry,) = await bench.stream("crm").read(10, 10)
    assert (entry.event.split()[1], entry.attempt) == (booked[1]["appointment_id"].replace("-", ""), 5)


async def test_a_look_begins_where_everything_before_is_done(bench: Bench) -> None:
    async def position() -> int:
        rows = await bench.sql(
            "SELECT committed_in::text AS at FROM sweep_positions WHERE org_id = $1 AND destination = 'crm'", bench.org
        )
        return int(rows[0]["at"])

    (first,) = await bench.book(1)
    await sweeper(bench)()
    (row,) = await bench.sql(
        "SELECT committed_in::text AS at FROM events WHERE appointment_id = $1", first["appointment_id"]
    )
    assert await position() == int(row["at"])
    await bench.book(1)
    await sweeper(bench)()
    assert await position() == int(row["at"]), "the first is still to be heard"
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
        " SELECT org_id, appointment_id, sequence, 'crm', 'delivered', 1 FROM events WHERE org_id = $1",
        bench.org,
    )
    await sweeper(bench)()
    assert await position() > int(row["at"])


async def test_a_commit_that_comes_late_is_not_passed_over(bench: Bench) -> None:
    async with bench.services.database.writing() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT pg_current_xact_id()")
        await bench.book(1)
        assert await sweeper(bench)() == 0, "one that began before may still commit before it"
        await bench.services.redis.flushall()
        assert await sweeper(bench)() == 0
        await transaction.rollback()
    assert await sweeper(bench)() == 2


async def test_what_is_committed_while_it_looks_is_looked_at_the_next_time(bench: Bench) -> None:
    fetch, booked = bench.services.database.fetch, list[Any]()

    async def then_book(name: str, *arguments: Any) -> Any:
        found = await fetch(name, *arguments)
        if name == "undelivered_events" and not booked:
            booked.append(found)
            await bench.book(1)
        return found

    with patch.object(bench.services.database, "fetch", then_book):
        await sweeper(bench)()
    assert booked == [[]]
    await bench.services.redis.flushall()
    assert await sweeper(bench)() == 2


async def test_the_calendar_is_not_told_of_coaches_it_does_not_know(bench: Bench) -> None:
    """Neither by what changes nor by the sweeper, which does not look at them again later either."""

    async def position() -> list[int]:
        rows = await bench.sql(
            "SELECT committed_in::text AS at FROM sweep_positions WHERE destination = 'calendar-blocks'"
        )
        return [int(row["at"]) for row in rows]

    await bench.sql("UPDATE organizations SET name = 'another' WHERE org_id = $1", bench.org)
    booked = await bench.book(3)
    await bench.cancel(booked[0])
    assert [sum((await waiting(bench, name)).values()) for name in ("calendar-blocks", "crm")] == [0, 4]
    await bench.services.redis.flushall()
    assert await sweeper(bench)() == 4
    assert [sum((await waiting(bench, name)).values()) for name in ("calendar-blocks", "crm")] == [0, 4]
    (row,) = await bench.sql("SELECT max(committed_in::text::bigint) AS at FROM events WHERE org_id = $1", bench.org)
    assert [at > row["at"] for at in await position()] == [True]


@pytest.mark.parametrize("emptied", [False, True])
async def test_three_movers_and_three_sweepers_bring_nothing_in_twice(bench: Bench, emptied: bool) -> None:
    seen: Counter[str] = Counter()

    def flaky(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key = f"{path} {sorted(body.items())}"
        seen[key] += 1
        return (425, {}) if seen[key] < 4 else (200, DONE)

    recorder = Recorder(flaky)
    async with serving(recorder.app) as url, bench.worker(crm=url, calendar=url, sweep_s=0.05, overdue_s=0.0):
        stop = asyncio.Event()
        movers = [asyncio.ensure_future(Mover([bench.stream(name) for name in HEARD]).run(stop)) for _ in range(3)]
        sweepers = [sweeper(bench) for _ in range(3)]
        await bench.book(30)
        if emptied:
            await bench.services.redis.flushall()

        async def heard() -> bool:
            await asyncio.gather(*(sweep() for sweep in sweepers))
            states = [row["state"] for name in HEARD for row in await bench.deliveries(name)]
            return states == ["delivered"] * 60

        await eventually(heard, what="sixty deliveries", within_s=60)
        await eventually(bench.nothing_left, what="empty streams")
        stop.set()
        await asyncio.gather(*movers)
    if not emptied:
        assert set(seen.values()) == {4}, "an attempt more means that an event was on its way twice"


async def test_a_worker_sweeps_by_itself(bench: Bench) -> None:
    booked = await bench.book(4)
    await bench.services.redis.flushall()

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(DONE)

    async with serving(answering(answer)) as url, bench.worker(crm=url, calendar=url, sweep_s=0.05, overdue_s=0.0):

        async def heard() -> bool:
            return len(await bench.deliveries("crm")) == len(booked)

        await eventually(heard, what="what the emptied streams held")
