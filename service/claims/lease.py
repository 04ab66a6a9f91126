"""Leases: work that one process at a time should do, and not again before its time."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from service.claims.breaker import GateBreaker
from service.claims.keys import Shards


class Leases:
    """Names that can be held for a while. Raises GateClosed when Redis is not there."""

    def __init__(self, redis: Redis, shards: Shards, breaker: GateBreaker) -> None:
        self._redis: Any = redis
        self._keys = shards.all[0]
        self._breaker = breaker

    async def take(self, name: str, for_ms: int) -> bool:
        """Hold `name` for `for_ms`; False while somebody does."""
        with self._breaker.asking():
            return bool(await self._redis.set(self._keys.lock(name), b"1", nx=True, px=for_ms))

    async def give_back(self, name: str) -> None:
        """Let `name` be taken again before its time."""
        with self._breaker.asking():
            await self._redis.delete(self._keys.lock(name))
