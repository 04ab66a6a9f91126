"""A replay sends the same again, once, however it is asked for and whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from service.db.deliveries import DeliveryRecord, DueEvent
from service.db.replays import ReplayStore
from service.delivery.replays import CarryOutReplays
from service.delivery.stream import Stream
from service.domain.event import EventRef
from service.errors import Unavailable
from service.mocks.server import serving
from tests.api.client import Client, assert_problem
from tests.api_people.asking import seen
from tests.api_people.conftest import READER, STRANGER
from tests.delivery.bench import Bench, answering
from tests.servers import eventually

PATH = "/api/webhooks/deliveries"


class Receiver:
    """Notes (event id, bytes) of each call, and answers by `status`."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.heard: list[tuple[str, bytes]] = []

    @property
    def app(self) -> web.Application:
        return answering(self._take)

    async def _take(self, request: web.Request) -> web.Response:
        self.heard.append((request.headers.get("X-Idempotency-Key", ""), await request.read()))
        return web.json_response({"crm_id": "c", "block_id": "b"}, status=self.status)


def carry_out(bench: Bench, *streams: Stream, again_after_s: float = 30.0) -> CarryOutReplays:
    """What the worker does with what was asked for."""
    s = bench.services
    return CarryOutReplays(
        store=ReplayStore(s.database),
        destinations=s.destinations,
        streams={stream.name: [stream] for stream in streams},
        shards=s.shards,
        again_after_s=again_after_s,
    )


async def given_up(bench: Bench, count: int = 1, *, status: int = 422) -> list[str]:
    """Ids of that many deliveries to the CRM that are dead (or, by another status, delivered)."""
    receiver = Receiver(status)
    async with serving(receiver.app) as url, serving(Receiver().app) as calendar:
        booked = await bench.book(count)
        async with bench.worker(crm=url, calendar=calendar):
            await eventually(bench.nothing_left, what="empty streams")
    assert len(receiver.heard) == count
    assert len(await bench.dead("crm")) == (count if status == 422 else 0)
    return [f"{one['appointment_id']}.1.crm" for one in booked]


async def replay(api: Client, delivery_id: str) -> dict[str, Any]:
    """What asking for a replay answers."""
    answer = await api("POST", f"{PATH}/{delivery_id}/replay")
    assert answer.status == 202, answer.raw
    return answer.json


async def test_a_dead_delivery_is_sent_again_with_the_same_bytes_and_attempts_anew(bench: Bench, api: Client) -> None:
    receiver = Receiver(422)
    async with (
        serving(receiver.app) as crm,
        serving(Receiver().app) as calendar,
        bench.worker(crm=crm, calendar=calendar),
    ):
        (booked,) = await bench.book(1)
        await eventually(bench.nothing_left, what="the end")
        delivery_id = f"{booked['appointment_id']}.1.crm"
        receiver.status = 409
        asked = await replay(api, delivery_id)
        assert (asked["state"], asked["attempts"], asked["replays"]) == ("pending", 0, 1)
        assert asked["last_status"] == 422
        await eventually(lambda: len(receiver.heard) == 4, what="attempts that fail")
        receiver.status = 200
        await eventually(bench.nothing_left, what="the end")

        async def delivered() -> bool:
            return (await seen(api, f"{PATH}/{delivery_id}"))["state"] == "delivered"

        await eventually(delivered, what="the delivery")
        assert await bench.dead("crm") == []
        before = len(receiver.heard)
        assert (await replay(api, delivery_id))["replays"] == 2
        await eventually(lambda: len(receiver.heard) == before + 1, what="one more")
        await eventually(bench.nothing_left, what="the end")
    assert len(set(receiver.heard)) == 1
    assert receiver.heard[0][0] == f"{booked['appointment_id']}.1"
    one = await seen(api, f"{PATH}/{delivery_id}")
    log = [(row["replay"], row["attempt"], row["outcome"]) for row in one["attempt_log"]]
    tries = before - 1
    assert log[0] == (0, 1, "dead")
    assert log[1:-1] == [(1, n, "retrying") for n in range(1, tries)] + [(1, tries, "delivered")]
    assert log[-1] == (2, 1, "delivered")
    assert (one["attempts"], one["replays"], one["last_error"]) == (1, 2, None)


async def test_what_is_on_its_way_is_not_sent_again(bench: Bench, api: Client) -> None:
    (booked,) = await bench.book(1)
    delivery_id = f"{booked['appointment_id']}.1.crm"
    problem = assert_problem(await api("POST", f"{PATH}/{delivery_id}/replay"), 409, "STATE_CONFLICT")
    assert problem["details"] == {"state": "pending"}
    assert_problem(await api.with_key(READER)("POST", f"{PATH}/{delivery_id}/replay"), 403, "FORBIDDEN")
    receiver = Receiver(503)
    async with serving(receiver.app) as url, bench.worker(crm=url, calendar=url):

        async def retrying() -> bool:
            return (await seen(api, f"{PATH}/{delivery_id}"))["state"] == "retrying"

        await eventually(retrying, what="a retry")
    problem = assert_problem(await api("POST", f"{PATH}/{delivery_id}/replay"), 409, "STATE_CONFLICT")
    assert problem["details"] == {"state": "retrying"}


async def test_fifty_who_ask_at_once_and_three_workers_put_it_into_the_stream_once(bench: Bench, api: Client) -> None:
    (delivery_id,) = await given_up(bench)
    answers = await asyncio.gather(*(api("POST", f"{PATH}/{delivery_id}/replay") for _ in range(50)))
    assert Counter(answer.status for answer in answers) == {202: 1, 409: 49}
    workers = [carry_out(bench, bench.stream("crm")) for _ in range(3)]
    assert sum(await asyncio.gather(*(worker() for worker in workers))) == 1
    assert await bench.left("crm") == (1, 0, 0)
    assert await bench.dead("crm") == []
    assert await workers[0]() == 0


@pytest.mark.parametrize("cut", ["exhume", "add_all", "deliveries_enqueued"])
async def test_a_crash_anywhere_between_the_writes_is_made_good(
    bench: Bench, api: Client, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    (delivery_id,) = await given_up(bench)
    await replay(api, delivery_id)
    stream = bench.stream("crm")
    worker = carry_out(bench, stream)

    async def die(*_: object) -> None:
        raise Unavailable("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(worker._store if cut == "deliveries_enqueued" else stream, cut, die)
        with pytest.raises(Unavailable):
            await worker()
    await worker()
    assert await bench.left("crm") == (1, 0, 0)
    assert await bench.dead("crm") == []
    receiver = Receiver()
    async with serving(receiver.app) as url, bench.worker(crm=url, calendar=url):
        await eventually(bench.nothing_left, what="the end")
    assert len(receiver.heard) == 1
    assert (await seen(api, f"{PATH}/{delivery_id}"))["state"] == "delivered"


async def test_what_redis_lost_after_it_was_put_on_its_way_comes_again_and_what_it_did_not_lose_does_not(
    bench: Bench, api: Client
) -> None:
    (delivery_id,) = await given_up(bench, status=200)
    await replay(api, delivery_id)
    worker = carry_out(bench, bench.stream("crm"), again_after_s=0)
    assert await worker() == 1
    assert await worker() == 0  # it was looked at again, and is on its way
    await bench.services.redis.flushall()
    assert await worker() == 1
    assert await bench.left("crm") == (1, 0, 0)


async def test_those_nobody_can_be_told_of_do_not_stand_before_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.delivery.replays.MOST_AT_ONCE", 1)
    (appointment,) = await bench.book(1)
    stream = bench.stream("crm")
    (entry,) = await stream.read(10, 10)
    await stream.finish(entry)
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts, replays, enqueued_at)"
        " VALUES ($1, $2, 1, 'fax', 'pending', 0, 1, NULL),"
        " ($1, $2, 1, 'crm', 'pending', 0, 1, now() - interval '1 hour')",
        bench.org,
        appointment["appointment_id"],
    )
    worker = carry_out(bench, stream)
    assert [await worker() for _ in range(3)] == [0, 1, 0]
    assert await bench.left("crm") == (1, 0, 0)


async def test_a_replay_that_overtakes_the_burial_leaves_no_dead_letter(
    bench: Bench, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (delivery_id,) = await given_up(bench)
    appointment, sequence, _ = delivery_id.split(".")
    event = f"{bench.org} {appointment.replace('-', '')} {sequence}"
    stream = bench.stream("crm")
    # As it is between the record of the last attempt and the burial.
    await stream.exhume({event})
    await stream.add(event, 12)
    (entry,) = await stream.read(1, 50)
    await replay(api, delivery_id)
    worker = carry_out(bench, stream, again_after_s=0)
    assert await worker() == 0, "it is on its way still"
    await stream.bury(entry, 12, "late")
    assert len(await bench.dead("crm")) == 1
    assert await worker() == 1
    assert await bench.dead("crm") == []
    assert await bench.left("crm") == (1, 0, 0)

    # And one that is buried the moment it is on its way is a dead letter.
    async def buried_at_once(events: Sequence[tuple[str, int]]) -> int:
        added = await Stream.add_all(stream, events)
        for one in await stream.read(1, 50):
            await stream.bury(one, 12, "again")
        return added

    (entry,) = await stream.read(1, 50)
    await stream.finish(entry)
    monkeypatch.setattr(stream, "add_all", buried_at_once)
    assert await worker() == 1
    assert [letter["error"] for letter in await bench.dead("crm")] == ["again"]


async def test_an_attempt_of_before_a_replay_does_not_conclude_it(bench: Bench, api: Client) -> None:
    (delivery_id,) = await given_up(bench)
    await replay(api, delivery_id)
    row = await bench.sql("SELECT appointment_id, sequence FROM deliveries WHERE destination = 'crm'")
    ref = EventRef(bench.org, row[0]["appointment_id"], row[0]["sequence"])
    late = DeliveryRecord(
        ref=ref, destination="crm", state="delivered", attempts=12, status=200, error=None, reference=None
    )
    await bench.services.deliveries.record([late])
    assert (await seen(api, f"{PATH}/{delivery_id}"))["state"] == "pending"
    (due,) = (await bench.services.deliveries.load([ref], "crm", [])).values()
    assert isinstance(due, DueEvent)
    assert (due.delivered, due.attempts, due.replays) == (False, 0, 1)


async def test_everything_dead_of_one_destination_is_sent_again_and_nothing_else(bench: Bench, api: Client) -> None:
    dead = await given_up(bench, 7)
    path = "/api/webhooks/destinations/crm/replay"
    for wrong in ("nobody", "endpoint:1", "%20", "%00"):
        answer = await api("POST", f"/api/webhooks/destinations/{wrong}/replay")
        assert_problem(answer, 404, "NOT_FOUND")
    assert (await api.with_key(STRANGER)("POST", path)).json == {"destination": "crm", "replayed": 0}
    nothing = await api("POST", "/api/webhooks/destinations/calendar-blocks/replay")
    assert (nothing.status, nothing.json) == (202, {"destination": "calendar-blocks", "replayed": 0})
    answers = await asyncio.gather(*(api("POST", path) for _ in range(4)))
    assert sum(answer.json["replayed"] for answer in answers) == 7
    receiver = Receiver()
    async with serving(receiver.app) as url, bench.worker(crm=url, calendar=url):

        async def delivered() -> bool:
            found = (await seen(api, f"{PATH}?state=delivered&destination=crm"))["deliveries"]
            return {one["delivery_id"] for one in found} == set(dead)

        await eventually(delivered, what="the deliveries")
        await eventually(bench.nothing_left, what="the end")
    assert Counter(Counter(key for key, _ in receiver.heard).values()) == {1: 7}
    assert await bench.dead("crm") == []


async def test_one_that_is_refused_again_is_one_dead_letter_again(bench: Bench, api: Client) -> None:
    (delivery_id,) = await given_up(bench)
    receiver = Receiver(422)
    async with serving(receiver.app) as url, bench.worker(crm=url):
        for number in (1, 2, 3):
            await replay(api, delivery_id)

            async def dead(number: int = number) -> bool:
                one = await seen(api, f"{PATH}/{delivery_id}")
                return (one["state"], one["replays"]) == ("dead", number) and len(await bench.dead("crm")) == 1

            await eventually(dead, what="the end of the replay")
    assert len(receiver.heard) == 3
