"""Names of everything the service keeps in Redis, one hash tag a shard.

An organization belongs to one shard, so one script call can decide for everything of it and a cluster may
spread the shards. Integers of organizations and days keep the names short: they are in every call.
"""

from __future__ import annotations

import hashlib


class Keys:
    """The key names of one shard; `tag` is the shard's hash tag."""

    def __init__(self, shard: int) -> None:
        self.tag = f"{{s{shard}}}"
        self.pending = f"{self.tag}:pending"
        self.repairs = f"{self.tag}:repairs"
        self.epoch = f"{self.tag}:epoch"

    def roster(self, org: int) -> str:
        """hash: version, width, revision, team and zone masks, the best score of each word of columns."""
        return f"{self.tag}:roster:{org}"

    def scores(self, org: int) -> str:
        """string: u32 a column, millionths."""
        return f"{self.tag}:scores:{org}"

    def limits(self, org: int) -> str:
        """string: u16 a column, appointments a day."""
        return f"{self.tag}:limits:{org}"

    def deficits(self, org: int) -> str:
        """string: i32 a column, millionths of an appointment."""
        return f"{self.tag}:deficits:{org}"

    def open(self, org: int, day: int) -> str:
        """string: 288 rows; the coach may be booked here."""
        return f"{self.tag}:open:{org}:{day}"

    def occupied(self, org: int, day: int) -> str:
        """string: 288 rows; a claim or an appointment with its buffers is here."""
        return f"{self.tag}:occupied:{org}:{day}"

    def full(self, org: int, day: int) -> str:
        """string: one row; the coach has reached the limit of that local date."""
        return f"{self.tag}:full:{org}:{day}"

    def counts(self, org: int, day: int) -> str:
        """string: u16 a column; appointments and claims on that local date."""
        return f"{self.tag}:counts:{org}:{day}"

    def rate(self, key_id: str) -> str:
        """string: requests of an API key in the current window."""
        return f"{self.tag}:rate:{key_id}"

    def answer(self, org: int, idempotency_key: str) -> str:
        """string: the mark or the finished answer of an idempotency key (hashed: it is the client's text)."""
        digest = hashlib.blake2b(idempotency_key.encode(), digest_size=16).hexdigest()
        return f"{self.tag}:answer:{org}:{digest}"

    def accepted(self, org: int, event_id: str) -> str:
        """string: mark of an incoming event that was accepted."""
        digest = hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()
        return f"{self.tag}:accepted:{org}:{digest}"

    def stream(self, name: str) -> str:
        """stream: work for a destination, incoming events, or idempotency records."""
        return f"{self.tag}:stream:{name}"

    def way(self, name: str) -> str:
        """set: events on their way in a stream: waiting, being worked on, or due later."""
        return f"{self.tag}:way:{name}"

    def due(self, name: str) -> str:
        """zset: entries of a stream that are due later."""
        return f"{self.tag}:due:{name}"

    def dead(self, name: str) -> str:
        """stream: dead letters of a stream."""
        return f"{self.tag}:dead:{name}"

    def lock(self, name: str) -> str:
        """string: who does a piece of work that one process at a time should do."""
        return f"{self.tag}:lock:{name}"

    def place(self, name: str) -> str:
        """string: how far a piece of periodic work has come."""
        return f"{self.tag}:place:{name}"


class Shards:
    """Which shard an organization lives in; the number of shards is fixed at installation."""

    def __init__(self, count: int) -> None:
        self.all = tuple(Keys(number) for number in range(count))

    def of(self, org: int) -> Keys:
        """The key names of the organization's shard."""
        return self.all[org % len(self.all)]
