"""One HTTP/1.1 connection, as little as it can be: a request of ready bytes, an answer with its length said."""

from __future__ import annotations

import asyncio
from typing import cast

_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_WITHOUT_BODY = frozenset({204, 304})


class Answer:
    """An answer's status, head and body."""

    __slots__ = ("body", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        self.status = status
        self.head = head
        self.body = body

    def header(self, name: str) -> str | None:
        """A header's value."""
        mark = f"\r\n{name.lower()}: ".encode()
        at = self.head.lower().find(mark)
        return None if at < 0 else self.head[at + len(mark) :].split(b"\r\n", 1)[0].decode()


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answer = self._whole()
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError("the connection was closed"))

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; its answer. Raises OSError when the connection breaks."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._waiting.set_exception(ConnectionResetError("the connection was closed"))
        else:
            self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Close it; an answer still to come is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _whole(self) -> Answer | None:
        """The answer at the beginning of what was received, taken out, once it is all there."""
        buffer = self._buffer
        head_end = buffer.find(_END)
        if head_end < 0:
            return None
        status = int(buffer[9:12])
        at = buffer.lower().find(_LENGTH, 0, head_end + 2)
        length = 0
        if at >= 0 and status not in _WITHOUT_BODY:
            begin = at + len(_LENGTH)
            length = int(buffer[begin : buffer.index(b"\r\n", begin)])
        end = head_end + len(_END) + length
        if len(buffer) < end:
            return None
        answer = Answer(status, bytes(buffer[:head_end]), bytes(buffer[head_end + len(_END) : end]))
        del buffer[:end]
        return answer


async def connect(port: int) -> Connection:
    """A connection to a port of the loopback."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def connections(port: int, count: int) -> list[Connection]:
    """Many connections, opened some at a time so that no listening queue overflows."""
    opened: list[Connection] = []
    for first in range(0, count, 256):
        opened += await asyncio.gather(*(connect(port) for _ in range(first, min(first + 256, count))))
    return opened
