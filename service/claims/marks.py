"""Idempotency keys in Redis: the mark of a request under way, and its answer for quick replays.

The names and forms are those of bookings, whose keys the gate begins and settles itself, so that either sees the
other's. What is here may be lost at any time: Postgres has it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from service.claims.breaker import GateBreaker
from service.claims.keys import Shards
from service.claims.messages import Mark
from service.claims.scripts import Scripts

_HEX = 32


class MarkOutcome(StrEnum):
    """What Redis says of a key: begun by us, another request is under way, answered to us, or answered to another."""

    BEGUN = "begun"
    IN_PROGRESS = "in_progress"
    REPLAY = "replay"
    REUSED = "reused"


class KeyMarks:
    """Begins, answers and frees marks. Raises GateClosed or Unavailable."""

    def __init__(
        self,
        redis: Redis,
        scripts: Scripts,
        shards: Shards,
        breaker: GateBreaker,
        *,
        mark_ttl_ms: int,
        answer_ttl_ms: int,
    ) -> None:
        self._redis: Any = redis
        self._scripts = scripts
        self._shards = shards
        self._breaker = breaker
        self._mark_ttl_ms = mark_ttl_ms
        self._answer_ttl_ms = answer_ttl_ms

    async def begin(self, org: int, mark: Mark) -> tuple[MarkOutcome, bytes]:
        """Set the mark unless there is one or an answer; (outcome, the answer of a replay)."""
        name = self._shards.of(org).answer(org, mark.key)
        with self._breaker.asking():
            found: bytes | None = await self._redis.set(name, f"p{mark.owner}", px=self._mark_ttl_ms, nx=True, get=True)
        if found is None or found == f"p{mark.owner}".encode():
            return MarkOutcome.BEGUN, b""
        if found[:1] == b"p":
            return MarkOutcome.IN_PROGRESS, b""
        if found[1 : 1 + _HEX].decode() != mark.fingerprint:
            return MarkOutcome.REUSED, b""
        return MarkOutcome.REPLAY, found[1 + _HEX :]

    async def answer(self, org: int, key: str, fingerprint: str, answer: bytes) -> None:
        """Keep the answer in place of the mark."""
        name = self._shards.of(org).answer(org, key)
        with self._breaker.asking():
            await self._redis.set(name, b"d" + fingerprint.encode() + answer, px=self._answer_ttl_ms)

    async def free(self, org: int, key: str, owner: str) -> None:
        """Remove the owner's mark."""
        with self._breaker.asking():
            await self._scripts.free_mark(self._shards.of(org).answer(org, key), owner)
