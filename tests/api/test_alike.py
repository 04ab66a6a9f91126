"""A request that is not taken apart again is understood as if it had been: by chance, and beside Sanic alone."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import orjson
import pytest
from sanic import Sanic

from service.api.connection import Connection
from service.api.endpoint import Call, Route
from service.api.exchange import Exchange
from service.api.response import Response
from service.api.server import build_application, serve
from service.app import Services
from service.assemble_api import build_api
from service.outside.http import open_session
from tests.servers import eventually

SEEDS = 400
_NAMES = (
    *("Idempotency-Key", "X-Idempotency-Key", "X-Correlation-ID", "traceparent", "Content-Length", "Content-Length "),
    *("idempotency-key", "x-correlation-id", "Expect", "Connection", "Upgrade", "Transfer-Encoding", "Foo"),
)
_SEPARATORS = (*[": "] * 6, ":", ":\t", ":  ", " : ")
_VALUES = ("a", "b", "abc", "two words", "\xff", "", "k" * 256, '"quoted"',
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")  # fmt: skip
_OF = {
    "expect": ("100-continue", "100-continue", "nope"),
    "connection": ("keep-alive", "keep-alive", "Keep-Alive", "close"),
    "upgrade": ("websocket",),
    "transfer-encoding": ("chunked", "chunked", "gzip"),
}
_LENGTHS = (*["{}"] * 8, "0{}", "+{}", "{} ", "1{}")
_CHANGING = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z")


class Wire(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class Full(Wire):
    """Nobody takes what is written."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def write(self, data: Any) -> None:
        super().write(data)
        self._connection.pause_writing()

    def abort(self) -> None:
        self.close()
        self._connection.connection_lost(None)


@pytest.fixture
async def connect(services: Services) -> AsyncIterator[Any]:
    """Makes connections to the API, which has a path that says what it was told."""

    async def echo(call: Call) -> Response:
        headers: Any = call.request.headers
        told = [
            call.request.method,
            sorted(headers.items()),
            call.body.decode("latin-1"),
            dict(call.path),
            dict(call.query),
        ]
        return Response(orjson.dumps(told), 200, None, "application/json")

    def route(method: str, path: str) -> Route:
        return Route(
            method=method, path=path, operation_id=f"echo-{method}", summary="", handler=echo, scope=None, tag="",
            parameters=(("a", ""),),
        )  # fmt: skip

    async with open_session() as session:
        edge, routes = build_api(services, session)
        app = build_application(edge, [*routes, route("GET", "/echo/<x:str>"), route("POST", "/echo")])
        Sanic.unregister_app(app)
        stop = asyncio.Event()
        serving = asyncio.ensure_future(serve(app, socket.create_server(("127.0.0.1", 0)), stop))
        await eventually(lambda: app.state.is_started, what="the application")
        yield partial(app.ctx.connection, app=app, loop=asyncio.get_running_loop(), connections=set())
        stop.set()
        await serving


async def answers(connect: Any, pieces: list[bytes]) -> tuple[bytes, bool]:
    """(what is written in answer to the pieces, whether it is closed then), without what is never the same."""
    connection: Connection = connect()
    wire = Wire()
    connection.connection_made(wire)
    task: Any = connection._task
    for piece in [b"", *pieces]:
        if piece and not wire.closed:
            connection.data_received(piece)
        for _ in range(40):
            await asyncio.sleep(0)
    await asyncio.sleep(0.003)  # as long as Sanic takes to close what it cannot follow
    closed = wire.closed
    while not task.done():  # the first time it still waits for the rest of a body
        task.cancel()
        await asyncio.sleep(0)
    return _CHANGING.sub(b"-", wire.written), closed


def pieces_of(chance: Random) -> list[bytes]:
    """Requests of one client as they may arrive: of one shape, with other values, whole, together or in parts."""
    line = f"{chance.choice(['POST', 'GET', 'HEAD', 'head', 'PUT', 'OPTIONS'])} "
    line += f"{chance.choice(['/echo', '/echo/1', '/none', '/echo?a=1', '/echo/%41?a='])} "
    line += chance.choice([*["HTTP/1.1"] * 5, "HTTP/1.0"])
    shape = [(name, chance.choice(_SEPARATORS)) for name in chance.sample(_NAMES, chance.randint(0, 4))]
    if chance.random() < 0.7 and not {"content-length", "transfer-encoding"} & {n.lower().strip() for n, _ in shape}:
        shape.append(("Content-Length", ": "))
    requests = [_request(chance, line, shape) for _ in range(chance.randint(2, 5))]
    whole = b"".join(requests)
    match chance.randrange(5):
        case 0 | 1:
            return requests
        case 2:
            return [whole]
        case _:
            cuts = [0, *sorted(chance.sample(range(1, len(whole)), 5)), len(whole)]
            return [whole[first:last] for first, last in pairwise(cuts)]


def _request(chance: Random, line: str, shape: list[tuple[str, str]]) -> bytes:
    body, lines = b"", [line, "Host: x"]
    for name, separator in shape:
        meant = name.lower().strip()
        value = chance.choice(_OF.get(meant, _VALUES))
        if meant == "content-length":
            body = bytes(chance.choice(b"GETx \r\n") for _ in range(chance.choice([0, 1, 5, 40])))
            value = chance.choice(_LENGTHS).format(len(body))
        elif meant == "transfer-encoding":
            body = b"3\r\nabc\r\n0\r\n\r\n"
        lines.append(f"{name}{separator}{value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def test_whatever_is_sent_is_answered_as_sanic_alone_would(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alike, at_hand = Exchange._is_alike, Exchange.body_at_hand
    reused = taken = 0

    def counted(self: Exchange, last: Any) -> bool:
        nonlocal reused
        found = alike(self, last)
        reused += found
        return found

    def taken_at_once(self: Exchange) -> bytes | None:
        nonlocal taken
        body = at_hand(self)
        taken += bool(body)
        return body

    for seed in range(SEEDS):
        pieces = pieces_of(Random(seed))
        monkeypatch.setattr(Exchange, "_is_alike", counted)
        monkeypatch.setattr(Exchange, "body_at_hand", taken_at_once)
        ours = await answers(connect, pieces)
        monkeypatch.setattr(Exchange, "_is_alike", lambda *_: False)
        monkeypatch.setattr(Exchange, "body_at_hand", lambda _: None)
        assert ours == await answers(connect, pieces), (seed, pieces)
    assert reused > SEEDS / 10, "most of this shows nothing unless requests are recognized"
    assert taken > SEEDS / 10, "and unless bodies are there"


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("X-Correlation-ID:\tone\r\nX-Correlation-ID: {}", ("two", "three", "four")),
        ("Idempotency-Key: two words\r\nIdempotency-Key: {}", ("k1", "k2", "k2")),
        ("Idempotency-Key:\r\nIdempotency-Key: {}", ("k1", "k2")),
        ("traceparent: 00-{}af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ("0", "1", "1", "2")),
        ("X-Idempotency-Key: {}", ("k1", "k2", "k2", "k 3")),
    ],
)
async def test_what_is_said_twice_or_traced_is_understood_as_sanic_alone_does(
    connect: Any, monkeypatch: pytest.MonkeyPatch, line: str, values: tuple[str, ...]
) -> None:
    requests = [f"GET /echo/1 HTTP/1.1\r\nHost: x\r\n{line.format(value)}\r\n\r\n".encode() for value in values]
    ours = await answers(connect, requests)
    assert ours[0].count(b"HTTP/1.1 200 ") == len(values)
    monkeypatch.setattr(Exchange, "_is_alike", lambda *_: False)
    assert ours == await answers(connect, requests)


@pytest.mark.parametrize(
    "then",
    ["GET /livez HT", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", "GET bad\r\n\r\n", "\r\n", ""],
)
async def test_who_takes_no_answer_is_cut_off_whatever_it_sends_then(connect: Any, then: str) -> None:
    times = {"REQUEST_TIMEOUT": 0.1, "RESPONSE_TIMEOUT": 0.1, "KEEP_ALIVE_TIMEOUT": 0.1}
    connect.keywords["app"].config.update(times)
    connection: Any = connect()
    wire = Full(connection)
    connection.connection_made(wire)
    connection.data_received(f"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n{then}".encode())
    await eventually(lambda: wire.closed, within_s=10, what="the end of the connection")
    assert wire.written.count(b"HTTP/1.1 ") == 1


async def test_a_head_has_its_time_from_its_first_byte_and_what_follows_its_own(connect: Any) -> None:
    connection: Any = connect()
    connection.connection_made(Wire())

    async def received(piece: bytes) -> float:
        """When the time of what is being received began, if it began anew with this piece; else 0."""
        connection._time = 0.0
        connection.data_received(piece)
        for _ in range(20):
            await asyncio.sleep(0)
        return connection._time

    assert await received(b"POST /echo HTTP/1.1\r\n") > 0
    assert await received(b"Host: x\r\n") == 0
    assert await received(b"Content-Length: 3\r\n\r\n") > 0
    assert await received(b"a") == 0
    assert await received(b"bc") > 0, "it is answered"
    connection._task.cancel()
