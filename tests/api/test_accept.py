"""Processes that share a socket share its clients, and none who knocks is forgotten."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.api.accept import FEW, Acceptor
from tests.servers import eventually


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        listening.setblocking(False)
        yield listening


class Clients(asyncio.Protocol):
    """The connections of one acceptor."""

    def __init__(self) -> None:
        self.transports: list[Any] = []
        self.turns = 0

    def held(self) -> int:
        """How many there are; asked once a turn."""
        self.turns += 1
        return len(self.transports)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transports.append(transport)


@asynccontextmanager
async def accepting(listening: socket.socket) -> AsyncIterator[Clients]:
    """Who is accepted within the block."""
    clients = Clients()
    acceptor = Acceptor(listening, lambda: clients, clients.held)
    acceptor.start()
    try:
        yield clients
    finally:
        acceptor.stop()
        for transport in clients.transports:
            transport.abort()


def knock(listening: socket.socket, times: int) -> ExitStack:
    """So many clients that are connected, as far as they can tell."""
    stack = ExitStack()
    for _ in range(times):
        stack.enter_context(socket.create_connection(listening.getsockname(), timeout=5))
    return stack


async def test_clients_that_come_together_are_divided(listening: socket.socket) -> None:
    with knock(listening, 40), listening.dup() as shared:
        async with accepting(listening) as one, accepting(shared) as other:
            await eventually(lambda: len(one.transports) + len(other.transports) == 40, what="all clients")
            assert 15 <= len(one.transports) <= 25


async def test_who_has_more_than_a_few_leaves_the_next_to_others(listening: socket.socket, monkeypatch: Any) -> None:
    monkeypatch.setattr("service.api.accept.PAUSE_S", 60)
    with knock(listening, 40), listening.dup() as shared:
        async with accepting(listening) as one:
            await eventually(lambda: len(one.transports) > FEW, what="a few clients")
            async with accepting(shared) as other:
                await eventually(lambda: len(other.transports) > FEW, what="a few for the other")
            assert len(one.transports) + len(other.transports) < 40


async def test_a_crowd_is_taken_in_by_one_alone(listening: socket.socket) -> None:
    with knock(listening, 400):
        async with accepting(listening) as clients:
            await eventually(lambda: len(clients.transports) == 400, what="all clients")
            assert clients.turns < 100, "the more wait the more are taken at once"


async def test_who_stops_leaves_the_rest_to_others(listening: socket.socket, monkeypatch: Any) -> None:
    monkeypatch.setattr("service.api.accept.FEW", -1)
    monkeypatch.setattr("service.api.accept.PAUSE_S", 0.05)  # it is in a pause when it stops
    with knock(listening, 1):
        async with accepting(listening) as gone:
            await eventually(lambda: len(gone.transports) == 1, what="the first client")
    with knock(listening, 6), listening.dup() as shared:
        async with accepting(shared) as clients:
            await eventually(lambda: len(clients.transports) == 6, what="the clients")
    assert len(gone.transports) == 1


class Exhausted(socket.socket):
    """A listening socket of a process that has too many files open, the first time."""

    refused = False

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.refused:
            self.refused = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_too_many_open_files_end_nothing(listening: socket.socket, monkeypatch: Any) -> None:
    monkeypatch.setattr("service.api.accept.TROUBLE_S", 0.01)
    with knock(listening, 1), Exhausted(fileno=listening.dup().detach()) as exhausted:
        async with accepting(exhausted) as clients:
            await eventually(lambda: len(clients.transports) == 1, what="the client")
        assert exhausted.refused


async def test_who_accepts_on_a_socket_that_was_shut_is_done(listening: socket.socket) -> None:
    with capture_logs() as lines:
        async with accepting(listening) as clients:
            listening.shutdown(socket.SHUT_RDWR)
            await eventually(lambda: clients.turns > 0, what="a turn")
            for _ in range(20):
                await asyncio.sleep(0)
            assert clients.turns == 1
    assert lines == []
