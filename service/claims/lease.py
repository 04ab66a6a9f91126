"""Leases: work that one process at a time should do, and not again before its time; and how far it has come."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from service.claims.breaker import GateBreaker
from service.claims.keys import Shards

_PLACE_KEPT_S = 86_400


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

    async def place(self, name: str) -> bytes | None:
        """How far the work has come, as it said last; None when it did not lately, or Redis was emptied since."""
        with self._breaker.asking():
            return await self._redis.get(self._keys.place(name))

    async def keep_place(self, name: str, place: bytes) -> None:
        """Say how far the work has come, for whoever goes on with it."""
        with self._breaker.asking():
            await self._redis.set(self._keys.place(name), place, ex=_PLACE_KEPT_S)
