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
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from service.api.endpoint import Edge, Route, correlation_among
from service.api.problems import body_of, problem_of, timestamp
from service.errors import Overloaded

LARGEST_HEAD_BYTES = 8 * 1024
LARGEST_BODY_READ_AWAY = 1024 * 1024
# Strict, so that where the request ends is not a matter of opinion: RFC 9112, without folded lines and bare LF.
_HEAD = re.compile(
    rb"(?P<method>GET|POST|PUT|PATCH|DELETE) (?P<path>/[!-~]*) HTTP/1\.1"
    rb"(?P<headers>(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*)*)\r\n\r\n"
)
_TELLING = re.compile(
    rb"\r\n(content-length|transfer-encoding|expect|upgrade|connection|x-correlation-id|traceparent)"
    rb":[ \t]*([^\r]*)",
    re.IGNORECASE,
)
_ID, _AT = "(id)", "(at)"


class Plain(msgspec.Struct, frozen=True):
    """What of a plain request matters to its refusal; `size` is its bytes, the body included."""

    method: bytes
    size: int
    correlation_id: str | None
    traceparent: str | None


class Doorway:
    """Answers plain requests that there is no room for."""

    def __init__(self, edge: Edge, routes: Sequence[Route]) -> None:
        self._intake = edge.intake
        self._counters = {
            method: edge.unrouted(method.decode(), 503) for method in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")
        }
        self._always = {route.path.encode() for route in routes if route.always_answered}
        same = "".join(f"{name}: {value}\r\n" for name, value in edge.headers_of_every_answer().items())
        self._head = (
            f"HTTP/1.1 503 Service Unavailable\r\n{same}content-type: application/problem+json\r\n"
            "connection: keep-alive\r\ncontent-length: %d\r\nretry-after: %d\r\nx-correlation-id: %b\r\n\r\n"
        ).encode("latin-1")
        body = body_of(problem_of(Overloaded(retry_after_s=1)), _ID, _AT)
        self._before_id, rest = body.split(_ID.encode())
        self._before_at, self._end = rest.split(_AT.encode())
        self._size = len(body) - len(_ID) - len(_AT)

    def unwelcome(self, received: bytes | bytearray) -> Plain | None:
        """The request that `received` begins with, if it is plain and there is no room for it."""
        if not self._intake.is_full:
            return None
        found = _HEAD.match(received, 0, LARGEST_HEAD_BYTES)
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
        correlation = correlation_among(request.correlation_id, request.traceparent).encode()
        at = timestamp().encode()
        head = self._head % (self._size + len(correlation) + len(at), retry_after_s, correlation)
        return b"".join((head, self._before_id, correlation, self._before_at, at, self._end)), retry_after_s


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

    __slots__ = ("_doorway", "_heard_again_at")

    def __init__(self, *, doorway: Doorway, **given: Any) -> None:
        base: Any = super()
        base.__init__(**given)
        self._doorway = doorway
        self._heard_again_at = 0.0  # of the monotonic clock

    def check_timeouts(self) -> None:
        """As inherited; there are no WebSockets here, and a header that asks for one switches no timeout off."""
        http: Any = self._http
        if http is not None:
            http.upgrade_websocket = False
        base: Any = super()
        base.check_timeouts()

    async def receive_more(self) -> None:
        """Wait for bytes of the client; between two requests, only for those of one that is taken in."""
        await super().receive_more()
        http: Any = self._http
        buffer: bytearray = self.recv_buffer
        while http.stage is Stage.IDLE:
            if not buffer:
                await super().receive_more()
            request = self._doorway.unwelcome(buffer)
            if request is None:
                return
            early_s = self._heard_again_at - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
                continue  # there may be room by now
            answer, retry_after_s = self._doorway.refuse(request)
            self._heard_again_at = time.monotonic() + retry_after_s
            await self._write(answer)
            await self._drop(request.size)

    async def _write(self, answer: bytes) -> None:
        if not self._can_write.is_set():
            await self._can_write.wait()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(answer)

    async def _drop(self, size: int) -> None:
        """Take a request out of what was received, or is still to come."""
        buffer: bytearray = self.recv_buffer
        while size > len(buffer):
            size -= len(buffer)
            buffer.clear()
            await super().receive_more()
        del buffer[:size]
