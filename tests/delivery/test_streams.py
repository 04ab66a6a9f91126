"""Redis may be emptied and workers may die: groups come back, and what was left unfinished is taken over."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import Any

import pytest

from service.claims.connection import connect
from service.claims.keys import Shards
from service.claims.scripts import Scripts
from service.delivery.consume import reclaim
from service.delivery.idempotency_log import IdempotencyLog
from service.delivery.mover import Mover
from service.delivery.stream import MOST_AT_ONCE, Stream
from service.errors import Unavailable
from service.mocks.server import serving
from tests.delivery.bench import Bench, Recorder
from tests.servers import eventually


async def test_after_redis_was_emptied_the_groups_are_made_again(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        await bench.book(1)
        await eventually(lambda: len(recorder.seen) == 1, what="the first webhook")
        await bench.services.redis.flushall()
        await bench.book(2, calendar="cal-2")
        await eventually(lambda: len(recorder.seen) == 3, what="the webhooks after it")
    groups = await bench.services.redis.xinfo_groups(bench.stream("crm").key)
    assert [group["name"] for group in groups] == [b"workers"]


async def test_an_entry_added_before_the_group_exists_is_read(bench: Bench) -> None:
    stream = bench.stream("crm")
    await stream.add("first")
    assert [entry.event for entry in await stream.read(10, 10)] == ["first"]
    await bench.services.redis.flushall()
    await stream.add("second")
    assert await stream.read(10, 10) == []
    assert [entry.event for entry in await stream.read(10, 10)] == ["second"]


async def test_what_a_dead_consumer_left_pending_is_delivered_by_another(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    await bench.book(200)
    dead = bench.stream("crm", consumer="killed")
    read = [entry for _ in range(2) for entry in await dead.read(100, 100)]
    assert len(read) == 200
    async with serving(recorder.app) as crm, bench.worker(crm=crm, idle_ms=50):
        await eventually(lambda: len(set(_keys(recorder))) == 200, what="two hundred webhooks")

        async def empty() -> bool:
            return await bench.left("crm") == (0, 0, 0)

        await eventually(empty, what="an empty pending list")
    consumers = await bench.services.redis.xinfo_consumers(dead.key, "workers")
    assert b"killed" in {consumer["name"] for consumer in consumers}


async def test_what_is_being_worked_on_is_not_taken_over(bench: Bench) -> None:
    entries = bench.stream("crm", idle_ms=60_000)
    await entries.add("an event")
    assert len(await entries.read(10, 10)) == 1
    assert [page async for page in bench.stream("crm", consumer="other", idle_ms=60_000).reclaim()] == []
    (page,) = [page async for page in bench.stream("crm", consumer="other", idle_ms=0).reclaim()]
    assert [entry.event for entry in page] == ["an event"]


async def test_everything_a_dead_consumer_left_is_taken_over_in_one_go(bench: Bench) -> None:
    stream = bench.stream("crm", consumer="killed")
    events = [f"event {number}" for number in range(2 * MOST_AT_ONCE + 1)]
    assert await stream.add_all([(event, 1) for event in events]) == len(events)
    assert len(await stream.read(len(events), 10)) == len(events)
    pages = [page async for page in bench.stream("crm", consumer="other", idle_ms=0).reclaim()]
    assert [entry.event for page in pages for entry in page] == events


async def test_who_takes_over_forgets_consumers_that_are_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, stop = bench.stream("crm", idle_ms=60_000), asyncio.Event()
    await bench.services.redis.xgroup_create(stream.key, "workers", id="0", mkstream=True)
    await bench.services.redis.xgroup_createconsumer(stream.key, "workers", "gone")
    monkeypatch.setattr(stream, "forget_the_dead", partial(stream.forget_the_dead, 0))
    taking_over = asyncio.ensure_future(reclaim(stream, IdempotencyLog(bench.services.answers, Random(1)), stop))

    async def forgotten() -> bool:
        return await bench.services.redis.xinfo_consumers(stream.key, "workers") == []

    await eventually(forgotten, what="no consumer")
    stop.set()
    await taking_over


async def test_what_is_read_while_the_dead_are_forgotten_can_still_be_taken_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that was silent reads between two commands of whoever forgets: its entry must not go with it."""
    stream, slow, redis = bench.stream("crm"), bench.stream("crm", consumer="slow"), bench.services.redis
    await redis.xgroup_create(stream.key, "workers", id="0", mkstream=True)
    await redis.xgroup_createconsumer(stream.key, "workers", "slow")
    await stream.add("an event")
    execute, read = redis.execute_command, list[str]()

    async def followed_by_a_read(*command: Any, **options: Any) -> Any:
        answer = await execute(*command, **options)
        if command[0] != "XREADGROUP" and not read:
            read.extend(entry.event for entry in await slow.read(10, 10))
        return answer

    await slow._ensure_group()
    monkeypatch.setattr(redis, "execute_command", followed_by_a_read)
    await stream.forget_the_dead(0)
    monkeypatch.undo()
    assert read == ["an event"]
    (page,) = [page async for page in bench.stream("crm", consumer="other", idle_ms=0).reclaim()]
    assert [entry.event for entry in page] == read


async def test_an_entry_put_off_comes_back_when_due_with_its_next_attempt(bench: Bench) -> None:
    stream = bench.stream("crm")
    mover = Mover([stream])
    await stream.add("1 with spaces in it")
    (entry,) = await stream.read(10, 10)
    await stream.later(entry, 300, entry.attempt + 1)
    assert await bench.left("crm") == (0, 0, 1)
    assert not await stream.add("1 with spaces in it")
    sleep_s = await mover.round()
    assert 0 < sleep_s <= 0.25

    async def moved() -> bool:
        await mover.round()
        return await bench.left("crm") == (1, 0, 0)

    await eventually(moved, what="the entry back in its stream")
    (again,) = await stream.read(10, 10)
    assert (again.event, again.attempt) == ("1 with spaces in it", 2)
    await stream.finish(again)
    assert await bench.left("crm") == (0, 0, 0)


async def test_an_entry_finished_by_another_is_neither_put_off_nor_buried(bench: Bench) -> None:
    stream = bench.stream("crm")
    await stream.add("an event")
    (entry,) = await stream.read(10, 10)
    await stream.finish(entry)
    await stream.later(entry, 10, 2)
    await stream.bury(entry, 1, "too late")
    assert await bench.left("crm") == (0, 0, 0)
    assert await bench.dead("crm") == []


async def test_more_than_a_page_comes_in_at_once(bench: Bench) -> None:
    stream = bench.stream("crm")
    events = [(f"event {number}", 1) for number in range(1001)]
    assert await stream.add_all(events) == 1001
    assert await stream.add_all([*events, ("one more", 1)]) == 1
    assert await bench.left("crm") == (1002, 0, 0)


async def test_dead_letters_are_found_behind_a_page_of_others_in_one_look_for_all(bench: Bench) -> None:
    stream, redis = bench.stream("crm"), bench.services.redis
    pipe: Any = redis.pipeline(transaction=False)
    for number in range(1001):
        pipe.xadd(bench.services.shards.of(bench.org).dead("crm"), {"event": f"event {number}"})
    await pipe.execute()
    await redis.config_resetstat()
    await asyncio.gather(*(stream.exhume({f"event {number}"}) for number in (0, 500, 999, 1000)))
    assert (await redis.info("commandstats"))["cmdstat_xrange"]["calls"] == 3
    left = {letter["event"] for letter in await bench.dead("crm")}
    assert left == {f"event {number}" for number in range(1001)} - {"event 0", "event 500", "event 999", "event 1000"}


async def test_what_is_due_of_every_shard_is_moved(bench: Bench) -> None:
    s = bench.services
    streams = [
        Stream(s.redis, s.redis, s.scripts, keys, name, consumer="test", reclaim_idle_ms=60_000)
        for keys in Shards(3).all
        for name in ("crm", "notifications")
    ]
    for stream in streams:
        await stream.add("an event")
        (entry,) = await stream.read(1, 10)
        await stream.later(entry, 0, 2)
    assert await Mover(streams).round() > 0
    assert [[entry.attempt for entry in await stream.read(1, 10)] for stream in streams] == [[2]] * 6


async def test_figures_count_what_is_left(bench: Bench) -> None:
    stream = bench.stream("crm")
    for number in range(4):
        await stream.add(f"event {number}")
    one, two, *_ = await stream.read(4, 10)
    await stream.later(one, 60_000, 2)
    await stream.bury(two, 1, "no")
    figures = await stream.figures()
    assert (figures.depth, figures.due, figures.dead) == (2, 1, 1)

    assert 0 <= figures.oldest_s < 60
    seconds, _ = await bench.services.redis.time()
    old = bench.stream("notifications")
    await bench.services.redis.xadd(old.key, {"event": "an old one"}, id=f"{(seconds - 3600) * 1000}-0")
    assert 3600 <= (await old.figures()).oldest_s < 3660


async def test_a_redis_that_is_not_there_is_unavailable() -> None:
    redis = connect("redis://127.0.0.1:9")
    stream = Stream(redis, redis, Scripts(redis), Shards(1).all[0], "crm", consumer="c", reclaim_idle_ms=1)
    with pytest.raises(Unavailable):
        await stream.read(1, 10)
    with pytest.raises(Unavailable):
        await stream.figures()
    await redis.aclose()


def _keys(recorder: Recorder) -> list[str]:
    return [headers["X-Idempotency-Key"] for _, headers, _ in recorder.seen]
