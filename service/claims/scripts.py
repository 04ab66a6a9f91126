"""The bridge to the scripts in `lua/`: one typed method a file, and nowhere else an EVALSHA.

A script whose file has no method here, or a method whose file is missing, stops the start. Outcome words
come back as the enums below; the same words stand in the script's header, in logs and in metric labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from service.claims.script_files import script_folder
from service.errors import ConfigurationError


class ClaimOutcome(StrEnum):
    """What `claim_slot.lua` says of an item."""

    LIMITED = "limited"
    SUSPECT = "suspect"
    ADMITTED = "admitted"
    UNKNOWN_ORG = "unknown_org"
    STALE = "stale"
    UNKNOWN_DAY = "unknown_day"
    REPLAY = "replay"
    REUSED = "reused"
    IN_PROGRESS = "in_progress"
    TAKEN = "taken"
    CLAIMED = "claimed"
    BROKEN = "broken"


class StillTakenOutcome(StrEnum):
    """What `still_taken.lua` says of an item."""

    LIMITED = "limited"
    SUSPECT = "suspect"
    TAKEN = "taken"
    FREED = "freed"
    BROKEN = "broken"


class SettleOutcome(StrEnum):
    """What `settle_claim.lua` says of an item."""

    SETTLED = "settled"
    ABSENT = "absent"
    BROKEN = "broken"


class ReleaseOutcome(StrEnum):
    """What `release_claim.lua` says of an item."""

    RELEASED = "released"
    ABSENT = "absent"
    LATE = "late"
    BROKEN = "broken"


class DeriveOutcome(StrEnum):
    """What `derive_day.lua` and `repair_coach_day.lua` say."""

    DERIVED = "derived"
    PRESENT = "present"
    REPAIRED = "repaired"
    COMPARED = "compared"
    STALE = "stale"
    UNKNOWN_DAY = "unknown_day"
    CHANGED = "changed"


class PublishOutcome(StrEnum):
    """What `publish_roster.lua` says."""

    PUBLISHED = "published"
    PRESENT = "present"
    OLDER = "older"


class ClaimReply(msgspec.Struct, frozen=True, array_like=True):
    """One item's reply: the outcome, where the key stands in its window, two values the outcome gives meaning to.

    Of a time that is taken these are the roster's revision, and how much of it is not claims (`freed`). `revision` is
    the roster's after a claim, `epoch` the one the claim was made in.
    """

    outcome: ClaimOutcome
    rate_count: int
    rate_reset_ms: int
    first: Any
    second: Any
    revision: int = 0
    epoch: int = 0


class StillTakenReply(msgspec.Struct, frozen=True):
    """What is said to one of the requests of an item: the outcome, where its key stands in its window, the revision."""

    outcome: StillTakenOutcome
    rate_count: int
    rate_reset_ms: int
    revision: int


class Differences(msgspec.Struct, frozen=True):
    """How a coach-day differed from Postgres: bits of the planes, and 1 where its count or full bit was wrong.

    `revision` is the roster's afterwards: who claims at a later one has seen the coach-day as it is then.
    """

    outcome: DeriveOutcome
    open: int
    occupied: int
    count: int
    revision: int = 0

    @property
    def total(self) -> int:
        """All differences together."""
        return self.open + self.occupied + self.count


_encode = msgspec.msgpack.Encoder().encode
_CLAIM_OUTCOMES = {outcome.value.encode(): outcome for outcome in ClaimOutcome}
_STILL_TAKEN_OUTCOMES = {outcome.value.encode(): outcome for outcome in StillTakenOutcome}
Key = str
Argument = str | bytes | int


class Scripts:
    """Every script of `lua/` as a method, run on one Redis client."""

    METHODS = frozenset(
        {
            "claim_slot",
            "still_taken",
            "settle_claim",
            "release_claim",
            "note_release",
            "publish_roster",
            "derive_day",
            "repair_coach_day",
            "accept_event",
            "enqueue",
            "retry_later",
            "move_due",
            "finish_entry",
            "bury_entry",
            "forget_consumers",
            "free_mark",
        }
    )

    def __init__(self, redis: Redis, folder: Path | None = None) -> None:
        self._redis: Any = redis  # redis-py leaves execute_command untyped
        self._sources: dict[str, tuple[str, bytes]] = {}
        for file in sorted((folder or script_folder()).glob("*.lua")):
            source = file.read_bytes()
            self._sources[file.stem] = (hashlib.sha1(source).hexdigest(), source)  # noqa: S324  Redis' own name for it
        if self._sources.keys() != self.METHODS:
            odd = ", ".join(sorted(set(self._sources) ^ self.METHODS))
            raise ConfigurationError(f"lua/: scripts and methods do not match: {odd}")

    async def _run(self, name: str, keys: Sequence[Key], arguments: Sequence[Argument]) -> Any:
        digest, source = self._sources[name]
        try:
            return await self._redis.execute_command("EVALSHA", digest, len(keys), *keys, *arguments)
        except NoScriptError:
            # Nothing ran, so running it once more is safe; EVAL leaves it in the cache for the next call.
            return await self._redis.execute_command("EVAL", source, len(keys), *keys, *arguments)

    async def claim_slot(
        self, keys: Sequence[Key], claim_ttl_ms: int, items: Sequence[Any], epoch: int
    ) -> list[ClaimReply]:
        """Evaluate a batch of requests in an epoch; see the script's header for the form of an item."""
        replies = await self._run("claim_slot", keys, [_encode([claim_ttl_ms, items, epoch])])
        return [
            ClaimReply(
                _CLAIM_OUTCOMES[reply[0]],
                reply[1] or 0,
                reply[2] or 0,
                reply[3],
                reply[4],
                reply[5],
                epoch,
            )
            for reply in replies
        ]

    async def still_taken(
        self, keys: Sequence[Key], items: Sequence[Any], epoch: int
    ) -> list[tuple[StillTakenReply, list[int]]]:
        """Look whether a batch of refusals still holds; of each item the reply to its last request, and which of its
        marks are there.
        """
        replies = await self._run("still_taken", keys, [_encode([epoch, items])])
        return [
            (StillTakenReply(_STILL_TAKEN_OUTCOMES[outcome], count, reset_ms, revision), marks)
            for outcome, count, reset_ms, revision, marks in replies
        ]

    async def settle_claim(self, keys: Sequence[Key], answer_ttl_ms: int, items: Sequence[Any]) -> list[SettleOutcome]:
        """Settle a batch of committed changes."""
        outcomes = await self._run("settle_claim", keys, [_encode([answer_ttl_ms, items])])
        return [SettleOutcome(outcome.decode()) for outcome in outcomes]

    async def release_claim(self, keys: Sequence[Key], items: Sequence[Any]) -> list[ReleaseOutcome]:
        """Free what a batch of tokens holds."""
        outcomes = await self._run("release_claim", keys, [_encode(items)])
        return [ReleaseOutcome(outcome.decode()) for outcome in outcomes]

    async def note_release(self, pending: Key, token: str, entry: Sequence[int | str], considered: bytes) -> None:
        """Note a release before the commit that causes it."""
        await self._run("note_release", [pending], [token, _encode(entry), considered])

    async def publish_roster(self, keys: Sequence[Key], arguments: Sequence[Argument]) -> tuple[PublishOutcome, int]:
        """Put a roster beside its grid; returns the outcome and the roster's revision."""
        outcome, revision = await self._run("publish_roster", keys, arguments)
        return PublishOutcome(outcome.decode()), revision

    async def derive_day(
        self, keys: Sequence[Key], entry: Sequence[Any], open_plane: bytes, occupied: bytes, counts: bytes
    ) -> DeriveOutcome:
        """Create one day of the grid."""
        reply = await self._run("derive_day", keys, [_encode(entry), open_plane, occupied, counts])
        return DeriveOutcome(reply[0].decode())

    async def repair_coach_day(
        self, keys: Sequence[Key], entry: Sequence[Any], open_bits: bytes, occupied_bits: bytes
    ) -> Differences:
        """Repair (or compare) one coach's column of one day."""
        outcome, *numbers = await self._run("repair_coach_day", keys, [_encode(entry), open_bits, occupied_bits])
        return Differences(DeriveOutcome(outcome.decode()), *numbers)

    async def accept_event(self, mark: Key, stream: Key, way: Key, remember_ms: int, event: str) -> bool:
        """Enqueue an incoming event unless it was before; True when it is new."""
        reply = await self._run("accept_event", [mark, stream, way], [remember_ms, event])
        return reply[0] == b"accepted"

    async def enqueue(self, stream: Key, way: Key, events: Sequence[tuple[str, int]]) -> int:
        """Put (event, attempt to be made) into a stream, each unless it is on its way there; how many were not."""
        _, added = await self._run("enqueue", [stream, way], [part for event in events for part in event])
        return added

    async def retry_later(self, stream: Key, due: Key, group: str, entries: Sequence[tuple[str, int, str, int]]) -> int:
        """Reschedule entries (id, delay in ms, event, the next attempt's number); how many were there."""
        _, scheduled = await self._run(
            "retry_later", [stream, due], [group, *(part for entry in entries for part in entry)]
        )
        return scheduled

    async def move_due(self, streams: Sequence[tuple[Key, Key]], most: int) -> tuple[int, int]:
        """Move due entries back into their streams, `most` of each (stream, due); how many, ms to the next or -1."""
        _, moved, wait_ms = await self._run("move_due", [key for pair in streams for key in pair], [most])
        return moved, wait_ms

    async def finish_entry(self, stream: Key, way: Key, group: str, entries: Sequence[tuple[str, str]]) -> int:
        """Take finished entries (id, event) off a stream; how many were there."""
        _, gone = await self._run(
            "finish_entry", [stream, way], [group, *(part for entry in entries for part in entry)]
        )
        return gone

    async def bury_entry(
        self, stream: Key, dead: Key, way: Key, group: str, entry_id: str, event: str, attempts: int, error: str
    ) -> bool:
        """Move an entry to the dead letters; False when somebody else finished it."""
        reply = await self._run("bury_entry", [stream, dead, way], [group, entry_id, event, attempts, error])
        return reply[0] == b"buried"

    async def forget_consumers(self, stream: Key, group: str, idle_ms: int) -> int:
        """Drop a group's consumers that were silent for so long and have nothing pending; how many."""
        _, gone = await self._run("forget_consumers", [stream], [group, idle_ms])
        return gone

    async def free_mark(self, mark: Key, owner: str) -> bool:
        """Free an owner's idempotency mark; False when it is somebody else's, answered or gone."""
        reply = await self._run("free_mark", [mark], [owner])
        return reply[0] == b"freed"
