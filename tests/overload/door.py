"""An API process inside the test's own, whose intake the test can fill, and connections to it spoken byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from service.api.endpoint import Edge, Route
from service.api.server import build_application, serve
from service.app import Services
from service.assemble_api import build_api
from service.outside.http import open_session

ANSWERED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Told:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, *sent: bytes) -> Self:
        """Send bytes."""
        self._writer.write(b"".join(sent))
        return self

    async def hear(self, *, body: bool = True) -> Told:
        """The next answer, without its 100 Continue; `body` False for one to HEAD."""
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            while head.startswith(b"HTTP/1.1 100"):
                head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            assert first.startswith("HTTP/1.1 "), first
            pairs = [
                (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)
            ]
            headers = dict(pairs)
            assert len(headers) == len(pairs), f"a header comes twice: {pairs}"
            none = not body or first.split()[1] in ("204", "304")
            raw = b"" if none else await self._reader.readexactly(int(headers["content-length"]))
        return Told(int(first.split()[1]), headers, raw)

    async def ended(self) -> bool:
        """Whether the server closes the connection without saying more."""
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            return await self._reader.read() == b""

    @property
    def silent(self) -> bool:
        """Whether nothing has come that was not read."""
        return not self._reader._buffer  # type: ignore[attr-defined]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Door:
    """The process."""

    def __init__(self, edge: Edge, services: Services, port: int, stop: asyncio.Event, serving: Any) -> None:
        self.edge = edge
        self.services = services
        self.port = port
        self.stop = stop
        self.serving: asyncio.Future[None] = serving
        self._talks: list[Talk] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def talk(self) -> Talk:
        """A new connection."""
        made = Talk(*await asyncio.open_connection("127.0.0.1", self.port))
        self._talks.append(made)
        return made

    @contextmanager
    def full(self) -> Any:
        """No room for any request more, for the length of the block."""
        taken = self.edge.intake.limit
        for _ in range(taken):
            self.edge.intake.enter()
        try:
            yield
        finally:
            for _ in range(taken):
                self.edge.intake.leave(answered=True)

    def refused(self) -> float:
        """How many requests were refused so far, for whatever reason."""
        return sum(self.sample("booking_overload_refusals_total", reason=why) for why in ("in_flight", "wait"))

    def sample(self, name: str, **labels: str) -> float:
        """What a series says."""
        return self.services.metrics.registry.get_sample_value(name, labels) or 0.0

    def hang_up(self) -> None:
        """Close every connection."""
        for talk in self._talks:
            talk.close()


@asynccontextmanager
async def open_door(services: Services, *more: Route, **config: object) -> AsyncGenerator[Door]:
    """Serve the API, with `more` routes, on a port of the loopback for the length of the block."""
    async with open_session() as session:
        edge, routes = build_api(services, session)
        app = build_application(edge, [*routes, *more])
        app.config.update(config)
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        listening: Any = server.sockets[0].dup()
        server.close()
        stop = asyncio.Event()
        serving = asyncio.ensure_future(serve(app, listening, stop))
        door = Door(edge, services, listening.getsockname()[1], stop, serving)
        try:
            yield door
        finally:
            door.hang_up()
            stop.set()
            await serving
