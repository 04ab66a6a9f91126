"""What cannot be delivered ends where it can be seen, with its reason; trouble at the receiver costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from redis.exceptions import ResponseError

from service.db.deliveries import DeliveryRecord
from service.delivery.destinations import CrmDestination
from service.delivery.dispatcher import Dispatcher, RetryPolicy
from service.delivery.recorder import DeliveryRecorder
from service.errors import OutcomeUnknown, Unavailable
from service.failpoints import Step
from service.mocks.server import serving
from service.outside.breaker import Breaker
from service.outside.crm import Crm
from tests.delivery.bench import NOWHERE, QUICK, Bench, Recorder, answering
from tests.servers import eventually


async def test_a_refused_event_is_dead_at_once_with_its_reason(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (422, {"error": "client_id is not ours\0\x07"}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        (appointment,) = await bench.book(1)

        async def buried() -> bool:
            return len(await bench.dead("crm")) == 1

        await eventually(buried, what="a dead letter")
    assert len(recorder.seen) == 1
    (row,) = await bench.deliveries("crm")
    assert (row["state"], row["attempts"], row["last_status"]) == ("dead", 1, 422)
    assert "client_id is not ours" in row["last_error"]
    (letter,) = await bench.dead("crm")
    assert letter["event"] == f"{bench.org} {appointment['appointment_id'].replace('-', '')} 1"
    assert letter["attempts"] == "1"
    assert letter["error"] == row["last_error"]
    assert await bench.left("crm") == (0, 0, 0)


async def test_an_event_is_dead_after_the_last_attempt(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (409, {"error": "not now"}))
    policy = RetryPolicy(attempts=4, delay_ms=5, turn_ms=20)
    async with serving(recorder.app) as crm, bench.worker(crm=crm, policy=policy):
        await bench.book(1)

        async def buried() -> bool:
            return len(await bench.dead("crm")) == 1

        await eventually(buried, what="a dead letter")
    assert len({headers["X-Idempotency-Key"] for _, headers, _ in recorder.seen}) == 1
    assert len(recorder.seen) == 4
    (row,) = await bench.deliveries("crm")
    assert (row["state"], row["attempts"]) == ("dead", 4)


@pytest.mark.parametrize("status", [503, 409])
async def test_while_redis_is_full_entries_leave_and_none_is_tried_more_often_than_allowed(
    bench: Bench, status: int
) -> None:
    full, seen = asyncio.Event(), list[str]()

    async def answer(request: web.Request) -> web.Response:
        key = request.headers["X-Idempotency-Key"]
        seen.append(key)
        await full.wait()
        return web.json_response({"crm_id": "c"}, status=status if key == seen[0] else 200)

    policy = RetryPolicy(attempts=3, delay_ms=5, turn_ms=20)
    async with serving(answering(answer)) as crm, bench.worker(crm=crm, policy=policy, idle_ms=50):
        await bench.book(5)
        await eventually(lambda: len(seen) == 5, what="a call for each")
        await bench.services.redis.config_set("maxmemory", 1)
        full.set()
        try:

            async def over() -> bool:
                rows = await bench.deliveries("crm")
                return sorted((row["state"], row["attempts"]) for row in rows) == [("dead", 3), *[("delivered", 1)] * 4]

            async def left() -> bool:
                return await bench.left("crm") == (0, 0, 0)

            await eventually(over, what="the end of each")
            await eventually(left, what="an empty stream, with Redis full")
        finally:
            await bench.services.redis.config_set("maxmemory", 0)
    assert len(seen) == 4 + 3


async def test_what_can_be_put_off_nowhere_is_not_tried_more_often_than_allowed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is taken over as it was, with the number of an attempt that was recorded already."""

    async def refused(*_: Any) -> int:
        raise ResponseError("OOM command not allowed when used memory > 'maxmemory'")

    monkeypatch.setattr(bench.services.scripts, "retry_later", refused)
    recorder = Recorder(lambda _path, _body: (409, {"error": "not now"}))
    policy = RetryPolicy(attempts=3, delay_ms=5, turn_ms=20)
    async with serving(recorder.app) as crm, bench.worker(crm=crm, policy=policy, idle_ms=50):
        await bench.book(1)

        async def buried() -> bool:
            return len(await bench.dead("crm")) == 1 or len(recorder.seen) > 3

        await eventually(buried, what="a dead letter")
    assert len(recorder.seen) == 3
    (row,) = await bench.deliveries("crm")
    assert (row["state"], row["attempts"]) == ("dead", 3)


@pytest.mark.parametrize(("status", "state"), [(422, "dead"), (200, "delivered")])
async def test_what_came_to_its_end_before_a_crash_is_not_told_again(bench: Bench, status: int, state: str) -> None:
    """What was given up is buried, what was delivered is gone."""
    recorder = Recorder(lambda _path, _body: (status, {"error": "not ours"}))

    async def crash(step: Step) -> None:
        if step is Step.DELIVERY_RECORDED:
            raise Unavailable("the worker is gone")

    await bench.book(1)
    stream = bench.stream("crm", idle_ms=0)
    async with serving(recorder.app) as crm:
        for reach in (crash, None):
            dispatcher = Dispatcher(
                CrmDestination(Crm(crm, bench.session, 2)),
                store=bench.services.deliveries,
                recorder=DeliveryRecorder(bench.services.deliveries, bench.services.chance),
                breaker=Breaker(),
                policy=QUICK,
                metrics=bench.services.metrics,
                chance=bench.services.chance,
                reach=reach,
            )
            if reach:
                await dispatcher.take(stream, await stream.read(10, 10))
            else:
                assert await bench.left("crm") == (1, 1, 0)
                (page,) = [page async for page in stream.reclaim()]
                await dispatcher.take(stream, page)
            assert await dispatcher.drain(5) == 0
    assert len(recorder.seen) == 1
    (row,) = await bench.deliveries("crm")
    assert (row["state"], row["attempts"]) == (state, 1)
    letters = [(letter["attempts"], letter["error"]) for letter in await bench.dead("crm")]
    assert letters == ([("1", row["last_error"])] if state == "dead" else [])
    assert await bench.left("crm") == (0, 0, 0)


async def test_a_fault_of_ours_in_one_event_is_tried_as_often_as_allowed_and_stops_no_other(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    broken, _ = await bench.book(2)
    await bench.sql("UPDATE events SET data = '{}' WHERE appointment_id = $1", broken["appointment_id"])
    policy = RetryPolicy(attempts=3, delay_ms=5, turn_ms=20)
    async with serving(recorder.app) as crm, bench.worker(crm=crm, policy=policy):

        async def over() -> bool:
            return await bench.left("crm") == (0, 0, 0) and len(await bench.dead("crm")) == 1

        await eventually(over, what="the end of both")
    told = {str(row["appointment_id"]): row for row in await bench.deliveries("crm")}
    row = told.pop(broken["appointment_id"])
    assert (row["state"], row["attempts"]) == ("dead", 3)
    assert row["last_error"] == "the attempt broke: ValidationError"
    assert [row["state"] for row in told.values()] == ["delivered"]


async def test_what_follows_a_dead_event_is_still_told(bench: Bench) -> None:
    def answer(path: str, _body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (400, {"error": "no"}) if path.endswith("created") else (200, {"crm_id": "c"})

    recorder = Recorder(answer)
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        (appointment,) = await bench.book(1)
        await bench.cancel(appointment)
        await eventually(lambda: "/webhooks/appointment-cancelled" in recorder.paths, what="the cancellation")
    assert recorder.paths == ["/webhooks/appointment-created", "/webhooks/appointment-cancelled"]


async def test_the_receivers_wait_is_honoured(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (503, {"error": "busy", "retry_after": 100}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        await bench.book(1)

        async def put_off() -> bool:
            return (await bench.left("crm"))[2] == 1

        await eventually(put_off, what="the entry among those due later")
    keys, redis = bench.services.shards.of(bench.org), bench.services.redis
    due: Any = await redis.zrange(keys.due("crm"), 0, -1, withscores=True)
    seconds, _ = await redis.time()
    assert 90 < due[0][1] / 1000 - int(seconds) <= 101
    assert len(recorder.seen) == 1


async def test_a_receiver_in_trouble_is_left_alone_and_its_events_lose_no_attempts(bench: Bench) -> None:
    policy = RetryPolicy(attempts=50, delay_ms=1, turn_ms=20)
    recorder = Recorder(lambda _path, _body: (500, {"error": "down"}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm, policy=policy):
        await bench.book(60)

        async def quiet() -> bool:
            # Open: nothing is read any more, what was in hand has been put off.
            depth, pending, due = await bench.left("crm")
            return depth + due == 60 and pending == 0 and depth > 0

        await eventually(quiet, what="a quiet dispatcher")
    rows = await bench.deliveries("crm")
    assert {row["state"] for row in rows} == {"retrying"}
    # 60 events would have made hundreds of attempts by now.
    assert len(recorder.seen) < 120
    assert sum(row["attempts"] for row in rows) == len(recorder.seen)


async def test_what_is_in_hand_when_the_receiver_is_left_alone_is_put_off_untried(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    async with serving(recorder.app) as crm:
        breaker = Breaker(failures=1, pause_s=60)
        dispatcher = Dispatcher(
            CrmDestination(Crm(crm, bench.session, 2)),
            store=bench.services.deliveries,
            recorder=DeliveryRecorder(bench.services.deliveries, bench.services.chance),
            breaker=breaker,
            policy=QUICK,
            metrics=bench.services.metrics,
            chance=bench.services.chance,
        )
        await bench.book(1)
        stream = bench.stream("crm")
        entries = await stream.read(10, 10)
        breaker.failed()
        assert await dispatcher.room() == 0
        await dispatcher.take(stream, entries)
        assert await dispatcher.drain(5) == 0
    assert recorder.seen == []
    assert await bench.left("crm") == (0, 0, 1)
    keys = bench.services.shards.of(bench.org)
    members: Any = await bench.services.redis.zrange(keys.due("crm"), 0, -1)
    assert [member.partition(b" ")[0] for member in members] == [b"1"]


async def test_an_entry_leaves_its_stream_only_after_its_end_is_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    store, seen_left = bench.services.deliveries, list[tuple[int, int, int]]()
    record = store.record

    async def reluctant(records: Sequence[DeliveryRecord]) -> None:
        if any(one.destination == "crm" for one in records):
            seen_left.append(await bench.left("crm"))
            if len(seen_left) < 4:
                raise OutcomeUnknown("lost") if len(seen_left) % 2 else Unavailable("away")
        await record(records)

    monkeypatch.setattr(store, "record", reluctant)
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        await bench.book(1)

        async def finished() -> bool:
            return len(seen_left) >= 4 and await bench.left("crm") == (0, 0, 0)

        await eventually(finished, what="the end of the delivery")
    assert seen_left == [(1, 1, 0)] * 4
    assert len(recorder.seen) == 1


async def test_an_unreachable_receiver_is_tried_again(bench: Bench) -> None:
    async with bench.worker(crm=NOWHERE):
        await bench.book(1)

        async def recorded() -> bool:
            return any(row["attempts"] > 1 for row in await bench.deliveries("crm"))

        await eventually(recorded, what="a second attempt")
    (row,) = await bench.deliveries("crm")
    assert row["state"] == "retrying"
    assert row["last_status"] is None
    assert row["last_error"].startswith("no connection")


async def test_an_entry_that_names_no_event_is_buried(bench: Bench) -> None:
    async with bench.worker():
        await bench.stream("crm").add("nonsense")

        async def buried() -> bool:
            return len(await bench.dead("crm")) == 1

        await eventually(buried, what="a dead letter")
    assert (await bench.dead("crm"))[0]["error"] == "the entry names no event"
