"""An entry of a stream is in exactly one place: waiting, due later, dead or gone; an event comes in once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from service.claims.messages import Settlement
from tests.lua.world import ORG, World
from tests.servers import eventually

GROUP = "workers"


async def _entry(world: World, event: str = "event-1") -> tuple[str, str]:
    """A stream with one entry that a consumer has read; (stream, entry id)."""
    stream = world.keys.stream("crm")
    await world.scripts.enqueue(stream, world.keys.way("crm"), [(event, 1)])
    ((entry_id, _),) = await _entries(world, stream)
    await world.redis.xgroup_create(stream, GROUP, id="0")
    await world.redis.xreadgroup(GROUP, "c", {stream: ">"})
    return stream, entry_id.decode()


async def _entries(world: World, stream: str) -> list[tuple[bytes, Any]]:
    """(id, fields) of what is in a stream."""
    found: Any = await world.redis.xrange(stream)
    return found


async def _left(world: World, stream: str) -> tuple[int, int]:
    """(entries in the stream, entries read and not acknowledged)."""
    pending = await world.redis.xpending(stream, GROUP)
    return await world.redis.xlen(stream), pending["pending"]


@pytest.mark.outcome("accept_event", "accepted", "duplicate")
async def test_an_event_is_accepted_once(world: World) -> None:
    mark, stream = world.keys.accepted(ORG, "event-1"), world.keys.stream("calendar-events")
    accepted = [
        await world.scripts.accept_event(mark, stream, world.keys.way("calendar-events"), 60_000, "body")
        for _ in range(3)
    ]
    assert accepted == [True, False, False]
    assert (await world.snapshot())[stream] == [{b"event": b"body", b"attempt": b"1"}]
    assert 0 < await world.redis.pttl(mark) <= 60_000


@pytest.mark.outcome("finish_entry", "finished", "absent")
async def test_a_finished_entry_is_acknowledged_and_gone(world: World) -> None:
    stream, entry_id = await _entry(world)
    way = world.keys.way("crm")
    await world.redis.sadd(way, "other")  # type: ignore[misc]
    assert await world.scripts.finish_entry(stream, way, GROUP, [(entry_id, "event-1"), ("1-1", "other")]) == 1
    assert await _left(world, stream) == (0, 0)
    # Only what was there is no longer on its way.
    assert await world.redis.smembers(way) == {b"other"}  # type: ignore[misc]
    assert await world.scripts.finish_entry(stream, way, GROUP, [(entry_id, "event-1")]) == 0


@pytest.mark.outcome("finish_entry", "finished")
async def test_entries_finished_together_take_a_command_of_each_kind(world: World) -> None:
    stream, way = world.keys.stream("crm"), world.keys.way("crm")
    events = [f"event-{number}" for number in range(200)]
    await world.scripts.enqueue(stream, way, [(event, 1) for event in [*events, "left"]])
    await world.redis.xgroup_create(stream, GROUP, id="0")
    answer: Any = await world.redis.xreadgroup(GROUP, "me", {stream: ">"}, count=len(events))
    ((_, read),) = answer
    await world.redis.config_resetstat()
    done = [(entry_id.decode(), event) for (entry_id, _), event in zip(read, events, strict=True)]
    assert await world.scripts.finish_entry(stream, way, GROUP, done) == len(events)
    counts = await world.redis.info("commandstats")
    assert [counts[f"cmdstat_{name}"]["calls"] for name in ("xack", "xdel", "srem")] == [1, 1, 1]
    assert await _left(world, stream) == (1, 0)
    assert (await world.snapshot())[way] == {b"left"}


@pytest.mark.outcome("retry_later", "scheduled", "absent")
@pytest.mark.outcome("move_due", "moved", "idle")
async def test_a_retry_waits_until_it_is_due_and_comes_back_with_its_attempt(world: World) -> None:
    stream, entry_id = await _entry(world, "1 2 3")
    due = world.keys.due("crm")
    assert await world.scripts.move_due([(stream, due)], 10) == (0, -1)
    assert await world.scripts.retry_later(stream, due, GROUP, [(entry_id, 60_000, "1 2 3", 2)]) == 1
    assert await _left(world, stream) == (0, 0)
    moved, wait_ms = await world.scripts.move_due([(stream, due)], 10)
    assert moved == 0
    assert 0 < wait_ms <= 60_000
    await world.redis.zadd(due, {"2 1 2 3": 1})  # time passes
    assert await world.scripts.move_due([(stream, due)], 10) == (1, -1)
    (entry,) = (await world.snapshot())[stream]
    assert entry == {b"event": b"1 2 3", b"attempt": b"2"}
    assert await world.scripts.retry_later(stream, due, GROUP, [(entry_id, 0, "1 2 3", 2)]) == 0
    assert await world.redis.zcard(due) == 0


@pytest.mark.outcome("move_due", "moved")
async def test_no_more_are_moved_than_asked_for_and_the_earliest_first(world: World) -> None:
    stream, due = world.keys.stream("crm"), world.keys.due("crm")
    await world.redis.zadd(due, {"2 b": 2, "2 a": 1, "2 c": 3})
    assert await world.scripts.move_due([(stream, due)], 2) == (2, 0)
    assert [entry[b"event"] for entry in (await world.snapshot())[stream]] == [b"a", b"b"]


@pytest.mark.outcome("bury_entry", "buried", "absent")
async def test_a_buried_entry_lies_among_the_dead_letters_once(world: World) -> None:
    stream, entry_id = await _entry(world)
    dead, way = world.keys.dead("crm"), world.keys.way("crm")
    assert await world.scripts.bury_entry(stream, dead, way, GROUP, entry_id, "event-1", 12, "HTTP 400")
    assert not await world.scripts.bury_entry(stream, dead, way, GROUP, entry_id, "event-1", 12, "HTTP 400")
    assert await _left(world, stream) == (0, 0)
    assert (await world.snapshot())[dead] == [{b"event": b"event-1", b"attempts": b"12", b"error": b"HTTP 400"}]
    assert not await world.redis.exists(way)


@pytest.mark.outcome("enqueue", "enqueued", "on_its_way")
@pytest.mark.outcome("settle_claim", "absent")
@pytest.mark.outcome("retry_later", "scheduled")
@pytest.mark.outcome("move_due", "moved")
async def test_an_event_on_its_way_is_not_enqueued_again_wherever_it_is(world: World) -> None:
    stream, entry_id = await _entry(world, "1 2 3")
    way, due = world.keys.way("crm"), world.keys.due("crm")

    async def again() -> int:
        added = await world.scripts.enqueue(stream, way, [("1 2 3", 1)])
        await world.gate.settle(Settlement(ORG, None, "1 2 3", ("crm",)))
        return added

    assert await again() == 0, "being worked on"
    await world.scripts.retry_later(stream, due, GROUP, [(entry_id, 0, "1 2 3", 2)])
    assert await again() == 0, "due later"
    await world.redis.zadd(due, {"2 1 2 3": 1})
    await world.scripts.move_due([(stream, due)], 10)
    assert await again() == 0, "waiting once more"
    (entry,) = await _entries(world, stream)
    assert entry[1] == {b"event": b"1 2 3", b"attempt": b"2"}
    await world.scripts.finish_entry(stream, way, GROUP, [(entry[0].decode(), "1 2 3")])
    assert await world.scripts.enqueue(stream, way, [("1 2 3", 4), ("1 2 4", 1)]) == 2
    assert [fields for _, fields in await _entries(world, stream)] == [
        {b"event": b"1 2 3", b"attempt": b"4"},
        {b"event": b"1 2 4", b"attempt": b"1"},
    ]


@pytest.mark.outcome("forget_consumers", "forgotten", "kept")
async def test_only_consumers_that_are_silent_and_have_nothing_pending_are_forgotten(world: World) -> None:
    stream, _ = await _entry(world)
    for idle in ("gone", "gone too"):
        await world.redis.xgroup_createconsumer(stream, GROUP, idle)
    assert await world.scripts.forget_consumers(stream, GROUP, 60_000) == 0
    assert await world.scripts.forget_consumers(stream, GROUP, 0) == 2
    (left,) = await world.redis.xinfo_consumers(stream, GROUP)
    assert (left["name"], left["pending"]) == (b"c", 1)
    assert await world.scripts.forget_consumers(stream, GROUP, 0) == 0
    assert await _left(world, stream) == (1, 1)


@pytest.mark.outcome("forget_consumers", "forgotten")
async def test_a_consumer_that_was_forgotten_while_it_waits_comes_back_with_what_it_reads(world: World) -> None:
    stream, _ = await _entry(world)
    await world.redis.xgroup_createconsumer(stream, GROUP, "alive")
    waiting = asyncio.ensure_future(world.redis.xreadgroup(GROUP, "alive", {stream: ">"}, block=4_000))

    async def blocked() -> bool:
        return (await world.redis.info("clients"))["blocked_clients"] == 1

    await eventually(blocked, what="a read that waits")
    assert await world.scripts.forget_consumers(stream, GROUP, 0) == 1
    await world.scripts.enqueue(stream, world.keys.way("crm"), [("event-2", 1)])
    assert await waiting
    pending = {one["name"]: one["pending"] for one in await world.redis.xinfo_consumers(stream, GROUP)}
    assert pending == {b"c": 1, b"alive": 1}


async def test_a_group_that_is_gone_is_told_from_other_trouble(world: World) -> None:
    stream, _ = await _entry(world)
    await world.redis.xgroup_destroy(stream, GROUP)
    with pytest.raises(ResponseError, match=r"^NOGROUP"):
        await world.scripts.forget_consumers(stream, GROUP, 0)


@pytest.mark.outcome("finish_entry", "finished")
@pytest.mark.outcome("retry_later", "scheduled")
@pytest.mark.outcome("move_due", "moved")
@pytest.mark.outcome("bury_entry", "buried")
@pytest.mark.outcome("forget_consumers", "forgotten")
async def test_what_is_in_a_stream_leaves_it_above_maxmemory(world: World) -> None:
    stream, way, due = world.keys.stream("crm"), world.keys.way("crm"), world.keys.due("crm")
    await world.scripts.enqueue(stream, way, [(event, 1) for event in ("told", "put off", "refused")])
    await world.redis.xgroup_create(stream, GROUP, id="0")
    await world.redis.xreadgroup(GROUP, "c", {stream: ">"})
    told, put_off, refused = [entry_id.decode() for entry_id, _ in await _entries(world, stream)]
    await world.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ResponseError, match="maxmemory"):
            await world.scripts.enqueue(stream, way, [("one more", 1)])
        assert await world.scripts.finish_entry(stream, way, GROUP, [(told, "told")]) == 1
        assert await world.scripts.retry_later(stream, due, GROUP, [(put_off, 0, "put off", 2)]) == 1
        assert await world.scripts.bury_entry(
            stream, world.keys.dead("crm"), way, GROUP, refused, "refused", 1, "HTTP 400"
        )
        assert await _left(world, stream) == (0, 0)
        assert await world.scripts.move_due([(stream, due)], 10) == (1, -1)
        assert await world.scripts.forget_consumers(stream, GROUP, 0) == 1
    finally:
        await world.redis.config_set("maxmemory", 0)
    assert [fields for _, fields in await _entries(world, stream)] == [{b"event": b"put off", b"attempt": b"2"}]
