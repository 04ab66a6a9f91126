"""The one factory of Redis clients, with the settings that keep a fault short and a reply with its asker.

RESP2 on purpose: with RESP3 redis-py switches maintenance notifications on and the pool then skips its check
for unread replies, which once gave the next caller somebody else's data. Retries are ours, not the client's:
a script whose reply was lost must not run again unnoticed.

Around a command redis-py retries, keeps its pool under a condition, tells listeners and telemetry, and writes in a task
of its own. Commands and scripts do without here, for it was a third of what a call takes: 91 to 121 µs in a loop, 58 to
82 without. Pipelines, and commands on a connection that somebody keeps (`Redis.client`), go redis-py's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import ConfigurationError

REQUEST_TIMEOUT_S = 0.25
_PACKER: Any = HiredisRespSerializer()  # untyped


class PoolBusy(RedisError):
    """Every connection of the pool was in use: our own crowd, no fault of the server."""


class ServerChanged(RedisConnectionError):
    """A new connection leads to another server than the one the grid was derived in."""


@cache
def _reporting(base: Any) -> Any:
    """The connection class, quick to pack; a transport closed under it is a lost connection, as uvloop does not say."""

    class Reporting(base):
        leads_to = ""  # the run id of its server, where somebody looks at that

        def pack_command(self, *arguments: Any) -> list[bytes]:
            # In C, as redis-py does it for clients that block: a call of 14 bookings takes 7 instead of 64 µs.
            return _PACKER.pack(*arguments)

        async def send_packed_command(self, command: Iterable[bytes], **_options: Any) -> None:
            if not self.is_connected:
                await self.connect()
            try:
                self._writer.writelines(command)
                async with asyncio.timeout(self.socket_timeout):
                    await self._writer.drain()
            except BaseException as problem:
                # What was written of it is not known, so nothing more may be: closing would write what is left of it.
                if self._writer is not None:
                    self._writer.transport.abort()
                await self.disconnect(nowait=True)
                if isinstance(problem, TimeoutError):
                    raise RedisTimeoutError("no command could be written in time") from problem
                if isinstance(problem, OSError | RuntimeError):  # uvloop's, of a transport that is closed
                    raise RedisConnectionError(f"the connection is closed: {problem}") from problem
                raise

    return Reporting


class _Pool(ConnectionPool):
    """Connections for so many callers at once; who comes beyond them waits its turn, and no longer than `timeout`.

    A connection that leads to a server that is not known any more is left before it is used again.
    """

    def __init__(
        self,
        *,
        connection_class: Any = Connection,
        timeout: float,
        is_known: Callable[[str], bool] | None = None,
        **options: Any,
    ) -> None:
        inherited: Any = super()  # untyped
        inherited.__init__(connection_class=_reporting(connection_class), **options)
        self._is_known = is_known
        self._patience_s = timeout
        self._room = asyncio.Semaphore(self.max_connections)

    async def get_connection(self, *_names: Any, **_options: Any) -> Any:
        if self._room.locked():
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._room.acquire()
            except TimeoutError:
                raise PoolBusy("no connection was free in time") from None
        else:
            await self._room.acquire()
        inherited: Any = super()  # untyped
        try:
            connection = inherited.get_available_connection()
        except BaseException:  # an option of the URL that no connection can be made with
            self._room.release()
            raise
        try:
            if connection.is_connected and self._is_to_be_left(connection):
                await connection.disconnect(nowait=True)
            await self.ensure_connection(connection)
        except BaseException:  # a cancellation as well: the room must not be lost
            await self.release(connection)
            raise
        return connection

    def leave(self) -> None:
        """The server has given its place to another: nobody asks it over one of these connections again."""
        for connection in (*self._available_connections, *self._in_use_connections):
            connection.mark_for_reconnect()

    def _is_to_be_left(self, connection: Any) -> bool:
        is_known = self._is_known
        return connection.should_reconnect() or (is_known is not None and not is_known(connection.leads_to))

    async def release(self, connection: Any) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._room.release()


class _Client(Redis):
    async def execute_command(self, *command: Any, **options: Any) -> Any:
        pool: Any = self.connection_pool  # untyped, as the next is
        inherited: Any = super()
        try:
            if self.single_connection_client:
                return await inherited.execute_command(*command, **options)
            connection = await pool.get_connection()
            try:
                await connection.send_command(*command)
                return await inherited.parse_response(connection, command[0], **options)
            finally:
                await pool.release(connection)
        except ReadOnlyError:
            # Behind one address a failover need not cut anybody off: who became a replica keeps its clients.
            pool.leave()
            raise


def connect(
    url: str,
    *,
    timeout_s: float | None = REQUEST_TIMEOUT_S,
    connections: int = 50,
    is_known: Callable[[str], bool] | None = None,
) -> Redis:
    """A client that gives up after `timeout_s` (None: waits, for blocking reads) and never retries by itself.

    `is_known` is asked of every new connection with the server's run id, before any command is sent over it: a False
    raises ServerChanged. So nobody talks to a server that was restarted, or replaced, without knowing it. Connections
    to a server that is not known any more are left, and so are all once a command over one, or a script, was refused
    because it takes no writes. Of the URL's options `health_check_interval` has no effect: a connection that was lost
    is found out by its next command.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "socket_timeout": timeout_s,
        "max_connections": connections,
        # A caller beyond the last connection waits for one as long as it would wait for an answer.
        "timeout": timeout_s or REQUEST_TIMEOUT_S,
        "decode_responses": False,
        # What has arrived is taken at once: a week of planes is megabytes, in pieces of 64 KB it took a third longer.
        "socket_read_size": 1024 * 1024,
    }
    if not url.startswith("unix"):
        options["socket_connect_timeout"] = REQUEST_TIMEOUT_S
    if is_known is not None:
        options |= {"redis_connect_func": _looking_at_the_server(is_known), "is_known": is_known}
    pool: Any = _Pool  # redis-py leaves from_url's options untyped
    return _Client.from_pool(pool.from_url(url, **options))


def _looking_at_the_server(is_known: Callable[[str], bool]) -> Callable[[Any], Any]:
    async def look(connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        connection.leads_to = run_id_of(await connection.read_response())
        if not is_known(connection.leads_to):
            raise ServerChanged("the server is not the one the grid was derived in")

    return look


def run_id_of(info: bytes | str) -> str:
    """The run id in what a server says of itself: another one after each start of it."""
    for line in _text(info).splitlines():
        if line.startswith("run_id:"):
            return line.removeprefix("run_id:").strip()
    return ""


async def refuse_eviction(redis: Any) -> str | None:
    """Raise ConfigurationError when the server evicts keys, for an evicted claim is a double booking's first half.

    Returns a warning for the log when the server does not let us ask.
    """
    try:
        answer: Any = await redis.config_get("maxmemory-policy", "maxmemory")
    except Exception as problem:  # CONFIG is forbidden or renamed on some hosted servers
        return f"cannot check maxmemory-policy: {type(problem).__name__}"
    values = {_text(name): _text(value) for name, value in dict(answer).items()}
    policy, limit = values.get("maxmemory-policy", ""), values.get("maxmemory", "0")
    if policy != "noeviction" and limit != "0":
        raise ConfigurationError(f"REDIS_URL: the server evicts keys (maxmemory-policy {policy}); set noeviction")
    return None


async def refuse_other_nodes(redis: Any) -> None:
    """Raise ConfigurationError when the server is one of several nodes of a cluster: keys of the others it refuses.

    The service would do without Redis for good and deliver nothing. A server that does not say is taken for one alone.
    """
    try:
        answer: Any = await redis.execute_command("CLUSTER", "INFO")
    except (RedisError, OSError):  # no node of a cluster, or not there yet
        return
    values = dict(line.split(":", 1) for line in _text(answer).split() if ":" in line)
    nodes = values.get("cluster_size", "1")
    if int(nodes) > 1:
        raise ConfigurationError(
            f"REDIS_URL: the server is one of {nodes} nodes of a cluster; only one alone can be used"
        )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
