"""Whether the service can book, and how each thing it depends on is doing."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.claims.keys import Shards
from service.db.connection import Database
from service.db.migrate import is_migrated
from service.errors import Unavailable

WAIT_S = 1.0
_WRITTEN_FOR_MS = 1_000


class CheckHealth:
    """Asks Postgres and Redis, each for at most a second."""

    def __init__(self, database: Database, redis: Redis, shards: Shards) -> None:
        self._database = database
        self._redis: Any = redis
        self._name = shards.all[0].lock("health")

    async def __call__(self) -> dict[str, str]:
        """The state of each dependency, `up` or `down`; of Postgres also `not migrated` and `read only`, of Redis
        `refusing`.
        """
        postgres, redis = await asyncio.gather(self._postgres(), self._takes_a_write())
        return {"postgres": postgres, "redis": redis}

    async def _postgres(self) -> str:
        try:
            async with asyncio.timeout(WAIT_S):
                if not await is_migrated(self._database):
                    return "not migrated"
                return "up" if await self._database.takes_writes() else "read only"
        except (TimeoutError, Unavailable):
            return "down"

    async def _takes_a_write(self) -> str:
        try:
            await asyncio.wait_for(self._redis.set(self._name, b"1", px=_WRITTEN_FOR_MS), WAIT_S)
        except ResponseError:  # out of memory, a replica, a full disk: it answers, and nobody books with it
            return "refusing"
        except (TimeoutError, RedisError, OSError):
            return "down"
        return "up"
