"""The open loop asks at its own pace: a server that stalls shows in every request that was due meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from loadtest.bench.open_loop import closed_loop, open_loop, quantile
from loadtest.bench.requests import get
from tests.servers import free_port

STALL_S = 0.4
RATE = 200.0


@asynccontextmanager
async def answering(stall: Callable[[int], float]) -> AsyncIterator[int]:
    """A server whose n-th answer comes `stall(n)` seconds late; its port."""
    port, seen = free_port(), iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(stall(next(seen)))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        yield port


async def test_requests_that_were_due_during_a_stall_are_as_late_as_they_are() -> None:
    async with answering(lambda number: STALL_S if number == 0 else 0) as port:
        found = await open_loop(port, lambda _: get("/"), RATE, 0.5, clients=1)
    due_meanwhile = round(STALL_S * RATE)
    late = [took for took in found.seconds if took > STALL_S / 4]
    assert found.statuses == {200: round(0.5 * RATE)}
    # A closed loop would show one.
    assert len(late) >= due_meanwhile / 2


async def test_a_closed_loop_asks_as_often_as_it_is_told() -> None:
    async with answering(lambda _: 0) as port:
        found = await closed_loop(port, lambda number: get(f"/{number}"), 25, clients=4)
    assert found.statuses == {200: 25}
    assert len(found.seconds) == 25


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)])
def test_a_quantile_is_a_value_that_was_seen(share: float, value: int) -> None:
    assert quantile([float(number) for number in range(100, 0, -1)], share) == value
