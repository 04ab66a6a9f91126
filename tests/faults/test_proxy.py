"""The proxy is as bad as it says: each mode does to a connection what its word means, and counts that it did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random

import asyncpg
import pytest

from service.embedded.postgres import EmbeddedPostgres
from tests.faults.postgres_wire import CommitWatch
from tests.faults.proxy import Mode, Proxy
from tests.servers import eventually, folder_of_its_own, free_port

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Echo:
    """A server that answers each line with itself, and remembers the lines and how connections ended."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ended: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
                await writer.drain()
            self.ended.append("end")
        except ConnectionError:
            self.ended.append("reset")
        finally:
            writer.close()


@asynccontextmanager
async def proxied(talk: Talk, chance: Random | None = None) -> AsyncIterator[Proxy]:
    """A server that talks so, behind a proxy."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1], chance or Random(7))
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def asked(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes, within_s: float = 60.0
) -> bytes:
    """The answer to a line."""
    reader, writer = client
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), within_s)


async def test_it_hands_everything_on_and_an_end_too() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, connected(proxy) as client:
        assert await asked(client, b"x" * 50_000 + b"\n") == b"x" * 50_000 + b"\n"
        client[1].write_eof()
        assert await client[0].read() == b""
        assert echo.ended == ["end"]
        await eventually(lambda: proxy.links == 0, what="no connection left")
    assert not proxy.done


async def test_refused_cuts_who_was_there_and_lets_nobody_in_until_it_is_over() -> None:
    async with proxied(Echo()) as proxy, connected(proxy) as client:
        assert await asked(client, b"before\n") == b"before\n"
        await proxy.turn(Mode.REFUSE)
        with pytest.raises(ConnectionResetError):
            await client[0].readline()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        assert proxy.done[Mode.REFUSE] == 1
        await proxy.turn(Mode.PASS)
        async with connected(proxy) as again:
            assert await asked(again, b"after\n") == b"after\n"


async def test_a_reset_ends_the_connection_in_the_middle() -> None:
    async with proxied(Echo()) as proxy, connected(proxy) as client:
        await proxy.turn(Mode.RESET, every=1)
        with pytest.raises(ConnectionResetError):
            await asked(client, b"hello\n")
        assert proxy.done[Mode.RESET] == 1


async def test_a_delay_changes_when_and_not_what() -> None:
    async with proxied(Echo()) as proxy, connected(proxy) as client:
        await proxy.turn(Mode.DELAY, delay_s=(0.2, 0.2))
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await asked(client, b"late\n") == b"late\n"
        assert loop.time() - began >= 0.4, "there and back"


async def test_a_black_hole_gives_back_what_it_swallowed_in_order() -> None:
    echo = Echo()
    async with proxied(echo) as proxy, connected(proxy) as client:
        assert await asked(client, b"before\n") == b"before\n"
        await proxy.turn(Mode.BLACKHOLE)
        client[1].write(b"one\n")
        await eventually(lambda: proxy.done[Mode.BLACKHOLE] > 0, what="something held back")
        client[1].write(b"two\n")
        client[1].transport.close()  # the end of the connection is held back like the rest
        async with connected(proxy) as other:
            with pytest.raises(TimeoutError):
                await asked(other, b"three\n", within_s=0.2)
            assert echo.heard == [b"before\n"]
            assert echo.ended == []
            await proxy.turn(Mode.PASS)
            assert await asyncio.wait_for(other[0].readline(), 60) == b"three\n"
        await eventually(lambda: len(echo.heard) == 4, what="everything heard")
        assert [line for line in echo.heard if line != b"three\n"] == [b"before\n", b"one\n", b"two\n"]


@pytest.mark.parametrize("seed", range(4))
async def test_a_dropped_reply_is_of_a_request_that_was_carried_out(seed: int) -> None:
    echo = Echo()
    async with proxied(echo, Random(seed)) as proxy, connected(proxy) as client:
        await proxy.turn(Mode.DROP_REPLY, every=1)
        with pytest.raises((ConnectionResetError, TimeoutError)):
            await asked(client, b"do\n", within_s=0.3)
        await eventually(lambda: proxy.done[Mode.DROP_REPLY] == 1, what="a reply dropped")
        assert echo.heard == [b"do\n"]
        await proxy.turn(Mode.PASS)
        # What was lost stays lost: a later reply in its place would be somebody else's answer.
        with pytest.raises((ConnectionError, TimeoutError)):
            await asked(client, b"again\n", within_s=0.3)


async def test_half_closed_the_one_direction_ends_behind_what_was_said() -> None:
    ways: set[str] = set()
    for seed in range(12):
        echo = Echo()
        async with proxied(echo, Random(seed)) as proxy, connected(proxy) as client:
            await proxy.turn(Mode.HALF_CLOSE, every=2)
            answer = await asked(client, b"do\n")
            if proxy.done[Mode.HALF_CLOSE]:
                assert echo.heard == [b"do\n"], "a request lost its way"
                ways.add("the answer is cut off" if answer == b"" else "the server reads an end")
    assert ways == {"the answer is cut off", "the server reads an end"}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A Postgres that listens on a port."""
    with folder_of_its_own() as folder:
        postgres = EmbeddedPostgres(folder, tcp_port=free_port(), durable=False)
        postgres.start()
        yield postgres
        postgres.stop()


@asynccontextmanager
async def behind_a_proxy(server: EmbeddedPostgres) -> AsyncIterator[tuple[Proxy, str]]:
    """The proxy before a Postgres, and the URL through it."""
    port = int(server.tcp_url.rpartition(":")[2].partition("/")[0])
    proxy = Proxy(port, Random(7), CommitWatch)
    await proxy.open()
    try:
        yield proxy, server.tcp_url.replace(str(port), str(proxy.port))
    finally:
        await proxy.close()


async def test_a_commit_that_is_cut_has_taken_effect_and_the_client_does_not_know(
    server: EmbeddedPostgres,
) -> None:
    direct = await asyncpg.connect(server.tcp_url)
    await direct.execute("CREATE TABLE events (what text)")
    async with behind_a_proxy(server) as (proxy, url):
        for number, statement in enumerate(("INSERT INTO events VALUES ($1)", "SELECT $1")):
            through = await asyncpg.connect(url)
            prepared = await through.prepare(statement)
            await prepared.fetch("before")
            await proxy.turn(Mode.CUT_IN_COMMIT, every=1)
            if number == 0:
                with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
                    await prepared.fetch("cut")
            else:
                assert await prepared.fetch("a read is let through")
            await proxy.turn(Mode.PASS)
            await through.close()
        through = await asyncpg.connect(url)
        transaction = through.transaction()
        await transaction.start()
        await through.execute("INSERT INTO events VALUES ('cut in its COMMIT')")
        await proxy.turn(Mode.CUT_IN_COMMIT, every=1)
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await transaction.commit()
        assert proxy.done[Mode.CUT_IN_COMMIT] == 2
    assert await direct.fetchval("SELECT array_agg(what) FROM events") == ["before", "cut", "cut in its COMMIT"]
    await direct.close()
