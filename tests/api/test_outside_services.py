"""The calendar, the CRM and the auth service may be away or fail as they like: bookings go on, and all is heard.

The system is started while none of the three can be reached; each test brings up what it needs.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.typedefs import Handler

from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour
from service.mocks.crm import build_crm
from tests.api.client import Client, all_at_once, assert_problem, assert_rate_headers, booking, open_client
from tests.api.stack import Stack, listening, running
from tests.servers import eventually, folder_of_its_own, free_port

OUTSIDE = {"CALENDAR_API_URL": free_port, "CRM_WEBHOOK_URL": free_port, "AUTH_SERVICE_URL": free_port}
CORRELATION = "one-thread.of/work:42"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone() -> AsyncIterator[Stack]:
    """A system whose outside services cannot be reached."""
    urls = {name: f"http://127.0.0.1:{port()}" for name, port in OUTSIDE.items()}
    with folder_of_its_own() as folder:
        knobs = {"WEBHOOK_TIMEOUT_MS": 1500, "WEBHOOK_RETRY_ATTEMPTS": 100, "CALENDAR_SYNC_INTERVAL_S": 1}
        async with running(folder, **urls, **knobs) as started:
            yield started


@pytest.fixture
async def client(alone: Stack) -> AsyncIterator[Client]:
    """A client of that system, with a key of the sample data whose limit does not come into it."""
    async with open_client(alone.url, await alone.add_key("read", "write")) as opened:
        yield opened


def port_of(alone: Stack, name: str) -> int:
    """The port a service of the outside is expected on."""
    return int(alone.environment[name].rpartition(":")[2])


async def test_nothing_of_the_outside_is_needed_to_start_and_to_book(alone: Stack, client: Client) -> None:
    assert (await client.with_key(None)("GET", "/readyz")).status == 200
    starts = await client.starts()
    answers = await all_at_once(client.book(booking(start)) for start in starts[:10])
    assert {answer.status for answer in answers} == {201}
    cancelled = await client("DELETE", f"/api/appointments/{answers[0].json['appointment_id']}")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert (await client.with_key("test-key-123")("GET", "/api/availability?calendar_id=cal-2")).status == 200
    # What nobody could hear is kept, and dead letters are not made of an outage.
    ended = "SELECT count(*) FROM deliveries WHERE state IN ('delivered', 'dead') AND destination"
    assert await alone.value(f"{ended} <> 'notifications'") == 0


async def test_a_key_nobody_can_be_asked_about_is_answered_503(client: Client) -> None:
    answer = await client.with_key(f"never-seen-{uuid.uuid4()}")("GET", "/api/availability")
    assert_problem(answer, 503, "SERVICE_UNAVAILABLE")
    assert (await client("GET", "/api/availability?calendar_id=cal-1")).status == 200


class Auth:
    """An auth service that knows one key more than the sample data, which may read but not write."""

    def __init__(self) -> None:
        self.key = f"theirs-{uuid.uuid4().hex}"
        self.asked: list[str] = []

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/validate", self.validate)
        return app

    async def validate(self, request: web.Request) -> web.Response:
        """POST /validate"""
        key = msgspec.json.decode(await request.read())["api_key"]
        self.asked.append(key)
        if key != self.key:
            return web.json_response({"valid": False, "error": "Invalid API key"}, status=401)
        return web.json_response(
            {
                "valid": True,
                "key_type": "partner",
                "rate_limit": {"limit": 7, "remaining": 6, "reset": "2030-01-01T00:00:00Z"},
                "permissions": {"read": True, "write": False, "delete": True},
            }
        )


async def test_a_key_only_the_auth_service_knows_works_and_outlives_its_outage(alone: Stack, client: Client) -> None:
    auth = Auth()
    theirs = client.with_key(auth.key)
    async with listening(auth.application(), port_of(alone, "AUTH_SERVICE_URL")):
        assert_problem(await client.with_key("unknown")("GET", "/api/availability"), 401, "AUTHENTICATION_FAILED")
        first = await theirs("GET", "/api/availability?calendar_id=cal-1")
        assert (first.status, first.headers["X-RateLimit-Limit"]) == (200, "7")
        # The organization is DEFAULT_ORGANIZATION, the scopes are what it permits.
        assert first.json["slots"]
        refused = await theirs.book(booking(first.json["slots"][0]["start_time"]))
        assert_problem(refused, 403, "FORBIDDEN")
        assert_rate_headers(refused)
    rows = await alone.rows("SELECT scopes, rate_limit, source FROM api_keys WHERE name LIKE 'auth-service %'")
    assert [tuple(row) for row in rows] == [(["admin", "read"], 7, "auth-service")]
    assert (await theirs("GET", "/api/availability?calendar_id=cal-1")).status == 200
    asked = len(auth.asked)

    before = alone.pids("api-process")
    for pid in before:
        alone.kill(pid)
    await eventually(lambda: replaced(alone, client, before), within_s=60, what="new API processes")
    assert (await theirs("GET", "/api/availability?calendar_id=cal-1")).status == 200
    assert len(auth.asked) == asked


async def replaced(stack: Stack, client: Client, before: list[int]) -> bool:
    """Whether there are as many API processes as before, all new ones, and one answers that it can book."""
    now = stack.pids("api-process")
    return len(now) == len(before) and not set(now) & set(before) and await ready(client)


async def ready(client: Client) -> bool:
    try:
        return (await client.with_key(None)("GET", "/readyz")).status == 200
    except OSError:
        return False


@web.middleware
async def soon(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A refusal that does not ask to be spared for five seconds, so that the test need not wait for it."""
    response = await handler(request)
    return web.json_response({"error": "temporarily unavailable"}, status=503) if response.status == 503 else response


def crm(behaviour: Behaviour) -> web.Application:
    """The mock CRM with impatient refusals."""
    app = build_crm(behaviour)
    app.middlewares.append(soon)
    return app


async def ledger(alone: Stack, client: Client) -> dict[str, Any]:
    """What the CRM was told, by key."""
    url = f"http://127.0.0.1:{port_of(alone, 'CRM_WEBHOOK_URL')}"
    return (await Client(client._session, url, None)("GET", "/webhooks/ledger")).json["keys"]


async def book_and_cancel(client: Client, starts: list[str]) -> tuple[list[str], list[float]]:
    """The appointments made at `starts` and cancelled again, a few at a time; how long each booking took."""
    made: list[str] = []
    seconds: list[float] = []

    async def one(start: str) -> None:
        began = time.perf_counter()
        answer = await client.book(booking(start))
        seconds.append(time.perf_counter() - began)
        assert answer.status == 201, answer.raw
        made.append(answer.json["appointment_id"])
        assert (await client("DELETE", f"/api/appointments/{made[-1]}")).status == 200

    for first in range(0, len(starts), 4):
        await all_at_once(one(start) for start in starts[first : first + 4])
    return made, seconds


async def test_a_crm_that_fails_and_hangs_hears_of_everything_and_nobody_waits_for_it(
    alone: Stack, client: Client
) -> None:
    port = port_of(alone, "CRM_WEBHOOK_URL")
    starts = (await client.starts())[20:]
    async with listening(crm(Behaviour.calm()), port):
        await eventually(lambda: caught_up(alone), within_s=60, what="everything undelivered arriving")
        _, calm = await book_and_cancel(client, starts[:60])
    nasty = Behaviour(failure_rate=0.3, seed=7, delay_scale=0.2, never_answer_rate=0.15)
    async with listening(crm(nasty), port):
        made, troubled = await book_and_cancel(client, starts[60:120])
        wanted = {f"{appointment}.{sequence}" for appointment in made for sequence in (1, 2)}

        async def heard() -> bool:
            told = await ledger(alone, client)
            return all(key in told and told[key]["accepted"] for key in wanted)

        await eventually(heard, within_s=60, what="every webhook")
        told = await ledger(alone, client)
        assert {told[key]["accepted"] for key in wanted} == {1}
        assert {len(set(told[key]["payload_sha256"])) for key in wanted} == {1}
        assert sum(told[key]["refused"] for key in wanted) > 10
        assert sum(told[key]["abandoned"] for key in wanted) > 0
        await eventually(lambda: caught_up(alone), within_s=60, what="the record of every delivery")
    # The CRM takes 40 to 240 ms or hangs; the machine may have become half as fast by now.
    assert statistics.median(troubled) < 4 * statistics.median(calm)


async def caught_up(alone: Stack) -> bool:
    """Whether the CRM heard of every event."""
    return (
        await alone.value(
            "SELECT count(*) FROM events AS e WHERE NOT EXISTS (SELECT FROM deliveries AS d WHERE d.org_id = e.org_id"
            " AND d.appointment_id = e.appointment_id AND d.sequence = e.sequence AND d.destination = 'crm'"
            " AND d.state = 'delivered')"
        )
        == 0
    )


async def test_the_calendars_busy_times_and_blocks_come_when_it_can_be_reached(alone: Stack, client: Client) -> None:
    start = (await client.starts())[-1]
    booked = (await client.book(booking(start))).json
    async with listening(build_calendar(Behaviour.calm()), port_of(alone, "CALENDAR_API_URL")):

        async def blocked() -> bool:
            return await alone.value(
                "SELECT count(*) FROM deliveries WHERE appointment_id = $1::uuid AND destination = 'calendar-blocks'"
                " AND state = 'delivered' AND reference IS NOT NULL",
                uuid.UUID(booked["appointment_id"]),
            )

        await eventually(blocked, within_s=60, what="the block in the calendar")
    assert (await client.book(booking((await client.starts())[-2]))).status == 201


class Receiver:
    """A CRM that only writes down what it is sent."""

    def __init__(self) -> None:
        self.headers: dict[str, dict[str, str]] = {}

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/webhooks/{kind}", self.take)
        return app

    async def take(self, request: web.Request) -> web.Response:
        """POST /webhooks/…"""
        body = msgspec.json.decode(await request.read())
        self.headers[body["appointment_id"]] = dict(request.headers)
        return web.json_response({"success": True, "crm_id": "crm_1"})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Correlation-ID": CORRELATION}, CORRELATION),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"X-Correlation-ID": CORRELATION, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, CORRELATION),
        ({"X-Correlation-ID": 'not safe" {}', "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"X-Correlation-ID": "x" * 129}, None),
        ({"X-Correlation-ID": "<script>"}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later"}, TRACE),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01-what-comes-later"}, None),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"}, None),
    ],
)
async def test_a_requests_correlation_id_goes_all_the_way(
    alone: Stack, client: Client, headers: dict[str, str], expected: str | None
) -> None:
    receiver = Receiver()
    async with listening(receiver.application(), port_of(alone, "CRM_WEBHOOK_URL")):
        wish = booking((await client.starts())[5])
        answer = await client("POST", "/api/appointments", wish, headers=headers)
        assert answer.status == 201
        given = answer.headers["X-Correlation-ID"]
        if expected is None:
            assert str(uuid.UUID(given)) == given
        else:
            assert given == expected
        made = answer.json["appointment_id"]
        await eventually(lambda: made in receiver.headers, within_s=60, what="the webhook")
        assert receiver.headers[made]["X-Correlation-ID"] == given
        assert receiver.headers[made]["X-Idempotency-Key"] == f"{made}.1"
    row = "SELECT correlation_id FROM events WHERE appointment_id = $1::uuid"
    assert await alone.value(row, uuid.UUID(made)) == given


async def test_a_failure_and_the_log_carry_the_correlation_id_too(alone: Stack, client: Client) -> None:
    thread = f"thread-{uuid.uuid4().hex}"
    answer = await client.with_key(thread)("GET", "/api/availability", headers={"X-Correlation-ID": thread})
    assert assert_problem(answer, 503, "SERVICE_UNAVAILABLE")["correlation_id"] == thread
    await eventually(lambda: f'"correlation_id":"{thread}"' in alone.log(), what="the line in the log")
