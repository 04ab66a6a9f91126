"""One API process: a Sanic application on a socket its parent bound.

Sanic's process manager is not used: the supervisor owns the processes, so a killed one is replaced at once and
a signal right after the first answer cannot hang.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from sanic import Request, Sanic
from sanic.config import Config
from sanic.exceptions import MethodNotAllowed, NotFound, PayloadTooLarge, ServiceUnavailable
from sanic.handlers import ErrorHandler

from service.api.accept import Acceptor
from service.api.connection import Connection, Doorway
from service.api.endpoint import METHODS, Edge, Route
from service.api.response import Response
from service.api.said import read_body
from service.errors import OutcomeUnknown

GRACEFUL_S = 8.0
# A body is kept up to 64 KiB; up to this much is read away so that the client gets to read the refusal.
MOST_READ_AWAY = 32 * 1024 * 1024
# Clients waiting to be connected. Every process says so again of the socket they share, and Sanic would say 100.
BACKLOG = 4096


_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


class _Problems(ErrorHandler):
    """Answers in our words what Sanic would answer in its own."""

    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self._edge = edge

    def response(self, request: Request, exception: Exception) -> Response:
        """The problem for a request that never reached its handler."""
        stream: Any = request.stream
        if isinstance(exception, ServiceUnavailable) and stream is not None:
            if request.method not in _HARMLESS and not stream.request_body:
                # What was begun goes on, and may be done by now.
                return self._edge.refusal(request, OutcomeUnknown("the answer took too long"))
            # Too slow for its own body: Sanic would wait for the rest of it, with no timeout left to end that.
            stream.request_body = False
        if not isinstance(exception, MethodNotAllowed):
            return self._edge.refusal(request, exception)
        allowed = _methods_of(request)
        # The router also tries a path without its last slash, and says 405 where there is nothing.
        problem = exception if allowed else NotFound()
        return self._edge.refusal(request, problem, allowed)


class _Nothing:
    """An awaitable that is done."""

    def __await__(self) -> Iterator[None]:
        return iter(())


_NOTHING = _Nothing()


class _Application(Sanic[Any, Any]):
    """Sanic, of what can happen to a request only what does here: there is no middleware, nobody listens to signals,
    and every handler is a coroutine that reads the body itself. Looking up that nobody listens took an eighth of what
    answering a booking costs. (Sanic's own remedy rewrites its source, with which a second application hung.)
    """

    def dispatch(self, event: Any, **given: Any) -> Any:
        """Dispatch what is not of a request."""
        if event.startswith("http."):
            return _NOTHING
        inherited: Any = super()
        return inherited.dispatch(event, **given)

    async def handle_request(self, request: Request) -> None:
        """Find the route, unless it is that of the request before, and send what its handler answers."""
        http: Any = request.stream
        try:
            if http.handler is None:
                target: Any = request  # whose `path` fails where a URL has a host alone
                if target._parsed_url.path is None:  # noqa: SLF001
                    raise NotFound
                _, handler, names = self.router.get(request.path, request.method, None)
                http.handler = partial(handler, **names)
            await http.answer(await http.handler(request))
        except asyncio.CancelledError:
            raise
        except Exception as problem:
            await self.handle_exception(request, problem)


def build_application(edge: Edge, routes: Sequence[Route]) -> Any:
    """The application with every route."""
    config = Config(env_prefix="")
    config.update(
        {
            "REQUEST_MAX_SIZE": MOST_READ_AWAY,
            "REQUEST_TIMEOUT": 30,
            "RESPONSE_TIMEOUT": 30,
            "KEEP_ALIVE_TIMEOUT": 75,
            "GRACEFUL_SHUTDOWN_TIMEOUT": GRACEFUL_S,
            "ACCESS_LOG": False,
            "MOTD": False,
            "OAS": False,
            "AUTO_EXTEND": False,
            "TOUCHUP": False,
        }
    )
    # A name of its own, because Sanic keeps every application of a process by name.
    app: Any = _Application(
        f"booking-{uuid4().hex}",
        config=config,
        error_handler=_Problems(edge),
        configure_logging=False,
    )
    app.ctx.doorway = Doorway(edge, routes)
    app.ctx.connection = partial(Connection, doorway=app.ctx.doorway)
    add_route = partial(
        app.add_route,
        stream=True,  # who reads the body bounds it
        strict_slashes=True,
        error_format="json",  # never used; not told it, Sanic guesses from each handler's source, 0.05 s in all
    )
    for route in routes:
        methods = ["GET", "HEAD"] if route.method == "GET" else [route.method]
        add_route(edge.endpoint(route), route.path, methods=methods, name=route.operation_id)
    for number, path in enumerate(sorted({route.path for route in routes})):
        add_route(_preflight(edge), path, methods=["OPTIONS"], name=f"options_{number}")
    return app


def _preflight(edge: Edge) -> Any:
    async def handle(request: Request, **_: str) -> Response:
        with suppress(PayloadTooLarge):
            await read_body(request)
        return edge.preflight(request, _methods_of(request))

    return handle


def _methods_of(request: Any) -> list[str]:
    """The methods the request's path knows."""
    known: list[str] = []
    for method in METHODS:
        try:
            request.app.router.get(request.path, method, None)
        except (NotFound, MethodNotAllowed):
            continue
        known.append(method)
    return known


async def serve(app: Any, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve on a bound socket until `stop` is set; what is under way is answered first, as its connection's last."""
    server: Any = await app.create_server(
        sock=listening,
        protocol=app.ctx.connection,
        backlog=BACKLOG,
        return_asyncio_server=True,
        asyncio_server_kwargs={"start_serving": False},
    )
    await server.startup()
    await server.before_start()
    loop = asyncio.get_running_loop()
    connections: set[Any] = server.connections
    factory = partial(app.ctx.connection, app=app, loop=loop, connections=connections)
    acceptor = Acceptor(listening, factory, connections.__len__)
    acceptor.start()
    await server.after_start()
    try:
        await stop.wait()
    finally:
        await server.before_stop()
        acceptor.stop()
        server.close()
        app.ctx.doorway.leaving = True
        until = loop.time() + GRACEFUL_S
        while connections and loop.time() < until:
            for connection in list(connections):
                connection.close_if_idle()
            await asyncio.sleep(0.02)
        for connection in list(connections):
            connection.abort()
        await server.after_stop()
