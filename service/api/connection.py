"""An HTTP connection that refuses requests before it reads them, while the process has as many as it can take.

A refusal must cost a small part of what an answer costs, or refusing is what the process is busy with. So a plain
request is answered from its bytes: no headers taken apart, no route looked up, no body kept. What is not plain
(chunks, Expect, HTTP/1.0, anything malformed) goes the ordinary way, where the edge refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from service.api.endpoint import Edge, Route, correlation_among
from service.api.problems import body_of, problem_of

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


@dataclass(frozen=True, slots=True)
class Refusal:
    """The whole answer to a request, and how many bytes the request has, its body included."""

    answer: bytes
    request_bytes: int


class Doorway:
    """Answers plain requests that there is no room for."""

    def __init__(self, edge: Edge, routes: Sequence[Route]) -> None:
        self._intake = edge.intake
        self._count = edge.count_unrouted
        self._always = {route.path.encode() for route in routes if route.always_answered}
        self._same = b"".join(
            f"{name}: {value}\r\n".encode("latin-1") for name, value in edge.headers_of_every_answer().items()
        )

    def refuse(self, received: bytes | bytearray) -> Refusal | None:
        """The refusal of the request that `received` begins with; None when it shall be read the ordinary way."""
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
        correlation = correlation_among(told.get(b"x-correlation-id"), told.get(b"traceparent"))
        problem = problem_of(self._intake.refuse())
        body = body_of(problem, correlation)
        self._count(found["method"].decode(), problem.status)
        head = (
            f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\nconnection: keep-alive\r\n"
            f"retry-after: {problem.retry_after_s}\r\nx-correlation-id: {correlation}\r\n\r\n"
        )
        answer = b"HTTP/1.1 503 Service Unavailable\r\n" + self._same + head.encode() + body
        return Refusal(answer, found.end() + length)


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
    """One client's connection; its application has the doorway in `ctx.doorway`."""

    __slots__ = ()

    async def receive_more(self) -> None:
        """Wait for bytes of the client; between two requests, only for those of one that is taken in."""
        await super().receive_more()
        http: Any = self._http
        buffer: bytearray = self.recv_buffer
        while http.stage is Stage.IDLE:
            refusal: Refusal | None = self.app.ctx.doorway.refuse(buffer)
            if refusal is None:
                return
            await self._write(refusal.answer)
            left = refusal.request_bytes
            while left > len(buffer):
                left -= len(buffer)
                buffer.clear()
                await super().receive_more()
            del buffer[:left]
            if not buffer:
                await super().receive_more()

    async def _write(self, answer: bytes) -> None:
        if not self._can_write.is_set():
            await self._can_write.wait()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(answer)
