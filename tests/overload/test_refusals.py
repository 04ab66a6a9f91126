"""When there is no room a request is refused in the contract's words, and the connection stays in step."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime

import pytest

from service.api import connection
from tests.api.client import PROBLEM_FIELDS
from tests.overload.door import Door, Told
from tests.servers import eventually

# A body that is a request: read as one, it would be answered.
BODY = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
START = b"POST /api/appointments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /api/availability HTTP/1.1\r\nHost: x\r\n"
ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
STAYS = {
    "get": (GET, b"\r\n"),
    "post": (START, LENGTH, b"\r\n", BODY),
    "post-without-body": (START, b"Content-Length: 0\r\n\r\n"),
    "keep-alive": (GET, b"Connection: Keep-Alive\r\n\r\n"),
    "large": (START, b"Content-Length: 300000\r\n\r\n", BODY.ljust(300_000)),
    "larger": (START, b"Content-Length: 2000000\r\n\r\n", BODY.ljust(2_000_000)),
    "chunked": (START, CHUNKED),
    "expect": (START, LENGTH, b"Expect: 100-continue\r\n\r\n", BODY),
    "long-head": (GET, b"X-Long: " + b"a" * 8_000, b"\r\n\r\n"),
    "lower-case": (START.lower().replace(b"post /api/appointments http", b"POST /api/appointments HTTP"),
                   LENGTH.lower(), b"\r\n", BODY),
    "made-up-path": (b"PUT /nothing/at/all HTTP/1.1\r\nHost: x\r\n", LENGTH, b"\r\n", BODY),
}  # fmt: skip
CLOSES = {
    "close": (GET, b"Connection: close\r\n\r\n"),
    "close-after-keep-alive": (GET, b"Connection: keep-alive\r\nConnection: close\r\n\r\n"),
    "http-1.0": (GET.replace(b"1.1", b"1.0"), b"\r\n"),
}
MALFORMED = {
    "two-lengths": (START, b"Content-Length: 0\r\n", LENGTH, b"\r\n", BODY),
    "length-and-chunks": (START, LENGTH, CHUNKED),
    "length-not-a-number": (START, b"Content-Length: +34\r\n\r\n", BODY),
    "no-colon": (START, b"Content-Length 34\r\n\r\n", BODY),
    "no-version": (b"GET /api/availability\r\n\r\n", BODY),
}


def assert_refusal(told: Told) -> None:
    assert told.status == 503, told
    assert told.headers["content-type"] == "application/problem+json"
    assert told.headers["retry-after"] in ("1", "2")
    assert told.headers["x-content-type-options"] == "nosniff"
    assert told.headers["access-control-allow-origin"] == "https://clinic.example"
    problem = told.json
    assert set(problem) == PROBLEM_FIELDS
    assert (problem["status"], problem["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert problem["title"] == "Service Unavailable"
    assert problem["correlation_id"] == told.headers["x-correlation-id"]
    assert datetime.fromisoformat(problem["timestamp"]).tzinfo is not None


@pytest.mark.parametrize("name", STAYS)
async def test_a_refused_request_is_read_to_its_end_and_the_connection_serves_on(door: Door, name: str) -> None:
    talk = await door.talk()
    with door.full():
        assert_refusal(await talk.say(*STAYS[name], ALIVE).hear())
        alive = await talk.hear()
    assert (alive.status, alive.json) == (200, {"status": "alive"})
    assert (await talk.say(GET, b"\r\n").hear()).status == 401, "there is room again"
    assert talk.silent
    assert door.refused() == 1


async def test_the_refusal_does_not_wait_for_the_body(door: Door) -> None:
    talk = await door.talk()
    with door.full():
        assert_refusal(await talk.say(START, LENGTH, b"\r\n", BODY[:5]).hear())
        alive = await talk.say(BODY[5:], ALIVE).hear()
    assert alive.json == {"status": "alive"}
    assert talk.silent


@pytest.mark.parametrize("name", CLOSES)
async def test_a_connection_that_shall_be_closed_is_closed_after_the_refusal(door: Door, name: str) -> None:
    talk = await door.talk()
    with door.full():
        told = await talk.say(*CLOSES[name]).hear()
        assert_refusal(told)
        assert told.headers["connection"] == "close"
        assert await talk.ended()


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_malformed_is_so_without_room_too(door: Door, name: str) -> None:
    talk = await door.talk()
    with door.full():
        told = await talk.say(*MALFORMED[name], ALIVE).hear()
        assert (told.status, told.headers["connection"]) == (400, "close")
        assert await talk.ended()


async def test_a_head_request_is_refused_without_a_body(door: Door) -> None:
    talk = await door.talk()
    with door.full():
        told = await talk.say(GET.replace(b"GET", b"HEAD"), b"\r\n", ALIVE).hear(body=False)
        assert (told.status, told.headers["retry-after"] in ("1", "2")) == (503, True)
        assert (await talk.hear()).json == {"status": "alive"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/livez?from=probe"])
async def test_operators_are_answered_when_there_is_no_room(door: Door, path: str) -> None:
    talk = await door.talk()
    with door.full():
        for method in (b"GET", b"HEAD"):
            request = method + b" %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
            assert (await talk.say(request).hear(body=method == b"GET")).status in (200, 400)
    assert door.refused() == 0


async def test_a_refusal_has_the_correlation_id_of_its_request(door: Door) -> None:
    trace = b"0af7651916cd43dd8448eb211c80319c"
    with door.full():
        given = await (await door.talk()).say(GET, b"x-correlation-id:  mine:1 \r\n\r\n").hear()
        traced = await (await door.talk()).say(GET, b"traceparent: 00-", trace, b"-b7ad6b7169203331-01\r\n\r\n").hear()
        unsafe = await (await door.talk()).say(GET, b'X-Correlation-ID: "}<\xff\r\n\r\n').hear()
    for told in (given, traced, unsafe):
        assert_refusal(told)
    assert given.json["correlation_id"] == "mine:1"
    assert traced.json["correlation_id"] == trace.decode()
    uuid.UUID(unsafe.json["correlation_id"])


async def test_refusals_are_counted(door: Door) -> None:
    talk = await door.talk()
    with door.full():
        await talk.say(START, LENGTH, b"\r\n", BODY).hear()
        await (await door.talk()).say(START, CHUNKED).hear()
    assert door.sample("booking_overload_refusals_total", reason="in_flight") == 2
    answers = "booking_http_requests_total"
    assert door.sample(answers, method="POST", route="(none)", status="503") == 1
    assert door.sample(answers, method="POST", route="/api/appointments", status="503") == 1


async def test_who_comes_again_too_soon_is_not_heard_until_then(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried, patient = await door.talk(), await door.talk()
    monkeypatch.setattr(door.edge.intake, "count_refusal", lambda: 3600)
    with door.full():
        assert (await hurried.say(GET, b"\r\n").hear()).headers["retry-after"] == "3600"
        hurried.say(GET, b"\r\n")
        assert (await patient.say(GET, b"\r\n").hear()).status == 503
        monkeypatch.setattr(door.edge.intake, "count_refusal", lambda: 0)
        for _ in range(5):  # told to come at once
            assert (await (again := await door.talk()).say(GET, b"\r\n").hear()).headers["retry-after"] == "0"
            assert (await again.say(GET, b"\r\n").hear()).status == 503
        assert hurried.silent


async def test_who_was_not_heard_gets_the_room_there_is_by_then(door: Door) -> None:
    talk = await door.talk()
    with door.full():
        told = await talk.say(GET, b"\r\n", GET, b"\r\n").hear()
        assert_refusal(told)
    assert (await talk.hear()).status == 401
    assert door.refused() == 1


async def test_a_client_that_leaves_while_it_is_not_heard_leaves_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door.edge.intake, "count_refusal", lambda: 3600)
    waiting: list[connection.Connection] = []
    made = connection.Connection.connection_made
    monkeypatch.setattr(
        connection.Connection, "connection_made", lambda self, transport: (waiting.append(self), made(self, transport))
    )
    talk = await door.talk()
    with door.full():
        await talk.say(GET, b"\r\n").hear()
        talk.say(GET, b"\r\n").close()
        await eventually(lambda: all(found._task is None for found in waiting), what="the end of the connection")
    assert waiting


async def test_a_body_that_comes_when_there_is_no_room_any_more_is_no_request(door: Door) -> None:
    talk = await door.talk()
    body = GET + b"\r\n"  # which would be refused
    told = await talk.say(b"POST /nothing/at/all HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)).hear()
    assert told.status == 404
    with door.full():
        refused = door.refused()
        talk.say(body)
        await asyncio.sleep(0.1)
        assert talk.silent
        assert door.refused() == refused
        assert_refusal(await talk.say(GET, b"\r\n").hear())
    assert (await talk.say(ALIVE).hear()).status == 200
    assert talk.silent
