"""A client that goes away leaves a whole appointment or none, and nothing half done either way."""

from __future__ import annotations

import asyncio
import socket
import struct
import uuid
from dataclasses import dataclass

import msgspec

from tests.api.client import Client, booking
from tests.api.stack import Stack
from tests.servers import eventually

GONE = 50
WHOLE = """
    SELECT a.idempotency_key, a.status::text, count(e.*) AS events
    FROM appointments AS a
    LEFT JOIN events AS e ON e.org_id = a.org_id AND e.appointment_id = a.appointment_id
    WHERE a.idempotency_key = ANY($1::text[])
    GROUP BY a.org_id, a.appointment_id
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks for an appointment and does not wait for the answer."""

    writer: asyncio.StreamWriter
    start: str
    key: str
    number: int

    def hang_up(self) -> None:
        """Every second one vanishes with a reset instead of a farewell."""
        if self.number % 2:
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


async def ask(api: Client, stack: Stack, start: str, number: int) -> Caller:
    """Send a booking over a connection of its own."""
    key, body = uuid.uuid4().hex, msgspec.json.encode(booking(start, person=number))
    head = (
        f"POST /api/appointments HTTP/1.1\r\nHost: x\r\nX-API-Key: {api.key}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", stack.ports["PORT"])
    writer.write(head.encode() + body)
    await writer.drain()
    return Caller(writer, start, key, number)


async def spread(api: Client) -> list[str]:
    """As many starts as callers, on so many days that no coach comes to a day's limit."""
    starts = await api.starts()
    return starts[:: len(starts) // GONE][:GONE]


async def made_whole(stack: Stack, callers: list[Caller]) -> set[str]:
    """The keys whose appointments are there, each with its one event."""
    rows = await stack.rows(WHOLE, [caller.key for caller in callers])
    assert {(row["status"], row["events"]) for row in rows} <= {("scheduled", 1)}
    return {row["idempotency_key"] for row in rows}


async def over(api: Client, stack: Stack) -> bool:
    """Whether nothing is under way but the request that asks."""
    return (await api.series())["booking_http_requests_in_flight"] == 1 and await stack.settled()


async def heard_by_the_crm(stack: Stack, callers: list[Caller]) -> int:
    return await stack.value(
        "SELECT count(*) FROM deliveries AS d JOIN appointments AS a USING (org_id, appointment_id)"
        " WHERE a.idempotency_key = ANY($1::text[]) AND d.destination = 'crm' AND d.state = 'delivered'",
        [caller.key for caller in callers],
    )


async def test_who_hangs_up_right_after_asking_leaves_all_or_nothing(api: Client, stack: Stack) -> None:
    crashed = stack.log().count("request crashed")
    starts = await spread(api)
    callers: list[Caller] = []

    async def ask_and_go(start: str, number: int) -> None:
        callers.append(await ask(api, stack, start, number))
        callers[-1].hang_up()

    await asyncio.gather(*(ask_and_go(start, number) for number, start in enumerate(starts)))
    await eventually(lambda: over(api, stack), what="the end of requests that nobody waits for")
    made = await made_whole(stack, callers)

    # The key tells what became of each: the appointment that was made, or one that is made now.
    for caller in callers:
        answer = await api.book(booking(caller.start, person=caller.number), key=caller.key)
        assert answer.status == 201
        assert "Idempotent-Replayed" in answer.headers or caller.key not in made
    assert len(await made_whole(stack, callers)) == GONE
    await stack.verify()
    assert stack.log().count("request crashed") == crashed


async def test_who_hangs_up_between_claim_and_commit_gets_the_appointment_all_the_same(
    api: Client, stack: Stack
) -> None:
    starts = await spread(api)
    async with stack.database() as connection:
        await connection.execute("BEGIN; LOCK TABLE appointments IN ACCESS EXCLUSIVE MODE")
        # All at once: a commit waits a few seconds for the table, then gives its claim up.
        callers = await asyncio.gather(*(ask(api, stack, start, number) for number, start in enumerate(starts)))

        async def all_claimed() -> bool:
            return await stack.pending() == GONE

        await eventually(all_claimed, what="every claim")
        for caller in callers:
            caller.hang_up()
        await connection.execute("COMMIT")

    await eventually(lambda: over(api, stack), what="the end of requests that nobody waits for")
    assert await made_whole(stack, callers) == {caller.key for caller in callers}

    async def told() -> bool:
        return await heard_by_the_crm(stack, callers) == GONE

    await eventually(told, what="the CRM hearing of each")
