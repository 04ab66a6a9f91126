"""Calls of Redis: each gets its own reply, nobody's fault is handed on, and who waits, waits a bounded time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.claims.connection import PoolBusy, connect, refuse_eviction, refuse_other_nodes
from service.claims.keys import Shards
from service.claims.server import RedisServer
from service.errors import ConfigurationError

CONNECTIONS = 3


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    """A client of three connections to an empty server."""
    client: Any = connect(redis_url, timeout_s=5.0, connections=CONNECTIONS)
    yield client
    await client.aclose()


async def all_of_the_pool(client: Any) -> list[bytes]:
    """A reply over each connection that the pool can give at once."""
    return await asyncio.gather(*(client.execute_command("ECHO", str(number)) for number in range(CONNECTIONS)))


async def all_of_the_pool_but_one(client: Any) -> None:
    """A reply over each connection that the pool can give while somebody keeps one."""
    await asyncio.gather(*(client.execute_command("PING") for _ in range(CONNECTIONS - 1)))


async def test_many_callers_share_few_connections_and_each_gets_its_own_reply(client: Any) -> None:
    replies = await asyncio.gather(*(client.execute_command("ECHO", str(number)) for number in range(200)))
    assert replies == [str(number).encode() for number in range(200)]
    assert len(client.connection_pool._available_connections) == CONNECTIONS
    assert len({entry["id"] for entry in await client.client_list()}) <= CONNECTIONS + 1


async def test_who_waits_for_a_connection_waits_as_long_as_for_an_answer(redis_url: str) -> None:
    client: Any = connect(redis_url, timeout_s=0.3, connections=1)
    holding = await client.connection_pool.get_connection()
    with pytest.raises(PoolBusy):
        await client.execute_command("PING")
    await client.connection_pool.release(holding)
    assert await client.execute_command("ECHO", "again") == b"again"
    await client.aclose()


async def test_a_caller_that_goes_away_while_it_waits_takes_no_room_with_it(client: Any) -> None:
    holding = [await client.connection_pool.get_connection() for _ in range(CONNECTIONS)]
    waiting = [asyncio.ensure_future(client.execute_command("PING")) for _ in range(5)]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for connection in holding:
        await client.connection_pool.release(connection)
    assert await all_of_the_pool(client) == [b"0", b"1", b"2"]
    assert not client.connection_pool._in_use_connections


async def test_the_reply_nobody_waits_for_any_more_is_nobody_elses(client: Any) -> None:
    for _ in range(20):
        gone = [asyncio.ensure_future(client.execute_command("ECHO", "of somebody else")) for _ in range(CONNECTIONS)]
        await asyncio.sleep(0)  # written, not answered
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert await all_of_the_pool(client) == [b"0", b"1", b"2"]


async def test_an_error_of_the_server_is_the_callers_and_the_connection_goes_on(client: Any) -> None:
    with pytest.raises(NoScriptError):
        await client.execute_command("EVALSHA", "0" * 40, 0)
    connection = client.connection_pool._available_connections[-1]
    assert connection.is_connected
    assert await client.execute_command("ECHO", "next") == b"next"


async def test_connections_that_the_server_has_closed_are_opened_anew(client: Any, redis_url: str) -> None:
    await all_of_the_pool(client)
    other: Any = connect(redis_url)
    await other.client_kill_filter(skipme=True, _type="normal")
    await other.aclose()
    await asyncio.sleep(0.05)
    assert await all_of_the_pool(client) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("before_s", [0.0, 0.01])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_that_closes_at_the_last_moment_is_a_lost_one(redis_url: str, run: Any, before_s: float) -> None:
    async def call() -> None:
        client: Any = connect(redis_url)
        connection = await client.connection_pool.get_connection()
        connection._writer.transport.abort()
        await asyncio.sleep(before_s)
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING")
        assert not connection.is_connected
        await client.connection_pool.release(connection)
        assert await client.execute_command("ECHO", "anew") == b"anew"
        await client.aclose()

    run(call())


async def test_a_server_that_does_not_read_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client: Any = connect("redis://{}:{}".format(*server.getsockname()), timeout_s=0.3)
        connection: Any = client.connection_pool.make_connection()
        connection._reader, connection._writer = await asyncio.open_connection(*server.getsockname())
        transport = connection._writer.transport
        with pytest.raises(RedisTimeoutError, match="written in time"):
            await connection.send_packed_command([b"x" * 50_000_000])
        assert not connection.is_connected
        assert transport.get_write_buffer_size() == 0, "nothing of it is written any more"
    await client.aclose()


async def test_a_connection_that_somebody_keeps_is_the_only_one_they_use(client: Any) -> None:
    await all_of_the_pool(client)
    async with client.client() as kept:
        number = await kept.client_id()
        await all_of_the_pool_but_one(client)
        assert await kept.client_id() == number
        await client.client_kill_filter(_id=str(number))
        with pytest.raises(RedisConnectionError):
            await kept.client_id()


async def test_who_is_cancelled_when_it_has_looked_at_the_server_keeps_no_connection(client: Any) -> None:
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        async with RedisServer(client, Shards(1))._connection():
            looked.set()
            await go_on.wait()

    looking = asyncio.ensure_future(look())
    await looked.wait()
    go_on.set()
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert not client.connection_pool._in_use_connections


async def test_an_option_no_connection_can_be_made_with_is_told_every_time() -> None:
    client: Any = connect("rediss://127.0.0.1:1?ssl_cert_reqs=sometimes", timeout_s=0.3, connections=1)
    for _ in range(3):
        with pytest.raises(RedisError, match="SSL Certificate"):
            await client.execute_command("PING")


@pytest.mark.parametrize(
    ("policy", "limit", "refused"),
    [
        ("allkeys-lru", "100mb", True),
        ("volatile-ttl", "100mb", True),
        ("noeviction", "100mb", False),
        ("allkeys-lru", "0", False),
    ],
)
async def test_a_server_that_evicts_keys_is_refused_by_the_setting(
    client: Any, policy: str, limit: str, refused: bool
) -> None:
    """An evicted claim is the first half of a double booking; who has no limit evicts nothing."""
    before = await client.config_get("maxmemory-policy", "maxmemory")
    try:
        await client.config_set("maxmemory-policy", policy, "maxmemory", limit)
        if refused:
            with pytest.raises(ConfigurationError, match="REDIS_URL"):
                await refuse_eviction(client)
        else:
            assert await refuse_eviction(client) is None
    finally:
        await client.config_set(*(part for item in before.items() for part in item))


@pytest.mark.parametrize(("nodes", "refused"), [(1, False), (3, True)])
async def test_one_of_several_nodes_of_a_cluster_is_refused(nodes: int, refused: bool) -> None:
    said = f"cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_known_nodes:6\r\ncluster_size:{nodes}\r\n"
    node = AsyncMock(**{"execute_command.return_value": said.encode()})
    if refused:
        with pytest.raises(ConfigurationError, match="REDIS_URL: the server is one of 3 nodes"):
            await refuse_other_nodes(node)
    else:
        await refuse_other_nodes(node)


async def test_a_server_alone_is_not_refused_for_other_nodes(client: Any) -> None:
    await refuse_other_nodes(client)


async def test_a_server_that_does_not_let_us_ask_what_it_evicts_is_warned_of(client: Any, redis_url: str) -> None:
    await client.execute_command("ACL", "SETUSER", "asker", "on", ">pw", "~*", "+@all", "-config")
    try:
        only: Any = connect(redis_url, connections=1)
        await only.execute_command("AUTH", "asker", "pw")
        assert "maxmemory-policy" in (await refuse_eviction(only) or "")
        await only.aclose()
    finally:
        await client.execute_command("ACL", "DELUSER", "asker")
