"""Connections to Postgres and the one place where the driver's errors become the service's.

Server-side `statement_timeout` and `lock_timeout` lie below the client's own, so a hung statement ends on the
server too instead of holding its locks after we gave up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from service.db.statements import statement
from service.errors import OutcomeUnknown, Unavailable
from service.logs import get_logger

_log = get_logger("db.connection")

STATEMENT_TIMEOUT_MS = 5_000
LOCK_TIMEOUT_MS = 4_000
CLIENT_TIMEOUT_S = 6.0
ACQUIRE_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 3.0

# The server went away, or we stopped waiting: whether a commit took effect is not known.
UNKNOWN = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.QueryCanceledError,
    ConnectionError,
    OSError,
    asyncio.TimeoutError,
)
# Another transaction was in the way; nothing was written and the same statement may be run again.
TRY_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
# A row carries what the schema refuses or Postgres cannot hold; written again it would be refused again.
POISONED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
# The server has no room right now, or is a standby after a failover; nothing was written. An I/O error at the commit
# itself ends the server's process, which the driver reports as a lost connection.
CROWDED = (
    asyncpg.TooManyConnectionsError,
    asyncpg.OutOfMemoryError,
    asyncpg.DiskFullError,
    asyncpg.PostgresIOError,
    asyncpg.ConfigurationLimitExceededError,
    asyncpg.ReadOnlySQLTransactionError,
)
# There is no connection, because the server does not let us in: a password that was changed, a database that is being
# restored, closed or taken from us. Of a statement some of these would be faults of ours.
_NOT_LET_IN = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,
)


async def prepare_connection(connection: Any) -> None:
    """Make json columns pass as the bytes they are: answers are kept byte for byte."""
    await connection.set_type_codec("json", schema="pg_catalog", encoder=_same, decoder=_same, format="binary")


def _same(value: bytes) -> bytes:
    return value


async def _as_it_is(connection: Any) -> None:
    """Give a connection back without asyncpg's reset, a roundtrip and a transaction after every use.

    No statement changes its session (tests/db/test_connection.py looks), and what is open is rolled back without it.
    Leaving it out made 1.1 times as many refusals a second.
    """


def _options(**settings: str) -> dict[str, Any]:
    return {
        "command_timeout": CLIENT_TIMEOUT_S,
        "timeout": CONNECT_TIMEOUT_S,
        "server_settings": {
            "application_name": "booking",
            "statement_timeout": str(STATEMENT_TIMEOUT_MS),
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            # A process that stands still in a transaction would hold its locks for as long.
            "idle_in_transaction_session_timeout": str(STATEMENT_TIMEOUT_MS),
            "timezone": "UTC",
            **settings,
        },
    }


async def open_connection(url: str, **settings: str) -> Any:
    """One connection of one's own, prepared like the pool's, with more settings of the server. Raises Unavailable."""
    try:
        connection: Any = await asyncpg.connect(url, **_options(**settings))
        await prepare_connection(connection)
    except (*UNKNOWN, *CROWDED, *_NOT_LET_IN) as problem:
        raise Unavailable(f"Postgres cannot be reached: {type(problem).__name__}") from problem
    return connection


class Database:
    """A pool of connections with named statements; for everything but the commit of bookings."""

    def __init__(self, url: str, *, most: int = 10) -> None:
        self._url = url
        self._most = most
        self._pool: Any = None

    async def open(self) -> None:
        """Open the pool; connections are made when they are needed."""
        self._pool = asyncpg.create_pool(
            self._url, min_size=0, max_size=self._most, init=prepare_connection, reset=_as_it_is, **_options()
        )
        await self._pool

    async def close(self) -> None:
        """Close the pool, waiting a moment for statements under way."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    async def fetch(self, name: str, *arguments: Any) -> list[Any]:
        """Rows of a named statement that only reads. Raises Unavailable."""
        async with self._reading() as connection:
            return await connection.fetch(statement(name), *arguments)

    async def first(self, name: str, *arguments: Any) -> Any | None:
        """The first row of a named statement that only reads, or None. Raises Unavailable."""
        async with self._reading() as connection:
            return await connection.fetchrow(statement(name), *arguments)

    async def write(self, name: str, *arguments: Any) -> list[Any]:
        """Rows of a named statement that writes. Raises Unavailable (nothing written) or OutcomeUnknown."""
        async with self.writing() as connection:
            return await connection.fetch(statement(name), *arguments)

    async def takes_writes(self) -> bool:
        """Whether a connection leads to a server that can be written to; one that does not is closed, as in `writing`.

        Raises Unavailable.
        """
        async with self._reading() as connection:
            if await connection.fetchval(statement("takes_writes")):
                return True
            connection.terminate()
            return False

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Any]:
        """A connection on which every read sees the same moment. Raises Unavailable."""
        async with self._reading() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        """A transaction on a connection of the pool. Raises like `write`."""
        async with self.writing() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[Any]:
        connection = await self._acquire()
        try:
            yield connection
        except (*UNKNOWN, *CROWDED, *TRY_AGAIN) as problem:
            raise Unavailable(f"Postgres did not answer: {type(problem).__name__}") from problem
        finally:
            await self._release(connection)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Any]:
        """A connection for a statement that writes; what was lost on the way is reported as unknown."""
        connection = await self._acquire()
        try:
            yield connection
        except (*CROWDED, *TRY_AGAIN) as problem:
            if isinstance(problem, asyncpg.ReadOnlySQLTransactionError):
                # The way to the server that writes now leads over another connection.
                connection.terminate()
            raise Unavailable(f"Postgres refused for now: {type(problem).__name__}") from problem
        except UNKNOWN as problem:
            raise OutcomeUnknown(f"Postgres' answer was lost: {type(problem).__name__}") from problem
        finally:
            await self._release(connection)

    async def _acquire(self) -> Any:
        try:
            return await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        except (*UNKNOWN, *CROWDED, *TRY_AGAIN, *_NOT_LET_IN) as problem:
            raise Unavailable(f"Postgres did not answer: {type(problem).__name__}") from problem

    async def _release(self, connection: Any) -> None:
        """Give a connection back; one that cannot be made ready for the next is closed by the pool.

        That changes nothing about what was done over it, so it is nobody's failure.
        """
        try:
            await self._pool.release(connection)
        except (*UNKNOWN, *CROWDED) as problem:
            _log.info("connection not kept", error=type(problem).__name__)
