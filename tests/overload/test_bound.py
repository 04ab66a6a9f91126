"""However many come, a process works on as many as the bound says, and afterwards on none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

from service.api.endpoint import Edge
from tests.api.client import Client, all_at_once, booking, open_client
from tests.overload.conftest import ROOM
from tests.overload.door import Door
from tests.overload.test_refusals import GET, START
from tests.servers import eventually

KEY = b"X-API-Key: prod-key-789\r\n"
CROWD = 40


@asynccontextmanager
async def nothing_commits(door: Door) -> AsyncGenerator[None]:
    """No booking gets past its claim for the length of the block."""
    connection = await asyncpg.connect(door.services.settings.database_url)
    try:
        await connection.execute("BEGIN; LOCK TABLE appointments IN ACCESS EXCLUSIVE MODE")
        yield
        await connection.execute("COMMIT")
    finally:
        await connection.close()


async def some_starts(client: Client) -> list[str]:
    return (await client.starts("cal-1", coaches=5))[::7]


async def test_a_burst_is_answered_up_to_the_bound_and_the_rest_at_once(door: Door) -> None:
    async with open_client(door.url, "prod-key-789") as client:
        starts = await some_starts(client)
        tally: Counter[int] = Counter()
        most = 0

        async def book(number: int) -> None:
            nonlocal most
            answer = await client.book(booking(starts[number % len(starts)], person=number))
            most = max(most, door.edge.intake.in_flight)
            tally[answer.status] += 1

        async with nothing_commits(door):
            crowd = [asyncio.ensure_future(book(number)) for number in range(CROWD)]
            await eventually(lambda: tally[503] == CROWD - ROOM, what="the refusals")
            assert (tally, most, door.edge.intake.in_flight) == ({503: CROWD - ROOM}, ROOM, ROOM)
        await asyncio.gather(*crowd)

    assert tally == {503: CROWD - ROOM, 201: ROOM}
    assert door.refused() == CROWD - ROOM
    await eventually(lambda: door.edge.intake.in_flight == 0, what="an empty intake")


async def test_work_whose_clients_went_away_takes_room_until_it_is_done(door: Door) -> None:
    async with open_client(door.url, "prod-key-789") as client:
        starts = await some_starts(client)
        async with nothing_commits(door):
            leaving = [asyncio.ensure_future(client.book(booking(start))) for start in starts[:ROOM]]
            await eventually(lambda: len(door.services.tasks) == ROOM, what="bookings under way")
            for caller in leaving:
                caller.cancel()
            await eventually(lambda: door.edge.intake.in_flight == 0, what="nobody waiting")
            assert (await client.book(booking(starts[ROOM]))).status == 503
        await eventually(lambda: len(door.services.tasks) == 0, what="the end of the work")
        assert (await client.book(booking(starts[ROOM]))).status == 201


async def test_who_is_slow_with_a_body_takes_nobodys_room(door: Door) -> None:
    for _ in range(3 * ROOM):
        (await door.talk()).say(START, KEY, b"Content-Length: 100\r\n\r\n{")
    shown = "booking_http_requests_in_flight"
    await eventually(lambda: door.sample(shown) == 3 * ROOM, what="requests being read")
    assert door.edge.intake.in_flight == 0
    assert (await (await door.talk()).say(GET, KEY, b"\r\n").hear()).status == 200


async def test_bodies_that_end_together_do_not_pass_the_bound(door: Door) -> None:
    async with open_client(door.url, "prod-key-789") as client:
        starts = await some_starts(client)
    wishes = [msgspec.json.encode(booking(start)) for start in starts[: 3 * ROOM]]
    talks = [await door.talk() for _ in wishes]
    for talk, wish in zip(talks, wishes, strict=True):
        talk.say(START, KEY, b"Content-Length: %d\r\n\r\n" % len(wish), wish[:1])
    await eventually(lambda: door.sample("booking_http_requests_in_flight") == len(talks), what="requests being read")
    async with nothing_commits(door):
        for talk, wish in zip(talks, wishes, strict=True):
            talk.say(wish[1:])
        await eventually(lambda: door.refused() == len(talks) - ROOM, what="the refusals")
        assert door.edge.intake.in_flight == ROOM
    statuses = Counter([(await talk.hear()).status for talk in talks])
    assert statuses == {201: ROOM, 503: len(talks) - ROOM}


async def test_every_way_to_end_makes_room_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client(door.url, "prod-key-789") as client:
        start = (await client.starts("cal-3", coaches=2))[0]
        wishes = [booking(start, "cal-3", person) for person in range(3)]
        kept = [await client.book(wish) for wish in wishes]
        asked = [
            *kept,
            await client.book({"x": 1}),
            await client.book({**wishes[0], "notes": "x" * 70_000}),
            await client.with_key("nope").book(wishes[0]),
            await client("GET", "/api/appointments/none"),
            await client("GET", "/nothing"),
        ]
        assert [answer.status for answer in asked] == [201, 201, 409, 400, 413, 401, 404, 404]

        async def crash(*_: Any) -> Any:
            raise RuntimeError("on purpose")

        monkeypatch.setattr(Edge, "_look_into", crash)
        crashed = await all_at_once(client.book(wishes[0]) for _ in range(ROOM))
        assert {answer.status for answer in crashed} == {500}
    assert door.edge.intake.in_flight == 0
    assert door.refused() == 0
