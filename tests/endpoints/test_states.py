"""An endpoint that is gone, failing, paused or resumed: visibly so, and its events wait without losing attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from service.db.endpoints import EndpointState
from service.delivery.dispatcher import RetryPolicy
from service.mocks.server import serving
from service.operations.manage_endpoints import Told
from tests.api.client import Client
from tests.delivery.bench import Bench
from tests.endpoints.hooks import EVERY, Hooks, Receiver, event_ids, places
from tests.servers import eventually


async def test_an_answer_of_410_disables_and_resuming_sends_what_waited(bench: Bench, hooks: Hooks) -> None:
    gone = [410]
    receiver = Receiver(lambda _: gone[0])
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(url)
        (appointment,) = await bench.book(1)

        async def disabled() -> bool:
            return (await hooks.get(told)).state is EndpointState.DISABLED

        await eventually(disabled, what="the end of the endpoint")
        await eventually(hooks.nothing_left, what="empty streams")
        seen = await hooks.get(told)
        assert "410" in (seen.reason or "")
        assert seen.paused_at is not None
        await bench.confirm(appointment)
        await eventually(hooks.nothing_left, what="empty streams")
        # One row for what was tried, and none for what waits untried.
        assert [(r["state"], r["attempts"], r["last_status"]) for r in await hooks.deliveries(told)] == [
            ("retrying", 1, 410)
        ]
        calls = len(receiver.seen)
        assert calls == 1

        gone[0] = 200
        resumed = await hooks.set(told, EndpointState.ACTIVE)
        assert (resumed.state, resumed.reason, resumed.paused_at) == (EndpointState.ACTIVE, None, None)
        await eventually(lambda: len(receiver.accepted) == 2, what="both events")
        await eventually(hooks.nothing_left, what="empty streams")
    assert places(receiver.accepted) == [(appointment["appointment_id"], 1), (appointment["appointment_id"], 2)]
    assert [(r["state"], r["attempts"]) for r in await hooks.deliveries(told)] == [("delivered", 2), ("delivered", 1)]


async def test_a_paused_endpoint_is_not_called_and_hears_everything_in_order_when_it_is_resumed(
    bench: Bench, hooks: Hooks
) -> None:
    receiver, other = Receiver(), Receiver()
    async with serving(receiver.app) as url, serving(other.app) as other_url, hooks.worker():
        told = await hooks.register(url)
        await hooks.register(other_url)
        paused = await hooks.set(told, EndpointState.PAUSED)
        assert (paused.state, paused.reason) == (EndpointState.PAUSED, "paused over the API")
        booked = await bench.book(8)
        for appointment in booked:
            await bench.confirm(appointment)
            await bench.cancel(appointment)
        await eventually(lambda: len(other.accepted) == 24, what="the other's events")
        await eventually(hooks.nothing_left, what="empty streams")
        assert receiver.seen == []
        assert await hooks.deliveries(told) == []

        await hooks.set(told, EndpointState.ACTIVE)
        await eventually(lambda: len(receiver.accepted) >= 24, what="the events that waited")
        await eventually(hooks.nothing_left, what="empty streams")
    assert {one.event_id for one in receiver.seen} == event_ids(booked, 1, 2, 3)
    for appointment in booked:
        order = [n for who, n in places(receiver.seen) if who == appointment["appointment_id"]]
        assert order == [1, 2, 3]


async def test_what_is_retrying_when_its_endpoint_is_paused_goes_on_where_it_stood(bench: Bench, hooks: Hooks) -> None:
    statuses = [500] * 4
    receiver = Receiver(lambda _: statuses.pop() if statuses else 200)
    async with serving(receiver.app) as url:
        told = await hooks.register(url)
        await bench.book(1)
        async with hooks.worker():

            async def tried_thrice() -> bool:
                rows = await hooks.deliveries(told)
                return bool(rows) and rows[0]["attempts"] >= 3

            await eventually(tried_thrice, what="three attempts")
            await hooks.set(told, EndpointState.PAUSED)
            await eventually(hooks.nothing_left, what="empty streams")
            (waiting,) = await hooks.deliveries(told)
            await hooks.set(told, EndpointState.ACTIVE)
            await eventually(lambda: len(receiver.accepted) == 1, what="the event")
            await eventually(hooks.nothing_left, what="empty streams")
    (row,) = await hooks.deliveries(told)
    assert row["state"] == "delivered"
    assert row["attempts"] == len(receiver.seen) == 5
    assert waiting["attempts"] in (3, 4, 5)


async def test_an_endpoint_that_only_fails_is_paused_after_a_while_and_a_success_starts_the_count_anew(
    bench: Bench, hooks: Hooks
) -> None:
    status = [500]
    receiver = Receiver(lambda _: web.Response(status=status[0], text="out of order"))
    async with serving(receiver.app) as url, hooks.worker(pause_after_s=600):
        told = await hooks.register(url)
        await bench.book(1)

        async def failing() -> bool:
            return (await hooks.get(told)).failing_since is not None

        await eventually(failing, what="the first failure")
        status[0] = 200

        async def well() -> bool:
            return (await hooks.get(told)).failing_since is None

        await eventually(well, what="the first success")
        status[0] = 500
        await bench.book(1)
        await eventually(failing, what="failing again")
        assert (await hooks.get(told)).state is EndpointState.ACTIVE
        await bench.sql("UPDATE webhook_endpoints SET failing_since = failing_since - interval '10 minutes'")

        async def paused() -> bool:
            return (await hooks.get(told)).state is EndpointState.PAUSED

        await eventually(paused, what="the pause")
        await eventually(hooks.nothing_left, what="empty streams")
    seen = await hooks.get(told)
    assert "600 s" in (seen.reason or "")
    assert "out of order" in (seen.reason or "")
    assert sorted(await hooks.states(told)) == ["delivered", "retrying"]


async def test_an_endpoint_whose_refusal_cannot_be_read_fails_like_any_other(bench: Bench, hooks: Hooks) -> None:
    receiver = Receiver(lambda _: web.Response(status=503, body=b'{"x":' + b"[" * 1015))
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(url)
        await bench.book(1)

        async def failing() -> bool:
            return (await hooks.get(told)).failing_since is not None and bool(await hooks.deliveries(told))

        await eventually(failing, what="the first failure, and its record")
        (row,) = await hooks.deliveries(told)
    assert row["last_status"] == 503


async def test_what_fails_too_often_is_dead_and_holds_the_next_event_up_no_longer(bench: Bench, hooks: Hooks) -> None:
    receiver = Receiver(lambda one: 500 if one.place[1] == 1 else 200)
    async with serving(receiver.app) as url, hooks.worker(policy=RetryPolicy(attempts=4, delay_ms=10, turn_ms=20)):
        told = await hooks.register(url)
        (appointment,) = await bench.book(1)
        await bench.confirm(appointment)
        await eventually(lambda: len(receiver.accepted) == 1, what="the second event")
        await eventually(hooks.nothing_left, what="empty streams")
    assert [(r["state"], r["attempts"]) for r in await hooks.deliveries(told)] == [("dead", 4), ("delivered", 1)]
    (letter,) = await bench.dead("endpoint-deliveries")
    one = told.endpoint.endpoint_id.hex
    assert letter["event"] == f"{bench.org} {appointment['appointment_id'].replace('-', '')} 1 {one}"
    assert "500" in letter["error"]


async def test_the_endpoints_of_each_state_are_counted(bench: Bench, hooks: Hooks) -> None:
    gauge = bench.services.metrics.registry.get_sample_value
    async with hooks.worker():
        for _ in range(2):
            await hooks.register("http://127.0.0.1:9999/")
        paused = await hooks.register("http://127.0.0.1:9999/", *EVERY)
        await hooks.set(paused, EndpointState.PAUSED)

        def counted() -> bool:
            found = [gauge("booking_webhook_endpoints", {"state": state.value}) for state in EndpointState]
            return found == [2, 1, 0]

        await eventually(counted, what="the gauge")


async def test_what_an_endpoint_hears_of_no_more_ends_and_is_not_replayed(
    bench: Bench, hooks: Hooks, api: Client
) -> None:
    receiver = Receiver(lambda _: 302)
    await bench.book(1)
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(url, "appointment.created", "appointment.cancelled")
        one = told.endpoint.endpoint_id
        await bench.book(1)
        await eventually(_states(hooks, told, "dead"), what="a dead delivery")
        receiver.answer = lambda _: 500
        await bench.book(1, calendar="cal-2")
        await eventually(_states(hooks, told, "dead", "retrying"), what="one that is tried again")
        await hooks.manage.change(bench.org, one, {}, types=["appointment.cancelled"], state=None)
        await eventually(_states(hooks, told, "dead", "dead"), what="its end")
        assert (await hooks.deliveries(told))[1]["last_error"] == "the destination does not hear of this any more"
        asked = await api("POST", f"/api/webhooks/destinations/endpoint:{one}/replay")
        assert (asked.status, asked.json["replayed"]) == (202, 0)
        await eventually(hooks.nothing_left, what="empty streams")


async def test_an_attempt_under_way_when_its_endpoint_is_removed_is_the_last(
    bench: Bench, hooks: Hooks, api: Client
) -> None:
    receiver = Receiver(lambda _: 500, hangs=asyncio.Event())
    await bench.book(1)
    async with serving(receiver.app) as url, hooks.worker():
        told = await hooks.register(url, "appointment.created")
        await bench.book(1)
        await eventually(lambda: len(receiver.seen) == 1, what="an attempt")
        await api("DELETE", f"/api/webhooks/endpoints/{told.endpoint.endpoint_id}")
        assert receiver.hangs is not None
        receiver.hangs.set()

        async def recorded() -> bool:
            rows = await hooks.deliveries(told)
            return [(row["state"], row["attempts"], row["last_error"]) for row in rows] == [
                ("dead", 1, "the endpoint was removed")
            ]

        await eventually(recorded, what="the attempt and its end")
        await eventually(hooks.nothing_left, what="empty streams")
    assert len(receiver.seen) == 1


def _states(hooks: Hooks, told: Told, *wanted: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await hooks.states(told) == list(wanted)

    return look
