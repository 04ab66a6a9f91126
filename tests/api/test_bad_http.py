"""Requests that are hardly HTTP are refused in the contract's words too, and no connection takes the service along."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from service.api.server import build_application, serve
from service.app import Services
from service.assemble_api import build_api
from service.outside.http import open_session
from tests.api.client import PROBLEM_FIELDS, Client, assert_problem, open_client
from tests.api.stack import Stack
from tests.servers import eventually


async def spoken(stack: Stack, sent: bytes, *, end: bool = True) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of what is answered to these bytes; (0, {}, b"") for a closed door."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.ports["PORT"])
    try:
        writer.write(sent)
        if end:
            writer.write_eof()
        raw = await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return 0, {}, b""
    finally:
        writer.close()
    if not raw:
        return 0, {}, b""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


GET = b"GET /api/availability HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
POST = b"POST /api/appointments HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
# The server closes the door on what it cannot even make a request of, or on who keeps talking after its answer.
CLOSED = 0
ODD: dict[str, tuple[bytes, set[int]]] = {
    "garbage": (b"\x00\x01\x02\x03\r\n\r\n", {400}),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200 + b"\r\n\r\n", {400}),
    "no-version": (b"GET /\r\n\r\n", {400}),
    "words": (b"hello there general\r\n\r\n", {400, CLOSED}),
    "version-9": (b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n", {400, 505}),
    "no-colon": (b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n", {400}),
    "length-not-a-number": (POST + b"Content-Length: ten\r\n\r\n", {400}),
    "length-negative": (POST + b"Content-Length: -5\r\n\r\n", {400}),
    "length-beyond-all": (POST + b"X-API-Key: test-key-123\r\nContent-Length: 99999999999\r\n\r\n", {413}),
    "length-and-chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400, 401}),
    "unknown-encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", {400, 401, 501}),
    "bad-chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", {400}),
    "made-up-method": (b"FLY /api/availability HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {405}),
    "path-not-utf-8": (b"GET /api/\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
    "query-not-utf-8": (
        b"GET /api/availability?days=\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {400, 401},
    ),
    "bad-percent": (b"GET /api/appointments/%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 401, 404}),
    "bad-percent-route": (b"GET /api/%c3%28 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
    "absolute-url": (b"GET http://other/api/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
    "star": (b"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
    "empty-path": (b"GET  HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
    "double-slash": (b"GET //api//availability HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
    "key-not-ascii": (GET + b"X-API-Key: \xff\xfe\x80\r\n\r\n", {401}),
    "bearer-not-ascii": (GET + b"Authorization: Bearer \xff\xfe\x80\r\n\r\n", {401}),
    "correlation-not-ascii": (GET + b"X-Correlation-ID: \xff\xfe\r\n\r\n", {401}),
    "trace-not-ascii": (GET + b"traceparent: \xff\xfe\r\n\r\n", {401}),
    "long-path": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {400, 413, 414, 431}),
    "long-header": (GET + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n", {400, 413, 431}),
    "many-headers": (GET + b"".join(b"X-%d: a\r\n" % n for n in range(20_000)) + b"\r\n", {413, CLOSED}),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_is_hardly_a_request_gets_a_problem(stack: Stack, name: str) -> None:
    sent, statuses = ODD[name]
    status, headers, body = await spoken(stack, sent, end=False)
    assert status in statuses, (status, body[:300])
    if status == CLOSED:
        return
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert set(problem) == PROBLEM_FIELDS
    assert problem["status"] == status
    assert problem["correlation_id"] == headers["x-correlation-id"]


async def test_a_request_that_breaks_off_is_nobodys_crash(stack: Stack, api: Client) -> None:
    already = stack.log().count("request crashed")
    for sent in (
        b"",
        b"G",
        GET,
        POST + b"Content-Length: 100\r\n\r\n{",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ):
        for _ in range(3):
            await spoken(stack, sent)
    assert (await api.with_key(None)("GET", "/livez")).status == 200
    assert stack.log().count("request crashed") == already


async def test_the_connection_serves_on_after_a_refusal(stack: Stack) -> None:
    """A refused body must not be read as the next request."""
    smuggled = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for length in (len(smuggled), 70_000):
        body = smuggled.ljust(length, b" ")
        sent = POST.replace(b"Connection: close\r\n", b"") + b"Content-Length: %d\r\n\r\n" % length + body
        status, _, answer = await spoken(stack, sent + GET + b"\r\n", end=False)
        assert status == 401
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert b"alive" not in answer


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/availability", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/api/availability", {"GET"}),
        ("PUT", "/api/appointments", {"POST"}),
        ("POST", "/api/appointments/x", {"GET", "DELETE"}),
        ("GET", "/api/appointments/x/cancel", {"POST"}),
        ("PATCH", "/api/webhooks/calendar", {"POST"}),
        ("DELETE", "/api/webhooks/events/x", {"GET"}),
        ("POST", "/metrics", {"GET"}),
        ("PATCH", "/livez", {"GET"}),
    ],
)
async def test_a_path_says_which_methods_it_knows(api: Client, method: str, path: str, allowed: set[str]) -> None:
    answer = await api(method, path)
    assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
    known = {word.strip() for word in answer.headers["Allow"].split(",")}
    assert known >= allowed
    assert method not in known
    asked = await api.with_key(None)("OPTIONS", path)
    assert (asked.status, asked.raw) == (204, b"")
    assert {word.strip() for word in asked.headers["Allow"].split(",")} == known


@pytest.mark.parametrize("path", ["/livez", "/api/availability?days=1", "/metrics", "/openapi.json"])
async def test_head_is_get_without_the_body(api: Client, path: str) -> None:
    got, headed = await api("GET", path), await api("HEAD", path)
    assert (headed.status, headed.raw) == (got.status, b"")
    assert headed.headers["Content-Type"] == got.headers["Content-Type"]


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/", "/api/nothing", "/api/availability/", "/api/appointments/", "/livez/", "/api/Availability",
     "/api/appointments/x/", "/api/appointments/x/cancel/", "/api/appointments/x/y", "/favicon.ico", "/%2e%2e/"],
)  # fmt: skip
async def test_a_path_that_is_none_is_not_found(api: Client, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await api(method, path, headers={"X-Correlation-ID": "mine"})
        assert assert_problem(answer, 404, "NOT_FOUND")["correlation_id"] == "mine"


async def test_a_client_too_slow_for_its_own_request_is_sent_away(services: Services) -> None:
    """In this process, because the patience of a real installation is longer than a test's."""
    async with open_session() as session:
        edge, routes = build_api(services, session)
        app = build_application(edge, routes)
        app.config.update({"REQUEST_TIMEOUT": 0.3, "RESPONSE_TIMEOUT": 0.3})
        stop = asyncio.Event()
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        listening: Any = server.sockets[0].dup()
        server.close()
        serving = asyncio.ensure_future(serve(app, listening, stop))
        port: int = listening.getsockname()[1]
        try:
            await eventually(lambda: answers(port), what="the application")
            for sent in (
                b"GET /livez HTTP/1.1\r\nHo",
                POST + b"Content-Length: 10\r\n\r\n{",
                GET + b"Upgrade: websocket\r\nContent-Length: 9\r\n\r\n{",
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                raw = await asyncio.wait_for(reader.read(), 60)
                writer.close()
                head, _, body = raw.partition(b"\r\n\r\n")
                assert b"application/problem+json" in head, raw
                assert json.loads(body)["status"] in (400, 503), body
        finally:
            stop.set()
            await serving


async def answers(port: int) -> bool:
    try:
        async with open_client(f"http://127.0.0.1:{port}", None) as client:
            return (await client("GET", "/livez")).status == 200
    except aiohttp.ClientError:
        return False
