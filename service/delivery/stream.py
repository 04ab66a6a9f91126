"""A Redis stream of work: read by a group, finished one entry at a time, with a due time for what must wait.

What is in the stream is what is left to do: an entry leaves it when it is finished, put off or buried, never
because the stream is long. What a consumer read and did not finish stays pending and can be reclaimed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.batching import Batcher
from service.claims.keys import Keys
from service.claims.scripts import Scripts
from service.errors import Unavailable

GROUP = "workers"
MOST_AT_ONCE = 256
# What nobody waits for is collected for so long, or until it is so many: a call for all, where there was one for each.
GATHERING_S = 0.05
_ENOUGH = 16
_PAGE = 500
# A consumer silent for so long counts as dead. On a quiet stream a live one may be that silent too, for before
# Redis 7.2 a read that finds nothing is no sign of life; with nothing pending it may be dropped, and is back when it
# reads something.
_DEAD_CONSUMER_MS = 3_600_000
_LOST = ("NOGROUP", "UNBLOCKED")


class Entry(msgspec.Struct, frozen=True):
    """An entry of a stream, with its fields as they were added."""

    entry_id: str
    fields: dict[str, bytes]

    @property
    def event(self) -> str:
        """Which event the entry is about; empty where it names none."""
        return self.fields.get("event", b"").decode(errors="replace")

    @property
    def attempt(self) -> int:
        """The number of the attempt to be made, 1 for the first."""
        text = self.fields.get("attempt", b"1")
        return max(1, int(text)) if text.isdigit() else 1


class Figures(msgspec.Struct, frozen=True):
    """Entries in the stream, age of the oldest in seconds, entries due later, dead letters."""

    depth: int
    oldest_s: float
    due: int
    dead: int


class Stream:
    """One stream of one shard, as one consumer of its group sees it.

    `reading` is a client of its own for reads that block; its timeout must be longer than they may last.
    Entries nobody finished for `reclaim_idle_ms` are taken over. Every method raises Unavailable when Redis
    does not answer.
    """

    def __init__(
        self,
        redis: Redis,
        reading: Redis,
        scripts: Scripts,
        keys: Keys,
        name: str,
        *,
        consumer: str,
        reclaim_idle_ms: int,
        group: str = GROUP,
    ) -> None:
        self.name = name
        self.shard = keys.tag
        self.key = keys.stream(name)
        self._way = keys.way(name)
        self.due = keys.due(name)
        self._dead = keys.dead(name)
        self._redis = redis
        self._reading = reading
        self._scripts = scripts
        self._group = group
        self._consumer = consumer
        self.reclaim_idle_ms = reclaim_idle_ms
        self._has_group = False
        self._finishing: Batcher[Entry, None] = Batcher(
            self._finish, most=MOST_AT_ONCE, gathering_s=GATHERING_S, enough=_ENOUGH
        )
        self._putting_off: Batcher[tuple[str, int, str, int], None] = Batcher(self._put_off, most=MOST_AT_ONCE)
        self._exhuming: Batcher[Collection[str], None] = Batcher(self._exhume, most=MOST_AT_ONCE)

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """At most `count` entries nobody has read, waiting up to `block_ms` for the first."""
        await self._ensure_group()
        try:
            async with self._redis_errors():
                answer: Any = await self._reading.xreadgroup(
                    self._group, self._consumer, {self.key: ">"}, count=count, block=max(1, block_ms)
                )
        except _GroupLostError:
            # Redis was emptied. The group begins at 0 again, so what was added since is read too.
            return []
        return _entries(answer[0][1]) if answer else []

    async def reclaim(self) -> AsyncIterator[list[Entry]]:
        """Pages of the entries that others read and did not finish for too long; they are ours now."""
        await self._ensure_group()
        cursor: Any = b"0-0"
        while True:
            try:
                async with self._redis_errors():
                    answer: Any = await self._redis.xautoclaim(
                        self.key,
                        self._group,
                        self._consumer,
                        self.reclaim_idle_ms,
                        cursor,
                        count=MOST_AT_ONCE,
                    )
            except _GroupLostError:
                return
            cursor, rows = answer[0], answer[1]
            if rows:
                yield _entries(rows)
            if cursor == b"0-0":
                return

    async def forget_the_dead(self, idle_ms: int = _DEAD_CONSUMER_MS) -> None:
        """Drop consumers that are gone and have nothing pending; with pending entries they must stay."""
        try:
            async with self._redis_errors():
                await self._scripts.forget_consumers(self.key, self._group, idle_ms)
        except _GroupLostError:
            return

    def finish(self, entry: Entry) -> asyncio.Future[None]:
        """The entry's work is done; calls of one moment share a round trip."""
        return self._finishing.submit(entry)

    async def later(self, entry: Entry, delay_ms: int, attempt: int) -> None:
        """Put the entry off, to come back as attempt number `attempt`; calls of one moment share a round trip."""
        await self._putting_off.submit((entry.entry_id, max(0, delay_ms), entry.event, attempt))

    async def bury(self, entry: Entry, attempts: int, error: str, *, event: str | None = None) -> None:
        """Give the entry up, to the dead letters, after `attempts` attempts."""
        async with self._redis_errors():
            await self._scripts.bury_entry(
                self.key,
                self._dead,
                self._way,
                self._group,
                entry.entry_id,
                entry.event if event is None else event,
                attempts,
                error,
            )

    async def exhume(self, events: Collection[str]) -> None:
        """Take the dead letters about these events away.

        Every dead letter is looked at, but calls of one moment share the look.
        """
        await self._exhuming.submit(events)

    async def move_due(self, others: Sequence[Stream], most: int) -> tuple[int, int]:
        """Bring back at most `most` due entries of this stream and of each of `others`, which are of its shard.

        How many there were, and ms until the next is due (-1: none).
        """
        async with self._redis_errors():
            return await self._scripts.move_due([(one.key, one.due) for one in (self, *others)], most)

    async def add(self, event: str, attempt: int = 1) -> bool:
        """Add an entry about an event; False when the event is on its way already."""
        return await self.add_all([(event, attempt)]) == 1

    async def add_all(self, events: Sequence[tuple[str, int]]) -> int:
        """Add entries for (event, attempt to be made); how many were not on their way already."""
        added = 0
        for first in range(0, len(events), _PAGE):
            async with self._redis_errors():
                added += await self._scripts.enqueue(self.key, self._way, events[first : first + _PAGE])
        return added

    async def figures(self) -> Figures:
        """How much there is, by Redis' clock."""
        async with self._redis_errors():
            pipe: Any = self._redis.pipeline(transaction=False)
            pipe.time().xlen(self.key).xrange(self.key, count=1).zcard(self.due).xlen(self._dead)
            (seconds, micros), depth, first, due, dead = await pipe.execute()
        oldest_s = 0.0
        if first:
            now_ms = seconds * 1000 + micros // 1000
            oldest_s = max(0.0, (now_ms - int(first[0][0].partition(b"-")[0])) / 1000)
        return Figures(depth, oldest_s, due, dead)

    async def _ensure_group(self) -> None:
        if self._has_group:
            return
        try:
            async with self._redis_errors():
                await self._redis.xgroup_create(self.key, self._group, id="0", mkstream=True)
        except _GroupExistsError:
            pass
        self._has_group = True

    async def _put_off(self, entries: list[tuple[str, int, str, int]]) -> Sequence[None]:
        async with self._redis_errors():
            await self._scripts.retry_later(self.key, self.due, self._group, entries)
        return [None] * len(entries)

    async def _exhume(self, several: list[Collection[str]]) -> Sequence[None]:
        redis: Any = self._redis
        wanted, start = {event for events in several for event in events}, "-"
        async with self._redis_errors():
            while True:
                page = _entries(await redis.xrange(self._dead, start, "+", count=_PAGE))
                letters = [letter.entry_id for letter in page if letter.event in wanted]
                if letters:
                    await redis.xdel(self._dead, *letters)
                if len(page) < _PAGE:
                    return [None] * len(several)
                start = f"({page[-1].entry_id}"

    async def _finish(self, entries: list[Entry]) -> Sequence[None]:
        async with self._redis_errors():
            done = [(entry.entry_id, entry.event) for entry in entries]
            await self._scripts.finish_entry(self.key, self._way, self._group, done)
        return [None] * len(entries)

    @asynccontextmanager
    async def _redis_errors(self) -> AsyncGenerator[None]:
        """The one place where the driver's errors become ours."""
        try:
            yield
        except ResponseError as refused:
            if str(refused).startswith("BUSYGROUP"):
                raise _GroupExistsError from None
            if str(refused).startswith(_LOST):
                self._has_group = False
                raise _GroupLostError from None
            raise Unavailable(f"Redis refused: {refused}") from refused
        except (RedisError, OSError, TimeoutError) as problem:
            raise Unavailable(f"Redis did not answer: {type(problem).__name__}") from problem


class _GroupLostError(Exception):
    """The stream or its group is not there (any more)."""


class _GroupExistsError(Exception):
    """Somebody made the group before us."""


def _entries(rows: Any) -> list[Entry]:
    return [
        Entry(entry_id.decode(), {name.decode(): value for name, value in fields.items()})
        for entry_id, fields in rows
        if fields is not None
    ]
