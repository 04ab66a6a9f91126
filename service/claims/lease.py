"""Leases: work that one process at a time should do, and not again before its time."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.claims.keys import Shards
from service.errors import Unavailable


class Leases:
    """Names that can be held for a while. Raises Unavailable when Redis is not there."""

    def __init__(self, redis: Redis, shards: Shards) -> None:
        self._redis: Any = redis
        self._keys = shards.all[0]

    async def take(self, name: str, for_ms: int) -> bool:
        """Hold `name` for `for_ms`; False while somebody does."""
        try:
            return bool(await self._redis.set(self._keys.lock(name), b"1", nx=True, px=for_ms))
        except (TimeoutError, RedisError, OSError) as problem:
            raise Unavailable(f"Redis did not answer: {type(problem).__name__}") from problem

    async def give_back(self, name: str) -> None:
        """Let `name` be taken again before its time."""
        try:
            await self._redis.delete(self._keys.lock(name))
        except (TimeoutError, RedisError, OSError) as problem:
            raise Unavailable(f"Redis did not answer: {type(problem).__name__}") from problem
