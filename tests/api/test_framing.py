"""Where a request ends is not a matter of opinion, how long it may take neither, and who stops says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from sanic.exceptions import NotFound

from service.api import connection, server
from service.api.endpoint import Call, Route
from service.api.framing import is_chunk
from service.api.response import Response
from service.app import Services
from tests.api_people.conftest import ADMIN
from tests.overload.door import Door, Talk, open_door
from tests.servers import eventually

POST = b"POST /api/appointments HTTP/1.1\r\nHost: x\r\n"
KEYED = b"GET /api/coaches HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n" % ADMIN.encode()
ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
IN_PROCESS_S = 0.4
PATIENT_S = 600.0


@pytest.fixture
async def door(services: Services, org: int) -> AsyncIterator[Door]:
    """The API, with an administrator's key."""
    await services.keys.add(org, ADMIN, "admin", frozenset({"read", "write", "admin"}), 0)
    async with open_door(services, REQUEST_TIMEOUT=PATIENT_S, RESPONSE_TIMEOUT=PATIENT_S) as opened:
        yield opened


async def all_said(talk: Talk) -> bytes:
    """Everything until the server closes the connection."""
    async with asyncio.timeout(60):
        return await talk._reader.read()


@pytest.mark.parametrize(
    "unclear",
    [
        POST + b"Content-Length : %d\r\n\r\n" % len(ALIVE),
        POST + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        POST + b"X-A: b\r\n Content-Length: %d\r\n\r\n" % len(ALIVE),
        POST + b"X-A: b\r\n\tContent-Length: %d\r\n\r\n" % len(ALIVE),
        POST + b"X-A: b\nContent-Length: %d\r\n\r\n" % len(ALIVE),
        POST + b"X-A: b\rContent-Length: %d\r\n\r\n" % len(ALIVE),
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        POST + "Content-Length: \N{FULLWIDTH DIGIT FIVE}\r\n\r\nhello".encode(),
        POST + b"Transfer-Encoding: \xc2\xa0chunked\r\n\r\n0\r\n\r\n",
        POST + "Content-Length: \N{NO-BREAK SPACE}5\r\n\r\nhello".encode(),
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 70,
        POST.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"No Token: 1\r\nContent-Length: 100\r\n\r\n",
        POST + b"Host: y\r\nContent-Length: 0\r\n\r\n",
        b"POST /api/appointments HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(
    door: Door, unclear: bytes
) -> None:
    talk = await door.talk()
    answered = await all_said(talk.say(unclear, ALIVE))
    assert answered.count(b"HTTP/1.1 ") == 1, answered
    assert answered.startswith(b"HTTP/1.1 400 "), answered
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["error"] == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "line",
    [
        b"GET foo HTTP/1.1",
        b"POST api/appointments HTTP/1.1",
        b"GET ?days=1 HTTP/1.1",
        b"CONNECT x:443 HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET http://x:99999/livez HTTP/1.1",
        b"GET /a\tb HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET \xff HTTP/1.1",
    ],
)
async def test_a_url_that_cannot_be_read_is_answered_and_nobodys_crash(
    door: Door, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answered = await all_said((await door.talk()).say(line, b"\r\nHost: x\r\n\r\n"))
    assert answered.startswith(b"HTTP/1.1 400 "), answered
    assert b"\r\nx-correlation-id: " in answered.lower()
    assert not caplog.records


async def test_the_url_of_a_host_alone_is_a_path_that_is_none(door: Door) -> None:
    for url in (b"http://x", b"http://x?a=1"):
        talk = await door.talk()
        assert (await talk.say(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % url).hear()).status == 404
    assert door.sample("booking_http_requests_total", method="GET", route="(none)", status="500") == 0


async def test_a_method_that_is_nearly_head_is_answered_with_the_body_it_is_told_of(door: Door) -> None:
    talk = await door.talk()
    for method in (b"head", b"Head", b"head"):
        sent = method + b" /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        told = await talk.say(sent, ALIVE, ALIVE).hear()
        assert (told.status, told.json["error"]) == (405, "METHOD_NOT_ALLOWED")
        for _ in range(2):
            assert (await talk.hear()).json == {"status": "alive"}


async def test_white_space_after_a_value_is_not_of_it(door: Door) -> None:
    talk = await door.talk()
    told = await talk.say(KEYED[:-2], b" \t\r\nX-Correlation-ID: mine \r\n\r\n").hear()
    assert (told.status, told.headers["x-correlation-id"]) == (200, "mine")
    told = await talk.say(POST, b"X-Correlation-ID: last\r\nContent-Length: 2 \r\n\r\n{}", ALIVE).hear()
    assert (told.status, told.headers["x-correlation-id"]) == (401, "last")
    assert (await talk.hear()).status == 200


async def test_an_empty_line_before_a_request_is_none(door: Door) -> None:
    talk = await door.talk()
    assert (await talk.say(b"\r\n", ALIVE).hear()).status == 200
    assert (await talk.say(POST, b"Content-Length: 2\r\n\r\n{}\r\n", ALIVE).hear()).status == 401
    assert (await talk.hear()).status == 200
    assert (await talk.say(POST, b"Content-Length: 2\r\n\r\n{}\r").hear()).status == 401
    await asyncio.sleep(0.02)
    assert (await talk.say(b"\n", ALIVE).hear()).status == 200


async def test_an_empty_line_after_a_request_begins_none(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "GRACEFUL_S", PATIENT_S)
    async with open_door(services, REQUEST_TIMEOUT=IN_PROCESS_S) as door:
        talk = await door.talk()
        assert (await talk.say(POST, b"Content-Length: 2\r\n\r\n{}\r\n").hear()).status == 401
        await asyncio.sleep(3 * IN_PROCESS_S)
        assert talk.silent, "no time for a request has run out"
        assert (await talk.say(ALIVE, b"\r\n").hear()).status == 200
        door.stop.set()
        assert await talk.ended()
        await asyncio.wait_for(asyncio.shield(door.serving), 60)
    assert not caplog.records


@pytest.mark.parametrize(
    ("version", "lines", "goes_on"),
    [
        (b"1.1", b"Connection: close\r\nConnection: keep-alive\r\n", False),
        (b"1.1", b"Connection: keep-alive, TE\r\n", True),
        (b"1.1", b"Connection: Upgrade\r\n", True),
        (b"1.1", b"", True),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"", False),
    ],
)
async def test_a_connection_goes_on_as_its_client_says(door: Door, version: bytes, lines: bytes, goes_on: bool) -> None:
    talk = await door.talk()
    told = await talk.say(b"GET /livez HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, lines)).hear()
    assert told.headers["connection"] == ("keep-alive" if goes_on else "close")
    if goes_on:
        assert (await talk.say(ALIVE).hear()).status == 200
    else:
        assert await talk.ended()


async def test_a_client_of_http_1_0_is_not_told_to_continue(door: Door) -> None:
    talk = await door.talk()
    talk.say(POST.replace(b"1.1", b"1.0"), b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
    assert (await all_said(talk)).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("expected", [b"a-miracle", b"\xff"])
async def test_what_nobody_can_expect_is_refused_in_our_words(door: Door, expected: bytes) -> None:
    talk = await door.talk()
    answered = await all_said(talk.say(POST, b"Expect: %b\r\nContent-Length: 2\r\n\r\n{}" % expected))
    assert answered.startswith(b"HTTP/1.1 400 "), answered
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["error"] == "VALIDATION_ERROR"


async def test_chunks_are_read_as_they_come_after_a_continue_too(door: Door) -> None:
    talk = await door.talk()
    talk.say(KEYED[:-2].replace(b"GET /api/coaches", b"POST /api/contacts"), b"\r\nContent-Type: application/json\r\n")
    talk.say(b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
    assert (await talk._reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    for piece in (b"00A ;note=x\r", b'\n{"email":"', b"\r\n0", b'f\r\na@example.com"}', b"\r\n0\r\n\r", b"\n"):
        talk.say(piece)
        await asyncio.sleep(0.01)
    head = await talk._reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201"), "told to go on once"
    size = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert json.loads(await talk._reader.readexactly(size))["email"] == "a@example.com"
    assert (await talk.say(ALIVE).hear()).status == 200


@pytest.mark.parametrize(
    ("longer", "well"), [(0, True), (60, True), (100, True), (240, True), (300, False), (9_000, False)]
)
def test_a_chunk_is_read_alike_however_it_is_cut_on_its_way(longer: int, well: bool) -> None:
    sent = b"\r\n2;%b\r\n{}\r\n" % (b"x" * longer)
    seen = [found for size in range(len(sent)) if (found := is_chunk(sent[:size])) is not None]
    assert set(seen) == {well}


async def test_who_sends_byte_by_byte_has_no_more_time_than_others(services: Services) -> None:
    async with open_door(services, REQUEST_TIMEOUT=IN_PROCESS_S) as door:
        talk = await door.talk()
        said = asyncio.ensure_future(all_said(talk))
        talk.say(b"GET /livez HTTP/1.1\r\nX-Long: ")
        sent = 0
        while not said.done():
            talk.say(b"a")
            sent += 1
            assert sent < PATIENT_S / 0.05
            await asyncio.sleep(0.05)
        with suppress(ConnectionResetError):  # a byte that came with the end of its time
            assert (await said).startswith(b"HTTP/1.1 400 ")


async def test_who_is_not_answered_in_time_is_not_told_that_nothing_happened(services: Services) -> None:
    async def never(_: Call) -> Response:
        await asyncio.sleep(PATIENT_S)
        return Response()

    def route(method: str) -> Route:
        return Route(
            method=method, path="/never", operation_id=f"never-{method}", summary="", handler=never, scope=None, tag=""
        )

    async with open_door(services, route("GET"), route("POST"), RESPONSE_TIMEOUT=IN_PROCESS_S) as door:
        for sent, error in (
            (b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n", "SERVICE_UNAVAILABLE"),
            (b"POST /never HTTP/1.1\r\nHost: x\r\n\r\n", "OUTCOME_UNKNOWN"),
            (b"POST /never HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "OUTCOME_UNKNOWN"),
            (b"POST /never HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{", "SERVICE_UNAVAILABLE"),
        ):
            told = await (await door.talk()).say(sent).hear()
            assert (told.status, told.json["error"]) == (503, error), sent
            assert int(told.headers["retry-after"]) > 0


async def test_who_stops_answers_each_client_once_more_and_says_that_it_was_the_last(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GRACEFUL_S", PATIENT_S)  # nobody is cut off by it here
    answered = 0

    async def goes_on_asking(talk: Talk) -> str:
        nonlocal answered
        while True:
            told = await talk.say(ALIVE).hear()
            answered += 1
            if told.headers["connection"] == "close":
                assert await talk.ended()
                return "told"

    async with open_door(services) as door:
        quiet = await door.talk()
        await quiet.say(ALIVE).hear()
        asking = [asyncio.ensure_future(goes_on_asking(await door.talk())) for _ in range(3)]
        await eventually(lambda: answered > 30, what="some answers")
        door.stop.set()
        assert await asyncio.wait_for(asyncio.gather(*asking), 60) == ["told"] * 3
        assert await quiet.ended()
        await asyncio.wait_for(asyncio.shield(door.serving), 60)


async def test_a_request_that_came_with_the_stop_is_answered(services: Services) -> None:
    async with open_door(services) as door:
        talk = await door.talk()
        await talk.say(ALIVE).hear()
        talk.say(b"GET /livez HTTP/1.1\r\nHo")
        await asyncio.sleep(0.05)
        door.stop.set()
        await asyncio.sleep(0.1)
        assert (await talk.say(b"st: x\r\n\r\n").hear()).headers["connection"] == "close"


async def test_who_stops_before_a_head_is_whole_cuts_it_off_and_that_is_nobodys_crash(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "GRACEFUL_S", 0.1)
    async with open_door(services) as door:
        talk = await door.talk()
        await talk.say(ALIVE, b"GET /livez HTTP/1.1\r\nHo").hear()
        door.stop.set()
        assert await talk.ended()
        await asyncio.wait_for(asyncio.shield(door.serving), 60)
    assert not caplog.records


async def test_who_stops_while_there_is_no_room_says_so_too(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", PATIENT_S)  # nobody is hung up on before it asks
    async with open_door(services) as door:
        talk = await door.talk()
        await talk.say(ALIVE).hear()
        door.stop.set()
        await asyncio.sleep(0.05)
        with door.full():
            told = await talk.say(KEYED, b"\r\n").hear()
        assert (told.status, told.headers["connection"]) == (503, "close")
        assert await talk.ended()


async def test_what_is_refused_is_logged_under_its_own_correlation_id(door: Door) -> None:
    structlog.contextvars.bind_contextvars(correlation_id="of the request before")
    request: Any = SimpleNamespace(headers={"x-correlation-id": "its-own"}, method="GET")
    door.edge.refusal(request, NotFound())
    assert structlog.contextvars.get_contextvars()["correlation_id"] == "its-own"


async def test_a_tag_is_compared_weakly_and_what_a_key_shows_is_for_no_shared_cache(door: Door) -> None:
    for path in (b"/api/availability?calendar_id=cal-1", b"/api/coaches"):
        told = await (await door.talk()).say(KEYED.replace(b"/api/coaches", path), b"\r\n").hear()
        assert (told.status, told.headers["cache-control"]) == (200, "private, no-cache")
    talk = await door.talk()
    asked = KEYED.replace(b"/api/coaches", b"/api/availability?calendar_id=cal-1")
    tag = (await talk.say(asked, b"\r\n").hear()).headers["etag"].encode()
    for known, status in (
        (b"If-None-Match: " + tag, 304),
        (b"If-None-Match: W/" + tag, 304),
        (b'If-None-Match: "other", ' + tag, 304),
        (b'If-None-Match: "other"\r\nIf-None-Match: ' + tag, 304),
        (b"If-None-Match: *", 304),
        (b'If-None-Match: "other"', 200),
        (b"If-None-Match: " + tag[:-2] + b'"', 200),
    ):
        told = await talk.say(asked, known, b"\r\n\r\n").hear()
        assert (told.status, told.headers["cache-control"]) == (status, "private, no-cache"), known
    refused = await talk.say(b"GET /api/coaches HTTP/1.1\r\nHost: x\r\n\r\n").hear()
    assert (refused.status, refused.headers["cache-control"]) == (401, "private, no-cache")
