"""Told to stop in the middle of its work, a process ends what is under way: nothing answered is lost, nothing doubled.

A lock on the appointments holds the commits back, and a receiver its answers, until the process has been told: so
there is work under way in that moment, however fast or slow the machine is.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from service.app import Services
from service.mocks.server import serving
from tests.api.client import Answer, Client, booking, open_client
from tests.api.stack import log_lines
from tests.delivery.bench import Bench, answering
from tests.invariants.looks import overlaps
from tests.operations import steps
from tests.overload.door import open_door
from tests.servers import LONGEST_STOP_S, eventually, free_port
from tests.stops.conftest import Process, Start

KEY = "key-of-the-test"
CLIENTS = 12
EVENTS = 30
_MADE = """
SELECT a.idempotency_key AS key, count(e.*) AS events FROM appointments AS a
LEFT JOIN events AS e USING (org_id, appointment_id) WHERE a.status = 'scheduled' GROUP BY a.org_id, a.appointment_id
"""


@dataclass(slots=True)
class Wish:
    """A booking under a key, and what it was answered; None when the connection was cut off or refused."""

    body: dict[str, Any]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    answer: Answer | None = None


async def books(client: Client, bodies: Iterator[dict[str, Any]], asked: list[Wish]) -> None:
    """Book one after the other until nobody answers any more."""
    for body in bodies:
        asked.append(wish := Wish(body))
        try:
            wish.answer = await client.book(wish.body, key=wish.key)
        except aiohttp.ClientError:
            return


async def nobody_listens(port: int) -> bool:
    """Whether who connects is refused."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was being shut just then
        return False
    writer.close()
    return False


async def ended(process: Process, children: list[Path]) -> None:
    """See that it ends by itself, well, and that nobody it had started is left."""
    await asyncio.wait_for(asyncio.to_thread(process.started.wait), LONGEST_STOP_S)
    assert process.started.returncode == 0, process.log()
    assert not [child for child in children if child.exists()]
    assert "Traceback" not in process.log(), process.log()


async def test_an_api_process_that_is_told_to_stop_answers_what_is_under_way(
    start: Start, services: Services, org: int, sql: Any
) -> None:
    await sql.execute(
        "INSERT INTO api_keys (org_id, key_id, key_hash, name, scopes, rate_limit) VALUES ($1, $2, $3, $4, $5, 0)",
        *(org, uuid.uuid4(), hashlib.sha256(KEY.encode()).digest(), KEY, ["read", "write"]),
    )
    port = free_port()
    serve = start("serve", PORT=port, WORKERS=1)
    async with open_door(services) as next_one, open_client(next_one.url, KEY) as other:
        starts = (await other.starts("cal-1", coaches=3))[::2]
        bodies = iter([booking(start, person=number) for number, start in enumerate(starts)])
        asked: list[Wish] = []
        await eventually(lambda: "API on" in serve.log(), what="the start")
        children = serve.children()
        async with open_client(f"http://127.0.0.1:{port}", KEY) as client:
            clients = [asyncio.ensure_future(books(client, bodies, asked)) for _ in range(CLIENTS)]
            await eventually(lambda: sum(wish.answer is not None for wish in asked) >= 2 * CLIENTS, what="bookings")
            async with steps.commits_held(sql):

                async def all_wait() -> bool:
                    return await services.grid.count_pending() == CLIENTS

                await eventually(all_wait, what="a claim of each client")
                under_way = [wish for wish in asked if wish.answer is None]
                serve.started.send_signal(signal.SIGTERM)
                await eventually(lambda: nobody_listens(port), what="a refusal")
            await asyncio.gather(*clients)
        await ended(serve, children)
        assert [wish.answer and wish.answer.status for wish in under_way] == [201] * CLIENTS
        assert await services.grid.count_pending() == 0, "what was committed is settled too"
        assert next(bodies, None) is not None, "they went on until the end"

        for wish in asked:
            again = await other.book(wish.body, key=wish.key)
            assert again.status == 201
            if wish.answer is not None:
                assert wish.answer.status == 201
                assert (again.headers["Idempotent-Replayed"], again.raw) == ("true", wish.answer.raw)
    made = await sql.fetch(_MADE)
    assert Counter(row["key"] for row in made) == Counter(wish.key for wish in asked)
    assert {row["events"] for row in made} == {1}
    assert await overlaps(sql) == 0
    await services.gate.drain()
    [found] = await services.rebuild.verify(lambda _: None)
    assert found.holds


async def test_a_worker_that_is_told_to_stop_ends_the_deliveries_under_way(
    start: Start, services: Services, org: int
) -> None:
    told: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    may_answer = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        event = request.headers.get("X-Idempotency-Key")
        if event is not None:  # else it is the calendar's
            told[event].append((request.path, await request.read()))
        await may_answer.wait()
        return web.json_response({"success": True, "crm_id": f"crm-{event}", "block_id": uuid.uuid4().hex})

    async with aiohttp.ClientSession() as session, serving(answering(receive)) as url:
        bench = Bench(services=services, org=org, session=session)
        outside = {"CRM_WEBHOOK_URL": url, "CALENDAR_API_URL": url, "CALENDAR_SYNC_INTERVAL_S": 0}
        worker = start("worker", WORKER_NICENESS=0, **outside)
        booked = await bench.book(EVENTS)
        await eventually(lambda: len(told) == EVENTS, what="deliveries under way")
        worker.started.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)  # it knows by then that it must stop, or this shows less than it could
        may_answer.set()
        await ended(worker, [])
        # Two seconds are given to what is under way: where the machine stood still for them, it is done again.
        [stopped] = [line for line in log_lines(worker.log()) if line["event"] == "loops stopped"]
        in_time = stopped["left_pending"] == 0
        before = await bench.deliveries("crm")
        async with bench.worker(crm=url, calendar=url, idle_ms=1):
            await eventually(bench.nothing_left, what="empty streams")
    assert set(told) == {f"{appointment['appointment_id']}.1" for appointment in booked}
    assert {len(set(requests)) for requests in told.values()} == {1}
    assert not in_time or {len(requests) for requests in told.values()} == {1}
    for name in ("crm", "calendar-blocks", "notifications"):
        assert Counter(row["state"] for row in await bench.deliveries(name)) == {"delivered": EVENTS}
    assert not in_time or Counter(row["state"] for row in before) == {"delivered": EVENTS}
