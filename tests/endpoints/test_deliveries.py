"""What an endpoint hears: its types, since it was registered, in order, signed, the same bytes at every attempt."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from uuid import UUID

import pytest
from aiohttp import web
from standardwebhooks import WebhookVerificationError

from service.db.endpoints import EndpointState
from service.delivery.fan_out import FanOut
from service.errors import Unavailable
from service.mocks.server import serving
from tests.delivery.bench import Bench
from tests.endpoints.hooks import Hooks, Received, Receiver, event_ids, places
from tests.servers import eventually


async def test_two_endpoints_hear_of_their_types_and_of_nothing_that_was_before(bench: Bench, hooks: Hooks) -> None:
    every, some = Receiver(), Receiver()
    before = await bench.book(2)
    async with serving(every.app) as url, serving(some.app) as other_url, hooks.worker():
        first = await hooks.register(url)
        second = await hooks.register(other_url, "appointment.cancelled")
        after = await bench.book(3)
        for appointment in (*before, *after):
            await bench.confirm(appointment)
        await bench.cancel(before[0])
        await bench.cancel(after[0])
        await eventually(lambda: len(every.seen) == 10 and len(some.seen) == 2, what="ten events and two")
        await eventually(hooks.nothing_left, what="empty streams")

    assert {one.event_id for one in every.seen} == (
        event_ids(after, 1, 2) | event_ids(before, 2) | event_ids([before[0], after[0]], 3)
    )
    assert {one.event_id for one in some.seen} == event_ids([before[0], after[0]], 3)
    assert {one.json["type"] for one in some.seen} == {"appointment.cancelled"}
    assert Counter(await hooks.states(first)) == {"delivered": 10}
    assert Counter(await hooks.states(second)) == {"delivered": 2}


async def test_an_event_stays_where_it_is_until_it_is_on_its_way_to_every_endpoint(
    bench: Bench, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = bench.services
    announced, outward = bench.stream("endpoints"), bench.stream("endpoint-deliveries")
    fan_out = FanOut(hooks.store, {s.shards.of(bench.org): outward}, s.shards, s.chance)
    for _ in range(2):
        await hooks.register("http://127.0.0.1:1999")
    await bench.book(1)
    entries = await announced.read(10, 10)

    async def away(*_: object) -> int:
        raise Unavailable("Redis did not answer")

    with monkeypatch.context() as patched:
        patched.setattr(outward, "add_all", away)
        with pytest.raises(Unavailable):
            await fan_out.take(announced, entries)
    assert await bench.left("endpoints") == (1, 1, 0)
    for _ in range(2):
        await fan_out.take(announced, entries)
    assert await bench.left("endpoints") == (0, 0, 0)
    assert await bench.left("endpoint-deliveries") == (2, 0, 0)


async def test_an_event_that_is_not_there_is_looked_for_five_times(bench: Bench, hooks: Hooks) -> None:
    s = bench.services
    announced, outward = bench.stream("endpoints"), bench.stream("endpoint-deliveries")
    fan_out = FanOut(hooks.store, {s.shards.of(bench.org): outward}, s.shards, s.chance)
    await announced.add_all([(f"{bench.org} {UUID(int=attempt).hex} 1", attempt) for attempt in (1, 4, 5)])
    await fan_out.take(announced, await announced.read(10, 10))
    assert await bench.left("endpoints") == (0, 0, 2)
    (letter,) = await bench.dead("endpoints")
    assert (letter["event"], letter["attempts"]) == (f"{bench.org} {UUID(int=5).hex} 1", "5")


async def test_events_of_organizations_without_endpoints_enter_no_stream(bench: Bench, hooks: Hooks) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url:
        (appointment,) = await bench.book(1)
        await bench.confirm(appointment)
        assert await bench.left("endpoints") == (0, 0, 0)
        told = await hooks.register(url)
        await bench.cancel(appointment)
        assert await bench.left("endpoints") == (1, 0, 0)
        await hooks.manage.remove(bench.org, told.endpoint.endpoint_id)
        await bench.book(1)
        assert await bench.left("endpoints") == (1, 0, 0)
        # Who was removed hears nothing any more, not even of what was announced to it.
        async with hooks.worker():
            await eventually(hooks.nothing_left, what="empty streams")
        assert receiver.seen == []


async def test_a_message_is_what_standard_webhooks_says(bench: Bench, hooks: Hooks) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(f"{url}/hooks?from=us")
        (appointment,) = await bench.book(1)
        await eventually(lambda: len(receiver.seen) == 1, what="the webhook")
    (one,) = receiver.seen
    assert one.verified(told.secret) == one.json
    (event,) = await bench.sql("SELECT * FROM events")
    assert one.json == {
        "type": "appointment.created",
        "timestamp": one.json["timestamp"],
        "data": {
            "appointment": appointment,
            "sequence": 1,
            "event_id": f"{appointment['appointment_id']}.1",
        },
    }
    assert event["data"] in one.raw
    assert datetime.fromisoformat(one.json["timestamp"]) == event["occurred_at"]
    assert one.headers["webhook-id"] == one.json["data"]["event_id"]
    assert one.headers["x-correlation-id"] == event["correlation_id"]
    assert one.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Received({**one.headers, "webhook-id": "another"}, one.raw, 0).verified(told.secret)
    with pytest.raises(WebhookVerificationError):
        Received(one.headers, one.raw.replace(b"created", b"updated"), 0).verified(told.secret)


async def test_both_secrets_sign_for_a_day_after_a_rotation(bench: Bench, hooks: Hooks) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(url)
        rotated = await hooks.manage.rotate(bench.org, told.endpoint.endpoint_id)
        assert rotated.secret != told.secret
        await bench.book(1)
        await eventually(lambda: len(receiver.seen) == 1, what="the first webhook")
        await bench.sql("UPDATE webhook_secrets SET signs_until = signs_until - interval '23 hours 59 minutes'")
        await bench.book(1)
        await eventually(lambda: len(receiver.seen) == 2, what="the second webhook")
        await bench.sql("UPDATE webhook_secrets SET signs_until = signs_until - interval '1 minute'")
        await bench.book(1)
        await eventually(lambda: len(receiver.seen) == 3, what="the third webhook")
    for one in receiver.seen[:2]:
        assert len(one.headers["webhook-signature"].split(" ")) == 2
        assert one.verified(told.secret) == one.verified(rotated.secret) == one.json
    last = receiver.seen[2]
    assert last.verified(rotated.secret) == last.json
    with pytest.raises(WebhookVerificationError):
        last.verified(told.secret)


async def test_every_attempt_carries_the_same_bytes_and_id_and_the_second_event_waits_for_the_first(
    bench: Bench, hooks: Hooks
) -> None:
    answers = {1: iter([500, 429, 503, 404, 500])}
    receiver = Receiver(lambda one: next(answers.get(one.place[1], iter(())), 200))
    async with serving(receiver.app) as url:
        told = await hooks.register(url)
        (appointment,) = await bench.book(1)
        await bench.confirm(appointment)
        await bench.cancel(appointment)
        async with hooks.worker():
            await eventually(lambda: len(receiver.accepted) == 3, what="three events")
    assert [number for _, number in places(receiver.seen)] == [1, 1, 1, 1, 1, 1, 2, 3]
    tries = receiver.seen[:6]
    assert len({one.raw for one in tries}) == len({one.event_id for one in tries}) == 1
    assert all(one.verified(told.secret) for one in tries)
    assert [(row["sequence"], row["state"], row["attempts"]) for row in await hooks.deliveries(told)] == [
        (1, "delivered", 6),
        (2, "delivered", 1),
        (3, "delivered", 1),
    ]


async def test_retry_after_is_waited_for(bench: Bench, hooks: Hooks) -> None:
    late = [web.Response(status=429, headers={"Retry-After": "1"})]
    receiver = Receiver(lambda _: late.pop() if late else 200)
    async with serving(receiver.app) as url, hooks.worker():
        await hooks.register(url)
        await bench.book(1)
        await eventually(lambda: len(receiver.accepted) == 1, what="the event")
    first, second = receiver.seen
    # Ours alone would be 10 ms at most.
    assert second.at - first.at >= 0.99


async def test_of_a_long_answer_the_first_kilobyte_is_kept(bench: Bench, hooks: Hooks) -> None:
    pages = [web.Response(status=500, text="x" * 100_000), web.Response(status=200, text="y" * 100_000)]
    receiver = Receiver(lambda _: pages.pop(0))
    seen: list[str] = []
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(url)
        await bench.book(1)

        async def delivered() -> bool:
            seen.extend(row["last_error"] or "" for row in await hooks.deliveries(told))
            return await hooks.states(told) == ["delivered"]

        await eventually(delivered, what="the delivery")
    assert len(receiver.seen) == 2
    assert max(map(len, seen)) <= 1100


async def test_a_new_type_is_heard_from_then_on_and_nothing_waits_for_what_was_before(
    bench: Bench, hooks: Hooks
) -> None:
    receiver = Receiver()
    async with serving(receiver.app) as url:
        told = await hooks.register(url, "appointment.cancelled")
        one, other = await bench.book(2)
        await bench.confirm(one)
        types = ["appointment.cancelled", "appointment.confirmed"]
        await hooks.manage.change(bench.org, told.endpoint.endpoint_id, {}, types=types, state=None)
        await bench.cancel(one)
        await bench.confirm(other)
        async with hooks.worker():
            await eventually(hooks.nothing_left, what="empty streams")
    assert {one.event_id for one in receiver.seen} == event_ids([one], 3) | event_ids([other], 2)


@pytest.mark.parametrize("emptied", [False, True])
async def test_a_worker_that_dies_in_the_middle_and_an_emptied_redis_lose_nothing(
    bench: Bench, hooks: Hooks, *, emptied: bool
) -> None:
    hanging = Receiver(hangs=asyncio.Event())
    receiver = Receiver()
    async with serving(hanging.app) as url, serving(receiver.app) as other_url:
        told = await hooks.register(url)
        other = await hooks.register(other_url)
        booked = await bench.book(20)
        async with hooks.worker(consumer="first", timeout_s=60):
            # It is told to stop while calls are under way, and breaks them off.
            await eventually(lambda: len(hanging.seen) >= 10, what="calls under way")
        if emptied:
            await bench.services.redis.flushall()
        else:
            assert (await bench.left("endpoint-deliveries"))[1] >= 10
        assert hanging.hangs is not None
        hanging.hangs.set()
        async with hooks.worker(consumer="second", idle_ms=200):
            for appointment in booked[:5]:
                await bench.confirm(appointment)
            wanted = event_ids(booked, 1) | event_ids(booked[:5], 2)

            async def all_there() -> bool:
                return {one.event_id for one in hanging.accepted} == wanted == {o.event_id for o in receiver.accepted}

            await eventually(all_there, what="every event at both")
            await eventually(hooks.nothing_left, what="empty streams")
    for endpoint, who in ((told, hanging), (other, receiver)):
        assert set(await hooks.states(endpoint)) == {"delivered"}
        assert len({(one.event_id, one.raw) for one in who.seen}) == 25
        assert all(one.verified(endpoint.secret) for one in who.seen)
    assert (await hooks.get(told)).state is EndpointState.ACTIVE
