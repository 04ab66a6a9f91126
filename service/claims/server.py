"""The Redis server itself: whether it can be written to, which one it is, and whether its grid is of this epoch.

Asked on a client of its own while the breaker is open, one connection a look: if the server goes away in between, the
look fails as a whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

from service.claims.keys import Keys, Shards
from service.errors import Unavailable

_PROBE_LIVES_MS = 1_000
_CLEANING_MS = 5_000
_PAGE = 1_000
# What is derived from Postgres, or was under way when the grid was lost. Streams, counters and answers stay.
_GRID = ("open", "occupied", "full", "counts", "roster", "scores", "limits", "deficits")


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that can be written to: its run id, and the epoch its shards agree on (None: they do not)."""

    run_id: str
    epoch: int | None


class RedisServer:
    """Looks at the server and throws its grid away. Raises Unavailable when it does not answer or take a write."""

    def __init__(self, redis: Redis, shards: Shards) -> None:
        self._redis: Any = redis
        self._shards = shards

    async def look(self) -> Seen:
        """What the server is now."""
        async with self._connection() as connection:
            run_id = await _run_id(connection)
            for keys in self._shards.all:
                # A server that is full, read only or cannot persist refuses here what it would refuse a claim.
                await connection.set(keys.lock("probe"), b"1", px=_PROBE_LIVES_MS)
            return Seen(run_id, await self._epoch(connection))

    async def begin_cleaning(self, seen: Seen) -> str | None:
        """Make the grid nobody's: from now on no claim is made in it.

        None while somebody else cleans, or has since the server was `seen`: a grid that was just begun is not thrown
        away again. What is returned proves to `clean` that nobody else has cleaned since.
        """
        nonce = token_hex(8)
        async with self._connection() as connection:
            for keys in self._shards.all:
                if not await connection.set(keys.lock("cleaning"), nonce, nx=True, px=_CLEANING_MS):
                    return None
            if await self._epoch(connection) != seen.epoch:
                for keys in self._shards.all:
                    await _if_ours(connection, keys, nonce, lambda p, k: p.delete(k.lock("cleaning")))
                return None
            for keys in self._shards.all:
                await connection.delete(keys.epoch)
        return nonce

    async def clean(self, run_id: str, epoch: int, nonce: str) -> bool:
        """Drop everything of the grid and begin the epoch.

        False when it is not the server of that run id any more, or cleaning took so long that somebody else took over.
        """
        async with self._connection() as connection:
            if await _run_id(connection) != run_id:
                return False
            for keys in self._shards.all:
                # What is pending belongs to the epoch that stands; who comes late must not drop that of the next.
                if not await _if_ours(connection, keys, nonce, lambda p, k: p.delete(k.epoch, k.pending, k.repairs)):
                    return False
                async for names in _pages(connection, f"{keys.tag}:*"):
                    await self._drop(connection, keys.tag, names)
            for keys in self._shards.all:
                if not await _if_ours(
                    connection, keys, nonce, lambda p, k: p.set(k.epoch, str(epoch)).delete(k.lock("cleaning"))
                ):
                    return False
        return True

    async def _epoch(self, connection: Any) -> int | None:
        said = {await connection.get(keys.epoch) for keys in self._shards.all}
        epoch = said.pop() if len(said) == 1 else None
        return int(epoch) if epoch is not None and epoch.isdigit() else None

    async def _drop(self, connection: Any, tag: str, names: list[bytes]) -> None:
        kinds = {name: name.decode().removeprefix(tag + ":").split(":", 1)[0] for name in names}
        gone = [name for name, kind in kinds.items() if kind in _GRID]
        keyed = [name for name, kind in kinds.items() if kind == "answer"]
        if keyed:
            # The marks of requests under way go with their claims; answers are as true as they were.
            pipe = connection.pipeline(transaction=False)
            for name in keyed:
                pipe.getrange(name, 0, 0)
            gone += [name for name, first in zip(keyed, await pipe.execute(), strict=True) if first == b"p"]
        if gone:
            await connection.unlink(*gone)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        # By hand, because redis-py's `async with` gives nothing back to who is cancelled in its end.
        connection = self._redis.client()
        try:
            try:
                await connection.initialize()
                yield connection
            finally:
                await connection.aclose()
        except (TimeoutError, RedisError, OSError) as problem:
            raise Unavailable(f"Redis did not answer: {type(problem).__name__}") from problem


async def _if_ours(connection: Any, keys: Keys, nonce: str, write: Callable[[Any, Keys], object]) -> bool:
    """Write, as one step, if the lock is still ours; False when it is not."""
    async with connection.pipeline(transaction=True) as pipe:
        await pipe.watch(keys.lock("cleaning"))
        if await pipe.get(keys.lock("cleaning")) != nonce.encode():
            return False
        pipe.multi()
        write(pipe, keys)
        try:
            await pipe.execute()
        except WatchError:
            return False
    return True


async def _run_id(connection: Any) -> str:
    said: dict[str, Any] = await connection.info("server")
    return str(said["run_id"])


async def _pages(connection: Any, pattern: str) -> AsyncGenerator[list[bytes]]:
    cursor = 0
    while True:
        cursor, names = await connection.scan(cursor, match=pattern, count=_PAGE)
        yield names
        if cursor == 0:
            return
