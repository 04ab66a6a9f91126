"""An HTTP connection that refuses requests before it reads them, while the process has as many as it can take.

A refusal must cost a small part of what an answer costs, or refusing is what the process is busy with. So a plain
request is answered from its bytes: no headers taken apart, no route looked up, no body kept. What is not plain
(chunks, Expect, HTTP/1.0, a connection to be closed, anything malformed) goes the ordinary way, where the edge
refuses it. And a client that is told when to come again and comes sooner is not heard until then, or clients that
do not wait could have themselves refused so often that nothing else is done.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from sanic.exceptions import RequestCancelled
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from service.api.endpoint import Edge, Route
from service.api.exchange import Exchange
from service.api.framing import PLAIN_HEAD
from service.api.problems import beginning_of, body_of, problem_of
from service.api.said import correlation_among
from service.errors import Overloaded

LARGEST_HEAD_BYTES = 8 * 1024
LARGEST_BODY_READ_AWAY = 1024 * 1024
MOST_UNREAD_BYTES = 64 * 1024
# So long after its last request a client is not expected to be sending the next one.
QUIET_S = 0.25
_TELLING = re.compile(
    rb"\r\n(content-length|transfer-encoding|expect|upgrade|connection|x-correlation-id|traceparent)"
    rb":[ \t]*([^\r]*)",
    re.IGNORECASE,
)


class Plain(msgspec.Struct, frozen=True):
    """What of a plain request matters to its refusal; `size` is its bytes, the body included."""

    method: bytes
    size: int
    correlation_id: str | None
    traceparent: str | None


class Doorway:
    """Answers plain requests that there is no room for, until the process is `leaving`."""

    def __init__(self, edge: Edge, routes: Sequence[Route]) -> None:
        self.leaving = False
        self._intake = edge.intake
        self._counters = {
            method: edge.unrouted(method.decode(), 503) for method in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")
        }
        self._always = {route.path.encode() for route in routes if route.always_answered}
        self._head = (
            f"HTTP/1.1 503 Service Unavailable\r\n{edge.common}content-type: application/problem+json\r\n"
            "connection: keep-alive\r\ncontent-length: %d\r\nretry-after: %d\r\nx-correlation-id: %b\r\n\r\n"
        ).encode("latin-1")
        self._beginning = beginning_of(problem_of(Overloaded(retry_after_s=1)))

    def unwelcome(self, received: bytes | bytearray) -> Plain | None:
        """The request that `received` begins with, if it is plain and there is no room for it."""
        if self.leaving or not self._intake.is_full:
            return None  # who leaves says so in the answer, which is for the ordinary way
        found = PLAIN_HEAD.match(received, 0, LARGEST_HEAD_BYTES)
        if found is None or found["path"].partition(b"?")[0] in self._always:
            return None
        told: dict[bytes, str] = {}
        for name, value in _TELLING.findall(found["headers"]):
            if told.setdefault(name.lower(), text := value.decode("latin-1").rstrip(" \t")) != text:
                return None  # which one counts is for others to say
        length = _body_length(told)
        if length is None:
            return None
        return Plain(found["method"], found.end() + length, told.get(b"x-correlation-id"), told.get(b"traceparent"))

    def refuse(self, request: Plain) -> tuple[bytes, int]:
        """(the whole answer, after how many seconds the client shall come again), counted."""
        retry_after_s = self._intake.count_refusal()
        self._counters[request.method].inc()
        correlation = correlation_among(request.correlation_id, request.traceparent)
        body = body_of(self._beginning, correlation)
        return self._head % (len(body), retry_after_s, correlation.encode()) + body, retry_after_s


def _body_length(told: dict[bytes, str]) -> int | None:
    """How many bytes of body follow; None when the request is not plain."""
    if told.get(b"connection", "keep-alive").lower() != "keep-alive":
        return None
    if b"transfer-encoding" in told or b"expect" in told or b"upgrade" in told:
        return None
    if b"content-length" not in told:
        return 0
    text = told[b"content-length"]
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        return None
    length = int(text)
    return length if length <= LARGEST_BODY_READ_AWAY else None


class Connection(HttpProtocol):
    """One client's connection; `doorway` is what the application built."""

    HTTP_CLASS = Exchange
    __slots__ = ("_heard_again_at", "_more", "_paused", "doorway")

    def __init__(self, *, doorway: Doorway, **given: Any) -> None:
        base: Any = super()
        base.__init__(**given)
        self.doorway = doorway
        self._http: Any = None  # until the connection's task has begun
        self._time = time.monotonic()
        self._heard_again_at = 0.0  # of the monotonic clock
        self._more: asyncio.Future[None] | None = None  # of who waits for more bytes
        self._paused = False  # reading, because nobody took what has come

    def check_timeouts(self) -> None:
        """As inherited; there are no WebSockets here, and a header that asks for one switches no timeout off."""
        http: Any = self._http
        if http is not None:
            http.upgrade_websocket = False
        base: Any = super()
        base.check_timeouts()

    def close_if_idle(self) -> bool:
        """As inherited, but not where a request has come or may be on its way, by when there was the last."""
        if self.recv_buffer or time.monotonic() - self._time < QUIET_S:
            return False
        base: Any = super()
        return base.close_if_idle()

    def head_is_read(self) -> None:
        """What follows has its own time."""
        self._time = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Keep what the client sent for who takes it; as inherited, but waking one future, not an event.

        The time for a head begins with its first byte: who sends one after the other does not begin it anew.
        """
        http: Any = self._http
        if http is None or http.stage is Stage.IDLE:
            self._time = time.monotonic()
        buffer: bytearray = self.recv_buffer
        buffer += data
        if len(buffer) >= MOST_UNREAD_BYTES and self.transport is not None:
            self.transport.pause_reading()
            self._paused = True
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def receive_more(self) -> None:
        """Wait for bytes of the client; between two requests, only for those of one that is taken in."""
        await self._receive()
        http: Any = self._http
        buffer: bytearray = self.recv_buffer
        while http.stage is Stage.IDLE and http.request is None:  # else it is a body that nobody has read
            if not buffer:
                await self._receive()
            request = self.doorway.unwelcome(buffer)
            if request is None:
                return
            early_s = self._heard_again_at - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
                continue  # there may be room by now
            answer, retry_after_s = self.doorway.refuse(request)
            self._heard_again_at = time.monotonic() + retry_after_s
            await self.send(answer)
            await self._drop(request.size)

    async def _receive(self) -> None:
        if self._paused and self.transport is not None:
            self.transport.resume_reading()
            self._paused = False
        self._more = asyncio.get_running_loop().create_future()
        await self._more

    async def send(self, data: bytes) -> None:
        """Write as soon as the client takes more. Raises RequestCancelled when it is gone, or does not in time.

        The inherited timeouts end what goes on once. That is told to the client then, which waits here too.
        """
        if not self._can_write.is_set():
            too_late = asyncio.get_running_loop().call_later(self.response_timeout, self.abort)
            try:
                await self._can_write.wait()
            finally:
                too_late.cancel()
        if self.transport is None or self.transport.is_closing():
            raise RequestCancelled
        self.transport.write(data)
        self._time = time.monotonic()

    async def _drop(self, size: int) -> None:
        """Take a request out of what was received, or is still to come."""
        buffer: bytearray = self.recv_buffer
        while size > len(buffer):
            size -= len(buffer)
            buffer.clear()
            await self._receive()
        del buffer[:size]
