"""The grid in Redis: publishing rosters, creating and repairing days, reading planes.

Everything written here was derived from Postgres by an operation; this module packs it, names the keys and
keeps the protocol that makes a repair safe beside running bookings: mark the coach-day, read Postgres, write
only if nothing was settled, released or repaired there since.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import WatchError

from service.claims.breaker import GateBreaker, Trip
from service.claims.keys import Keys, Shards
from service.claims.scripts import DeriveOutcome, Differences, PublishOutcome, Scripts
from service.domain.calendar import Roster
from service.domain.grid import CELLS_PER_DAY, columns_mask
from service.domain.plane import bitmap, packed_i32, packed_u16, packed_u32, team_words
from service.errors import GateClosed

_REPAIR_MARKS_LIVE_MS = 60_000
_LATE_DAYS_LIVE_MS = 3_600_000


class PendingEntry(msgspec.Struct, frozen=True, array_like=True):
    """A claim, move or release that has not been settled, as the scripts pack it.

    `start_cell` and `cells` are the occupied run; `local_day` the day it counts on; `considered` stays packed.
    Of a move these are the new time; what begins with `old_` is the time it leaves (None of anything else).
    """

    kind: str
    deadline_ms: float
    org: int
    appointment: str
    column: int
    start_cell: int
    cells: int
    local_day: int
    width: int
    idempotency_key: str
    considered: msgspec.Raw
    old_column: int | None = None
    old_start_cell: int = 0
    old_cells: int = 0
    old_local_day: int = 0
    old_considered: msgspec.Raw = msgspec.Raw()


_decode_entry = msgspec.msgpack.Decoder(PendingEntry).decode


@dataclass(frozen=True, slots=True)
class PlanesRead:
    """Days of the grid as read: (open, occupied) planes a day, full rows by local day; None where unknown."""

    days: list[tuple[bytes, bytes] | None]
    full: dict[int, bytes | None]


@dataclass(frozen=True, slots=True)
class ColumnState:
    """What Postgres says of a coach-day: 288-bit integers and the day's count.

    `known` names who is in them (`known_in`), and pending times that hold no longer (`ended_in`).
    """

    open: int
    occupied: int
    count: int
    known: tuple[str, ...]


class GridStore:
    """Reads and writes of the grid, one organization at a time. Raises GateClosed when Redis is not there."""

    def __init__(self, redis: Redis, scripts: Scripts, shards: Shards, breaker: GateBreaker) -> None:
        self._redis: Any = redis  # redis-py types both its clients at once: awaitable or not
        self._scripts = scripts
        self._shards = shards
        self._breaker = breaker

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[None]:
        with self._breaker.asking():
            yield

    @property
    def behind(self) -> bool:
        """Whether something may have been changed without Redis that the grid does not show yet."""
        return self._breaker.behind

    async def publish(self, roster: Roster, deficits: Sequence[int], days: range) -> tuple[PublishOutcome, int]:
        """Put a roster beside its grid, dropping `days` when the row width changed; also returns its revision."""
        keys = self._shards.of(roster.org)
        org = roster.org
        columns = roster.width * 8
        scores, limits = [0] * columns, [0] * columns
        for coach in roster.coaches:
            scores[coach.column] = coach.score
            limits[coach.column] = coach.max_daily_appointments
        tops = [max(scores[first : first + 32]) for first in range(0, columns, 32)]
        fields: list[str | bytes] = ["tops", packed_u32(tops)]
        for calendar in roster.calendars:
            fields += [f"calendar:{calendar.number}", team_words(calendar.team)]
        for number, name in enumerate(roster.zones):
            mask = columns_mask((c.column for c in roster.coaches if c.timezone == name), roster.width)
            fields += [f"zone:{number}", mask.to_bytes(roster.width, "big")]
        names = [keys.roster(org), keys.scores(org), keys.limits(org), keys.deficits(org)]
        for day in days:
            names += [keys.open(org, day), keys.occupied(org, day), keys.full(org, day), keys.counts(org, day)]
        arguments = [
            roster.version,
            roster.width,
            packed_u32(scores),
            packed_u16(limits),
            packed_i32(deficits),
            *fields,
        ]
        async with self._asking():
            return await self._scripts.publish_roster(names, arguments)

    async def has_roster(self, org: int) -> int | None:
        """The version of the roster in Redis, or None when there is none."""
        async with self._asking():
            answer: Any = await self._redis.hget(self._shards.of(org).roster(org), "version")
        return None if answer is None else int(answer)

    async def read(self, org: int, days: range, local_days: Sequence[int]) -> PlanesRead:
        """Planes of the UTC days and full rows of the local days, in one call.

        Raises GateClosed also when the grid is not of this epoch: nothing it says is to be believed then.
        """
        keys, epoch = self._shards.of(org), self._breaker.epoch
        names = [keys.epoch]
        names += [keys.open(org, day) for day in days]
        names += [keys.occupied(org, day) for day in days]
        names += [keys.full(org, day) for day in local_days]
        async with self._asking():
            said, *values = await self._redis.mget(names)
        if said != str(epoch).encode():
            self._breaker.trip(Trip.SUSPECT)
            raise GateClosed("the grid is not of this epoch")
        count = len(days)
        planes: list[tuple[bytes, bytes] | None] = []
        for open_plane, occupied in zip(values[:count], values[count : 2 * count], strict=True):
            planes.append(None if open_plane is None or occupied is None else (open_plane, occupied))
        return PlanesRead(planes, dict(zip(local_days, values[2 * count :], strict=True)))

    async def read_counts(self, org: int, local_day: int, columns: int) -> list[int] | None:
        """Appointments and claims of each column on a local day, or None where unknown."""
        keys = self._shards.of(org)
        async with self._asking():
            value: Any = await self._redis.get(keys.counts(org, local_day))
        if value is None:
            return None
        return [int.from_bytes(value[2 * c : 2 * c + 2], "big") for c in range(columns)]

    async def missing_days(self, org: int, days: range) -> list[int]:
        """Which of the days are not in Redis as a whole."""
        keys = self._shards.of(org)
        async with self._asking(), self._redis.pipeline(transaction=False) as pipe:
            for day in days:
                pipe.exists(keys.open(org, day), keys.occupied(org, day), keys.full(org, day), keys.counts(org, day))
            present: list[int] = await pipe.execute()
        return [day for day, count in zip(days, present, strict=True) if count < 4]

    async def days_to_repair(self, org: int, days: Sequence[int]) -> tuple[list[int], int]:
        """Which of the days are in Redis, and the revision of the roster.

        The others need no repair: who derives one just now, from what Postgres said before, is made to read again.
        """
        if not days:
            return [], 0
        keys = self._shards.of(org)
        async with self._asking(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel(keys.repairs, *(f"{org}:{day}:*" for day in days))
            pipe.hget(keys.roster(org), "revision")
            for day in days:
                pipe.exists(keys.open(org, day))
            _, revision, *present = await pipe.execute()
        return [day for day, there in zip(days, present, strict=True) if there], int(revision or 0)

    async def mark_day(self, org: int, day: int) -> str:
        """Announce that a whole day will be derived from what Postgres says from now on; returns the nonce."""
        return await self._mark(org, f"{org}:{day}:*", ())

    async def mark_coach_day(self, org: int, day: int, column: int) -> str:
        """Announce that a coach-day will be repaired from what Postgres says from now on; returns the nonce.

        A whole day being derived right now may have read Postgres before: its mark is taken away, so it reads again.
        """
        return await self._mark(org, f"{org}:{day}:{column}", (f"{org}:{day}:*",))

    async def _mark(self, org: int, field: str, overridden: tuple[str, ...]) -> str:
        """Set a mark, or share the one that stands: as long as it stands nothing was settled since it was set.

        Each with a mark of its own, two processes that derive the same day would take it from each other for ever.
        """
        keys = self._shards.of(org)
        async with self._asking(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(keys.repairs, field, token_hex(8))
            pipe.hget(keys.repairs, field)
            for other in overridden:
                pipe.hdel(keys.repairs, other)
            pipe.pexpire(keys.repairs, _REPAIR_MARKS_LIVE_MS)
            _, nonce, *_ = await pipe.execute()
        return nonce.decode()

    async def derive_day(
        self,
        roster: Roster,
        day: int,
        nonce: str,
        *,
        open_plane: bytes,
        occupied: bytes,
        counts: Sequence[int],
        known: Sequence[str],
    ) -> DeriveOutcome:
        """Create a day; it expires two days after it is over, or an hour from now when that is past."""
        # By the machine's clock, which is Redis' in this: an expired day could not be created at all.
        expire_at_ms = max((day + 3) * 86_400_000, round(time.time() * 1000) + _LATE_DAYS_LIVE_MS)
        keys, org = self._shards.of(roster.org), roster.org
        entry = [org, day, roster.version, roster.width, nonce, expire_at_ms, list(known)]
        async with self._asking():
            return await self._scripts.derive_day(
                self._day_keys(org, day, keys.repairs, keys.roster(org)),
                entry,
                open_plane,
                occupied,
                packed_u16(counts),
            )

    async def repair_coach_day(
        self, roster: Roster, day: int, column: int, nonce: str, state: ColumnState, *, write: bool
    ) -> Differences:
        """Make a column what Postgres says, or only compare."""
        keys, org = self._shards.of(roster.org), roster.org
        entry = [
            org,
            day,
            column,
            roster.version,
            roster.width,
            nonce,
            1 if write else 0,
            state.count,
            list(state.known),
        ]
        async with self._asking():
            return await self._scripts.repair_coach_day(
                self._day_keys(org, day, keys.repairs, keys.roster(org)),
                entry,
                bitmap(state.open),
                bitmap(state.occupied),
            )

    def _day_keys(self, org: int, day: int, repairs: str, roster: str) -> list[str]:
        keys = self._shards.of(org)
        return [
            keys.pending,
            repairs,
            roster,
            keys.open(org, day),
            keys.occupied(org, day),
            keys.full(org, day),
            keys.counts(org, day),
            keys.limits(org),
        ]

    async def deficits(self, org: int, columns: int) -> list[int]:
        """What each column is owed, in millionths of an appointment."""
        async with self._asking():
            found: Any = await self._redis.get(self._shards.of(org).deficits(org))
        value: bytes = (found or b"").ljust(columns * 4, b"\0")
        return [int.from_bytes(value[4 * c : 4 * c + 4], "big", signed=True) for c in range(columns)]

    async def set_deficits(self, org: int, units: Mapping[int, int], seen: Sequence[int]) -> bool:
        """Set the deficits of some columns; False when any differs from what was `seen` (nothing is written)."""
        key = self._shards.of(org).deficits(org)
        async with self._asking(), self._redis.pipeline(transaction=True) as pipe:
            # Watched before it is compared: a booking before that shows in the bytes, one after it in the watch.
            await pipe.watch(key)
            if (await pipe.get(key) or b"").ljust(4 * len(seen), b"\0") != packed_i32(seen):
                return False
            pipe.multi()
            for column, value in units.items():
                pipe.setrange(key, column * 4, value.to_bytes(4, "big", signed=True))
            try:
                await pipe.execute()
            except WatchError:
                return False
        return True

    async def pending(self) -> dict[str, PendingEntry]:
        """Every claim and release of all shards that has not been settled, by token."""
        found: dict[str, PendingEntry] = {}
        for keys in self._shards.all:
            found.update(await self._pending_in(keys))
        return found

    async def count_pending(self) -> int:
        """How many claims and releases of all shards have not been settled."""
        count = 0
        for keys in self._shards.all:
            async with self._asking():
                count += int(await self._redis.hlen(keys.pending))
        return count

    async def pending_of(self, org: int) -> dict[str, PendingEntry]:
        """Every claim and release of an organization that has not been settled, by token."""
        found = await self._pending_in(self._shards.of(org))
        return {token: entry for token, entry in found.items() if entry.org == org}

    async def _pending_in(self, keys: Keys) -> dict[str, PendingEntry]:
        async with self._asking():
            entries: dict[bytes, bytes] = await self._redis.hgetall(keys.pending)
        return {token.decode(): _decode_entry(packed) for token, packed in entries.items()}

    async def now_ms(self) -> int:
        """Redis' clock, by which deadlines are measured."""
        async with self._asking():
            seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def forget_days(self, org: int, days: range) -> None:
        """Drop days of the grid; whoever needs one derives it again."""
        keys = self._shards.of(org)
        names: list[str] = []
        for day in days:
            names += [keys.open(org, day), keys.occupied(org, day), keys.full(org, day), keys.counts(org, day)]
        if not names:
            return
        async with self._asking():
            await self._redis.unlink(*names)


def whole(plane: bytes, width: int) -> bool:
    """Whether a plane has the length its width calls for (another width: derive it again)."""
    return len(plane) == CELLS_PER_DAY * width
