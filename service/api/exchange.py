"""Requests and answers on one connection: Sanic's HTTP/1.1, without doing again what the last request had done.

Who polls sends the same bytes again and again. A request whose head is, byte for byte, the one before it on its
connection is that request: nothing of it is taken apart, and its route is known. And an answer, which here is never
streamed, is sent in one piece.
"""

from __future__ import annotations

from typing import Any

from sanic import Request
from sanic.http import Http
from sanic.http.constants import Stage
from sanic.http.http1 import HTTP_CONTINUE

from service.api.response import Response

_END = b"\r\n\r\n"


class Exchange(Http):
    """One connection's requests and answers."""

    __slots__ = ("_head", "_last", "handler", "said")

    def __init__(self, protocol: Any) -> None:
        super().__init__(protocol)
        self._head = b""  # of `_last`, to its empty line
        self._last: Request | None = None  # the last request, where another may be the same
        self.handler: Any = None  # of the request's route, for those that are the same
        self.said: Any = None  # what whoever answers has learnt from the request, for those that are the same

    async def http1_request_header(self) -> None:
        """The next request: the last one where it says the same."""
        mine: Any = self  # Sanic types little of itself
        buffer: bytearray = mine.recv_buffer
        last = self._last
        if last is not None and buffer.startswith(self._head):
            del buffer[: len(self._head)]
            # Of the rest, what a request without a body needs is as `init_for_request` left it.
            self.head_only = last.method == "HEAD"
            self.request_bytes_left = self.request_bytes = 0
            self.request, last.stream = last, self
            return
        self._last = self.handler = self.said = None
        base: Any = super()
        await base.http1_request_header()
        request: Any = self.request
        if request.method in ("GET", "HEAD") and mine.keep_alive and self.request_body is None:
            self._head, self._last = request.head + _END, request

    async def answer(self, response: Response) -> None:
        """Send what the handler of the request answers."""
        self.respond(response)
        await self.http1_response_header(b"", end_stream=True)

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        """Send the whole answer."""
        response: Any = self.response
        mine: Any = self
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
