"""Idempotency keys in Postgres: held while a request is carried out, then with its answer.

The answer is written by the transaction that has the effect, wherever that is one transaction: then there is never
the one without the other. Only the owner of a hold can write it; a request that was taken over finds its hold gone
and is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec
import orjson

from service.db.connection import Database
from service.db.statements import statement
from service.errors import IdempotencyInProgress

Result = TypeVar("Result")
Shown = TypeVar("Shown")


class KeyHold(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is held for a request: its fingerprint, who holds it, and the operation it stands for.

    The operation stays the same when the request is taken over; what the service makes may be named by it.
    """

    org: int
    key: str
    fingerprint: bytes
    owner: UUID
    operation: UUID


class FinalAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The answer of a key: status, the headers that belong to it, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a key stands for. `over`: nobody carries the request out any more; `answer` None where it has none here."""

    fingerprint: bytes
    answer: FinalAnswer | None
    over: bool


class Completion(msgspec.Struct, frozen=True):
    """The answer that ends a hold."""

    hold: KeyHold
    answer: FinalAnswer

    def values(self) -> tuple[str, UUID, int, bytes, bytes]:
        """Key, owner, status, headers and body as statements take them."""
        answer = self.answer
        return (self.hold.key, self.hold.owner, answer.status, orjson.dumps(answer.headers), answer.body)


# What a request under a key answers when its effect is this result.
Complete: TypeAlias = Callable[[Result], Completion]


async def complete_within(connection: Any, complete: Complete[Result] | None, result: Result) -> Result:
    """`result`, after its answer was written in the connection's transaction.

    Raises IdempotencyInProgress when the hold is lost: the transaction must not be committed.
    """
    if complete is not None:
        completion = complete(result)
        if await connection.fetchrow(statement("complete_key"), completion.hold.org, *completion.values()) is None:
            raise lost_hold()
    return result


def completing(complete: Complete[Shown] | None, shown: Callable[[Result], Shown]) -> Complete[Result] | None:
    """`complete` of what `shown` makes of a result; None where there is no `complete`."""
    if complete is None:
        return None

    def of_result(result: Result) -> Completion:
        return complete(shown(result))

    return of_result


def lost_hold() -> IdempotencyInProgress:
    """Told to a request that took so long that the same request, sent again, was given its key."""
    return IdempotencyInProgress("the request took too long and is carried out again")


class KeyRecords:
    """Begins, completes and forgets keys. Raises Unavailable or OutcomeUnknown; everything may be done again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, org: int, key: str, fingerprint: bytes, owner: UUID, hold_s: float) -> KeyHold | None:
        """Hold a key for `hold_s` seconds; None when it is held, answered or a booking's."""
        rows = await self._database.write("begin_key", org, key, fingerprint, owner, hold_s)
        if not rows:
            return None
        operation = UUID(int=rows[0]["operation"].int)
        return KeyHold(org=org, key=key, fingerprint=fingerprint, owner=owner, operation=operation)

    async def find(self, org: int, key: str) -> KeyRecord | None:
        """What a key stands for, or None."""
        row = await self._database.first("find_idempotency_key", org, key)
        if row is None:
            return None
        answer = None
        if row["status"] is not None and row["headers"] is not None:
            answer = FinalAnswer(row["status"], orjson.loads(row["headers"]), row["body"])
        return KeyRecord(fingerprint=row["fingerprint"], answer=answer, over=row["over"])

    async def booked(self, keys: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
        """Those of the keys (organization, key) that a booking was made with."""
        orgs, names = zip(*keys, strict=True)
        rows = await self._database.fetch("booked_keys", orgs, names)
        return {(row["org_id"], row["key"]) for row in rows}

    async def complete(self, completion: Completion) -> bool:
        """Write the answer; False when the hold has ended, by the effect's own transaction or by a takeover."""
        return bool(await self._database.write("complete_key", completion.hold.org, *completion.values()))

    async def free(self, hold: KeyHold) -> None:
        """End the hold of a request that had no effect."""
        await self._database.write("free_key", hold.org, hold.key, hold.owner)

    async def leave(self, hold: KeyHold) -> None:
        """End the hold of a request that may have had its effect: the same request may go on."""
        await self._database.write("leave_key", hold.org, hold.key, hold.owner)

    async def forget(self, older_than_hours: int, most: int) -> int:
        """Remove at most `most` old records; how many were removed."""
        return len(await self._database.write("forget_keys", older_than_hours, most))
