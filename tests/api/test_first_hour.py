"""What a newcomer does in the first hour works, against outside services that fail as often as the real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from tests.api.client import all_at_once, booking, open_client
from tests.api.stack import STOPPED_WITHIN_S, Stack
from tests.servers import eventually

KEY = "test-key-123"


def session_niceness(pid: int) -> int | None:
    """How far a process' session gives way, None where the kernel does not group by session."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


def listening_on(port: int) -> set[str]:
    """The addresses at which somebody listens on a port, as the kernel writes them."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [local.split(":") for _, local, _, state, *_ in sockets if state == "0A"]
    return {address for address, number in places if int(number, 16) == port}


async def test_look_book_cancel_by_the_calendar_stop_and_go_on(folder: Path) -> None:
    stack = Stack(folder, HOST="0.0.0.0")  # noqa: S104  the mocks must not follow
    try:
        await stack.start()
        assert listening_on(stack.ports["PORT"]) == {"00000000"}
        assert listening_on(stack.ports["CRM_PORT"]) == {"0100007F"}
        async with open_client(stack.url, KEY) as client:
            free = await client.slots(calendar_id="cal-1", days=7)
            assert len(free) > 50
            start = free[len(free) // 2]["start_time"]
            booked = await client.book(booking(start))
            assert booked.status == 201, booked.raw
            appointment = booked.json
            path = f"/api/appointments/{appointment['appointment_id']}"
            assert (await client("GET", path)).json == appointment
            kept = (await client.book(booking(free[-1]["start_time"], person=1))).json

            event = {"event_type": "appointment.cancelled", "appointment_id": appointment["appointment_id"]}
            identity = {"X-Idempotency-Key": uuid.uuid4().hex}
            taken = await all_at_once(
                client("POST", "/api/webhooks/calendar", event, headers=identity) for _ in range(2)
            )
            assert {(answer.status, answer.raw) for answer in taken} == {(200, taken[0].raw)}

            async def cancelled() -> bool:
                return (await client("GET", path)).json["status"] == "cancelled"

            await eventually(cancelled, within_s=60, what="the cancellation")
            distribution = (await client("GET", "/api/coaches/distribution?to=2999-01-01")).status
            assert distribution == 400
            shown = (await client("GET", "/api/coaches/distribution")).json
            assert len(shown["distribution"]) == 6
            assert 0 <= shown["fairness_score"] <= 1

        [worker] = stack.pids("service.cli worker")
        niceness = {os.getpriority(os.PRIO_PROCESS, pid) for pid in stack.pids("api-process")}
        assert {os.getpriority(os.PRIO_PROCESS, worker) - number for number in niceness} == {10}, "bookings come first"
        assert session_niceness(worker) in (None, 10), "also where the processor is shared out among sessions"

        await who_comes_while_it_stops_is_refused_at_once(stack)
        assert stack.processes() == {}

        await stack.start()
        async with open_client(stack.url, KEY) as client:
            assert (await client("GET", path)).json["status"] == "cancelled"
            assert (await client("GET", f"/api/appointments/{kept['appointment_id']}")).json == kept
            taken_start = {"start_time": kept["start_time"], "coach_id": kept["coach_id"]}
            for slot in await client.slots(calendar_id="cal-1", days=7):
                assert {name: slot[name] for name in taken_start} != taken_start
        await stack.verify()
    finally:
        await stack.remove()


async def who_comes_while_it_stops_is_refused_at_once(stack: Stack) -> None:
    """Stop it while a request is under way, whose body does not come."""
    place = "127.0.0.1", stack.ports["PORT"]
    head = f"POST /api/contacts HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(place) as slow:
        slow.sendall(head.encode())
        stopping = asyncio.ensure_future(stack.stop())

        def refused() -> bool:
            with suppress(ConnectionRefusedError):
                socket.create_connection(place).close()
                return False
            return True

        await eventually(refused, what="a refusal")
        assert stack.pids("api-process"), "nobody is there any more to refuse or to answer"
    assert await stopping < STOPPED_WITHIN_S


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting Postgres and Redis", signal.SIGINT),
        ("migrated: ", signal.SIGTERM),
        ('"child":"api-2"', signal.SIGTERM),
        ("Ready.", signal.SIGINT),
    ],
)
async def test_a_signal_in_the_middle_of_a_start_leaves_nothing(
    folder: Path, moment: str, number: signal.Signals
) -> None:
    stack = Stack(folder)
    try:
        stack.begin()
        await eventually(lambda: moment in stack.log(), within_s=60, what=moment)
        assert await stack.stop(number) < STOPPED_WITHIN_S
        assert stack.process.returncode == 0, stack.log()
        assert stack.processes() == {}
        assert "Traceback" not in stack.log()
    finally:
        await stack.remove()


async def test_a_signal_at_the_very_start_leaves_nothing(folder: Path) -> None:
    """Before Python has read the program there is nobody to handle the signal; all the more must nothing be left."""
    stack = Stack(folder)
    try:
        for after_s in (0.0, 0.3, 0.6, 0.9):
            stack.begin()
            until = time.monotonic() + after_s
            await eventually(lambda until=until: time.monotonic() >= until)
            assert await stack.stop() < STOPPED_WITHIN_S
            assert stack.processes() == {}
    finally:
        await stack.remove()
