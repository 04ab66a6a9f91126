"""Requests and answers on one connection: Sanic's HTTP/1.1, without doing again what the last request had done.

A client sends nearly the same bytes again and again: who polls asks the same, who books says another key and another
length. A request whose head is, byte for byte but for the values of a few headers, the one before it on its connection
is that request with those values: its other headers and its line are not taken apart, and its route is known. And an
answer, which here is never streamed, is sent in one piece.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any

from sanic import Request
from sanic.compat import Header
from sanic.exceptions import BadRequest
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.http.http1 import HTTP_CONTINUE

from service.api.framing import is_chunk, is_length, is_well_formed, keeps_alive
from service.api.response import Response

_END = b"\r\n\r\n"
# Headers that may differ, as nearly everybody writes them. Values of any other form are for Sanic to make out.
_MAY_DIFFER = re.compile(
    rb"\r\n(idempotency-key|x-idempotency-key|x-correlation-id|traceparent|content-length): ?([!-~]+)(?=\r\n)",
    re.IGNORECASE,
)
_VALUE = re.compile(rb"[!-~]{1,255}")
_LENGTH = re.compile(rb"[0-9]{1,7}")
_TRACES = frozenset({"x-correlation-id", "traceparent"})


class _Alike:
    """What a head has in common with those that differ from it in some values only; `names` of their headers."""

    __slots__ = ("_end", "_pieces", "names", "values")

    def __init__(self, head: bytes) -> None:
        self.names: list[str] = []
        self.values: list[bytes] = []  # of the last request
        self._pieces: list[bytes] = []
        at = 0
        for gap in _MAY_DIFFER.finditer(head):
            self.names.append(gap[1].lower().decode())
            self.values.append(gap[2])
            self._pieces.append(head[at : gap.start(2)])
            at = gap.end(2)
        self._end = head[at:]

    def values_in(self, buffer: bytearray) -> tuple[list[bytes], int] | None:
        """(values, size) of the head that `buffer` begins with, when it is whole and such a one."""
        at = 0
        values: list[bytes] = []
        for piece in self._pieces:
            if not buffer.startswith(piece, at):
                return None
            at += len(piece)
            end = buffer.find(b"\r", at)
            value = bytes(buffer[at:end])
            if end < 0 or not _VALUE.fullmatch(value):
                return None
            values.append(value)
            at = end
        return (values, at + len(self._end)) if buffer.startswith(self._end, at) else None


class Exchange(Http):
    """One connection's requests and answers."""

    __slots__ = ("_alike", "_last", "_line", "handler", "said")

    def __init__(self, protocol: Any) -> None:
        super().__init__(protocol)
        self._last: Request | None = None  # the last request, where another may be alike
        self._line = b""  # its first
        self._alike: _Alike | None = None  # made when a second one begins with that line
        self.handler: Any = None  # of the request's route, for those that are alike
        self.said: Any = None  # what whoever answers has learnt from the request, for those that say the same

    async def http1_request_header(self) -> None:
        """The next request: the last one where it is alike."""
        last = self._last
        if last is not None and self._is_alike(last):
            self.head_only = last.method == "HEAD"
            self.request, last.stream = last, self
            return
        self._last = self._alike = self.handler = self.said = None
        mine: Any = self  # Sanic types little of itself
        base: Any = super()
        buffer: bytearray = mine.recv_buffer
        while bytes(buffer[:2]) in (b"\r\n", b"\r"):
            if len(buffer) > 1:
                del buffer[:2]  # some clients end a body so (RFC 9112, 2.2)
            if bytes(buffer[:2]) in (b"", b"\r"):
                self.stage = Stage.IDLE  # no request has begun
                await self._of_none(mine.protocol.receive_more())
                self.stage = Stage.REQUEST
        await self._of_none(base.http1_request_header())
        mine.protocol.head_is_read()
        request: Any = self.request
        self.head_only = request.method == "HEAD"  # Sanic takes "head" for it, whose answer has a body as any other's
        try:
            self._insist(request)
        except BadRequest:
            mine.request_body = None  # where it ends is not known: nothing more of this connection is read
            raise
        if not mine.expecting_continue and mine.request_body != "chunked":
            self._line, self._last = request.head.partition(b"\r\n")[0], request

    def _insist(self, request: Any) -> None:
        """Refuse what could be read in two ways, and see what Sanic does not. Raises BadRequest."""
        mine: Any = self
        if request.version == "1.0":
            mine.expecting_continue = False  # such a client does not know what a 100 is
        if not is_well_formed(request.head):
            raise BadRequest("the head of the request is malformed")
        said: Any = request.headers
        if b" \r\n" in request.head or b"\t\r\n" in request.head or request.head[-1] in b" \t":
            # White space after a value is not of it.
            request.headers = said = Header([(name, value.rstrip(" \t")) for name, value in said.items()])
        hosts = len(said.getall("host", ()))
        if hosts > 1 or (hosts == 0 and request.version == "1.1"):
            raise BadRequest("the request must name its host, once")
        if request.version == "1.0" and "transfer-encoding" in said:
            raise BadRequest("HTTP/1.0 knows no chunks")  # a proxy that speaks it may take them for another request
        if mine.request_body is True and not is_length(said["content-length"]):
            raise BadRequest("Bad content-length")
        if "connection" in said:
            mine.keep_alive = keeps_alive(request.version, said.getall("connection"))

    async def _of_none(self, waiting: Awaitable[None]) -> None:
        """Wait for what belongs to no request yet: of which the connection was lost Sanic wants to say all the same."""
        try:
            await waiting
        except asyncio.CancelledError:
            mine: Any = self
            if mine.request is None:
                self.create_empty_request()
            raise

    def create_empty_request(self) -> None:
        """As inherited, of what is no request; without its URL, which may be what cannot be read."""
        mine: Any = self
        mine.url = None
        super().create_empty_request()

    def body_at_hand(self) -> bytes | None:
        """The body, taken, where all of it has come, as nearly always; None where it is to be read bit by bit."""
        mine: Any = self
        buffer: bytearray = mine.recv_buffer
        size: int = self.request_bytes_left
        if mine.request_body is not True or self.expecting_continue or size > len(buffer):
            return None
        body = bytes(buffer[:size])
        del buffer[:size]
        self.request_bytes_left = 0
        mine.request_body = None
        return body

    def read(self) -> Any:
        """Some bytes of the body, as inherited; chunks only as they must be written."""
        mine: Any = self
        base: Any = super()
        if mine.request_body == "chunked" and not self.request_bytes_left:
            return self._read_chunk(base.read)
        return base.read()

    async def _read_chunk(self, read: Any) -> bytes | None:
        mine: Any = self
        if self.expecting_continue:
            self.expecting_continue = False
            await mine.protocol.send(HTTP_CONTINUE)
        while (found := is_chunk(mine.recv_buffer)) is None:
            await mine.protocol.receive_more()
        if not found:
            self.keep_alive = False
            raise BadRequest("Bad chunked encoding")
        return await read()

    def _is_alike(self, last: Request) -> bool:
        """Whether what was received begins with such a request, which is taken over into the last one then."""
        mine: Any = self
        buffer: bytearray = mine.recv_buffer
        alike = self._alike
        if alike is None:
            if not buffer.startswith(self._line):
                return False
            alike = self._alike = _Alike(last.head + _END)
            said: Any = last.headers
            if any(len(said.getall(name)) > 1 for name in alike.names):
                return False  # said twice, however it is written: which one counts is for others to say
            if "content-length" in said and "content-length" not in alike.names:
                return False
        found = alike.values_in(buffer)
        if found is None or found[1] >= self.HEADER_MAX_SIZE:
            return False
        values, size = found
        length = 0
        if "content-length" in alike.names:
            text = values[alike.names.index("content-length")]
            if not _LENGTH.fullmatch(text):
                return False
            length = int(text)
            mine.request_body = True
        if values != alike.values:
            headers: Any = last.headers
            for name, value, before in zip(alike.names, values, alike.values, strict=True):
                if value != before:
                    headers[name] = value.decode()
                    if name in _TRACES:
                        self.said = None
            alike.values = values
        del buffer[:size]
        # Of the rest, what a request needs is as `init_for_request` left it.
        self.request_bytes_left = self.request_bytes = length
        return True

    async def answer(self, response: Response) -> None:
        """Send what the handler of the request answers."""
        self.respond(response)
        await self.http1_response_header(b"", end_stream=True)

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        """Send the whole answer."""
        response: Any = self.response
        mine: Any = self
        if mine.protocol.doorway.leaving:
            self.keep_alive = False
        if not isinstance(response, Response):
            base: Any = super()
            return await base.http1_response_header(data, end_stream)
        answer = response.head(keep_alive=mine.keep_alive)
        if response.body and response.has_body and not self.head_only:
            answer += response.body
        if self.expecting_continue:
            self.expecting_continue = False
            if response.status != 417:
                answer = HTTP_CONTINUE + answer
        self.response_func: Any = None
        await mine.protocol.send(answer)
        self.stage = Stage.IDLE
        return None
