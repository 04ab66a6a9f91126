"""A TCP proxy that can do to a connection what a bad network does: the clients and the server never know of it.

It stands between the service and one server (Redis, Postgres, the CRM). `turn` says what befalls the connections from
now on; `done` counts how often each thing truly happened, so that a fault that disturbed nobody is noticed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from random import Random
from typing import Protocol

_CHUNK = 65_536
_TROUBLE = (ConnectionError, OSError, RuntimeError)  # asyncio raises the last one for a transport that is closing


class Mode(StrEnum):
    """What the proxy does.

    pass: nothing. refuse: nobody listens, and whoever was connected is cut off. reset: connections end in the middle.
    delay: everything comes late. blackhole: nothing comes until it is over, then all of it, as after a broken cable.
    drop_reply: the request arrives, its reply does not, and the connection is dead or deaf from then on.
    half_close: one direction ends behind a request, the other goes on. cut_in_commit: what `watch` recognises is
    handed on, and the connection ends before the reply.
    """

    PASS = "pass"
    REFUSE = "refuse"
    RESET = "reset"
    DELAY = "delay"
    BLACKHOLE = "blackhole"
    DROP_REPLY = "drop_reply"
    HALF_CLOSE = "half_close"
    CUT_IN_COMMIT = "cut_in_commit"


class Watch(Protocol):
    """Reads along what one client says."""

    def sees(self, data: bytes) -> bool:
        """Whether what it looks for is complete with these bytes."""
        ...


class Proxy:
    """Listens on `port` of the loopback and connects to `server_port` of it.

    `watch` makes a reader for each connection; only `cut_in_commit` needs one. One request or reply in about `every`
    is met by what does not meet all of them; `delay_s` are the bounds of a delay.
    """

    def __init__(self, server_port: int, chance: Random, watch: Callable[[], Watch] | None = None) -> None:
        self._server_port = server_port
        self._chance = chance
        self._watch = watch
        # Bound and never listening: the port stays ours while nobody listens on it.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._passable = asyncio.Event()
        self._passable.set()
        self.mode = Mode.PASS
        self.every = 4
        self.delay_s = (0.05, 0.5)
        self.done: Counter[Mode] = Counter()

    @property
    def links(self) -> int:
        """How many connections go through it."""
        return len(self._links)

    async def open(self) -> None:
        """Begin to listen."""
        listener = _bound(self.port)
        self._listener = await asyncio.start_server(self._accept, sock=listener, backlog=512)

    async def close(self) -> None:
        """Cut every connection and give the port back."""
        self._passable.set()
        self._end_listener()
        links = [link.task for link in self._links]
        self.cut()
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        self._reserved.close()

    async def turn(self, mode: Mode, *, every: int = 4, delay_s: tuple[float, float] = (0.05, 0.5)) -> None:
        """From now on do this. What was held back by a black hole is handed on."""
        before, self.mode, self.every, self.delay_s = self.mode, mode, every, delay_s
        if mode is Mode.BLACKHOLE:
            self._passable.clear()
        else:
            self._passable.set()
        if mode is Mode.REFUSE:
            self._end_listener()
            self.done[mode] += self.cut()
        elif before is Mode.REFUSE:
            await self.open()

    def lead_to(self, server_port: int) -> None:
        """Connect whoever comes from now on to another server; who is connected stays where it is."""
        self._server_port = server_port

    def cut(self) -> int:
        """End every connection by a reset; how many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def meets(self) -> bool:
        """Whether chance picks this request or reply."""
        return self._chance.random() * self.every < 1

    def heads(self) -> bool:
        """One of two ways, by chance."""
        return self._chance.random() < 0.5

    async def passage(self) -> None:
        """Wait as long as the network takes."""
        if self.mode is Mode.DELAY:
            self.done[Mode.DELAY] += 1
            await asyncio.sleep(self._chance.uniform(*self.delay_s))
        if not self._passable.is_set():
            self.done[Mode.BLACKHOLE] += 1
            await self._passable.wait()

    def _end_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(self, task, reader, writer, self._watch() if self._watch else None)
        self._links.add(link)
        try:
            await link.carry(self._server_port)
        except asyncio.CancelledError:  # `close` ends it; asyncio's server would report the cancellation
            pass
        finally:
            link.cut()
            self._links.discard(link)


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        watch: Watch | None,
    ) -> None:
        self._proxy = proxy
        self.task = task
        self._client = (reader, writer)
        self._watch = watch
        self._writers = [writer]
        self._deaf = False  # the client hears nothing any more
        self._doomed = False  # the next reply is the end

    async def carry(self, port: int) -> None:
        """Hand on what both sides say until both have ended."""
        await self._proxy.passage()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        self._writers.append(writer)
        await asyncio.gather(
            self._pump(self._client[0], writer, self._request), self._pump(reader, self._client[1], self._reply)
        )

    def cut(self) -> None:
        """End both connections, by a reset."""
        for writer in self._writers:
            if not writer.transport.is_closing():
                found: socket.socket | None = writer.get_extra_info("socket")
                if found is not None:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, treat: Callable[[bytes], bool]
    ) -> None:
        try:
            while data := await source.read(_CHUNK):
                await self._proxy.passage()
                half_closes = self._proxy.mode is Mode.HALF_CLOSE and self._proxy.meets()
                if not treat(data):
                    continue
                if half_closes and treat == self._reply:
                    self._deaf = True  # the request was carried out, and the client reads the end of the stream
                else:
                    sink.write(data)
                    await sink.drain()
                if half_closes:
                    self._proxy.done[Mode.HALF_CLOSE] += 1
                    sink.write_eof()
            await self._proxy.passage()
            if not self._deaf or treat == self._request:
                sink.write_eof()
        except _TROUBLE:
            await self._proxy.passage()
            self.cut()

    def _request(self, data: bytes) -> bool:
        mode = self._proxy.mode
        commits = self._watch is not None and self._watch.sees(data)
        if mode is Mode.CUT_IN_COMMIT and commits and self._proxy.meets():
            self._doomed = True
        return not self._is_reset(mode)

    def _reply(self, _data: bytes) -> bool:
        mode = self._proxy.mode
        if self._doomed:
            self._proxy.done[Mode.CUT_IN_COMMIT] += 1
            raise ConnectionResetError
        if mode is Mode.DROP_REPLY and not self._deaf and self._proxy.meets():
            self._proxy.done[mode] += 1
            if self._proxy.heads():
                raise ConnectionResetError
            self._deaf = True
        return not self._deaf and not self._is_reset(mode)

    def _is_reset(self, mode: Mode) -> bool:
        if mode is Mode.RESET and self._proxy.meets():
            self._proxy.done[mode] += 1
            raise ConnectionResetError
        return False


def _bound(port: int) -> socket.socket:
    """A socket on a port of the loopback that can share it with another of ours."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    found.setblocking(False)
    return found
