"""Appointments in Postgres: reading them, and changing one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import orjson

from service.batching import Batcher
from service.db.connection import Database
from service.db.gate import CoachDays, note_repairs
from service.db.idempotency import Completion, lost_hold
from service.db.statements import statement
from service.domain.appointment import Appointment, Status
from service.domain.assignment import Considered, ConsideredTogether, unpack_considered
from service.domain.event import EventType
from service.domain.grid import day_start
from service.errors import OutcomeUnknown, Unavailable

ATTEMPTS = 4
MOST_KEYS_AT_ONCE = 128


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one appointment: the state after it, and its event.

    `considered` is who was considered, packed, when the change gave the appointment to another coach; `completion` the
    answer of the request's idempotency key, which is written with it. `epoch` and `revision` are those in which a new
    time was claimed in Redis; `repairs` the coach-days of a change that Redis is not told of.
    """

    after: Appointment
    type: EventType
    token: UUID | None
    actor: str
    correlation_id: str
    reason: str | None
    data: bytes
    considered: bytes | None = None
    completion: Completion | None = None
    epoch: int | None = None
    revision: int | None = None
    repairs: tuple[CoachDays, ...] = ()


class ChangeOutcome(StrEnum):
    """What became of a change. stale: the appointment has moved on. taken: a constraint refused the new time."""

    DONE = "done"
    STALE = "stale"
    TAKEN = "taken"


class AppointmentFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which appointments of an organization a list wants; None lets everything through, starts in `[start, end)`."""

    org: int
    column: int | None = None
    calendar_number: int | None = None
    contact_id: UUID | None = None
    status: Status | None = None
    start: datetime | None = None
    end: datetime | None = None


class PastEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of an appointment's history; `data` is the appointment after it, as JSON text.

    `type` is the value of an EventType, or the word of a newer release beside this one.
    """

    sequence: int
    type: str
    occurred_at: datetime
    actor: str
    correlation_id: str
    reason: str | None
    considered: tuple[Considered, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Counted:
    """How many appointments: of each column, and on each local day (its number)."""

    by_column: dict[int, int]
    by_day: dict[int, int]


class AppointmentStore:
    """Reads appointments and writes changes of one appointment at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers: Batcher[tuple[int, str], tuple[bytes, bytes | None] | None] = Batcher(
            self.answers_of_keys, most=MOST_KEYS_AT_ONCE, lanes=2
        )

    async def drain(self) -> None:
        """Wait until every question asked together has come back."""
        await self._answers.drain()

    async def get(self, org: int, appointment_id: UUID) -> Appointment | None:
        """One appointment of the organization, or None."""
        row = await self._database.first("get_appointment", org, appointment_id)
        return None if row is None else appointment_of_row(row)

    async def get_within(self, connection: Any, org: int, appointment_id: UUID) -> Appointment | None:
        """`get` as a transaction sees it."""
        row = await connection.fetchrow(statement("get_appointment"), org, appointment_id)
        return None if row is None else appointment_of_row(row)

    async def page(
        self, wanted: AppointmentFilter, limit: int, after: tuple[datetime, UUID] | None
    ) -> list[Appointment]:
        """At most `limit` appointments by start, then id, beginning behind `after`."""
        begins, last = after if after is not None else (None, None)
        rows = await self._database.fetch(
            "list_appointments",
            wanted.org,
            wanted.column,
            wanted.calendar_number,
            wanted.contact_id,
            None if wanted.status is None else wanted.status.value,
            wanted.start,
            wanted.end,
            limit,
            begins,
            last,
        )
        return [appointment_of_row(row) for row in rows]

    async def history(self, org: int, appointment_id: UUID) -> list[PastEvent]:
        """What happened to an appointment, oldest first; empty when there is none of that id."""
        return [
            PastEvent(
                sequence=row["sequence"],
                type=row["type"],
                occurred_at=row["occurred_at"],
                actor=row["actor"],
                correlation_id=row["correlation_id"],
                reason=row["reason"],
                considered=unpack_considered(row["considered"] or b""),
                data=row["data"],
            )
            for row in await self._database.fetch("history", org, appointment_id)
        ]

    async def last_considered(self, org: int, appointment_id: UUID) -> bytes:
        """Who was considered when the appointment was last assigned, packed; empty when nobody was."""
        row = await self._database.first("last_considered", org, appointment_id)
        return b"" if row is None else row["considered"]

    async def last_considered_within(self, connection: Any, org: int, appointment_id: UUID) -> bytes:
        """`last_considered` as a transaction sees it."""
        row = await connection.fetchrow(statement("last_considered"), org, appointment_id)
        return b"" if row is None else row["considered"]

    async def change_within(self, connection: Any, change: Change) -> ChangeOutcome:
        """Write a change within a transaction. Raises IdempotencyInProgress when the hold of its key is lost."""
        try:
            if await write_change(connection, change):
                return ChangeOutcome.DONE
        except (asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError):
            return ChangeOutcome.TAKEN
        await self._check_hold(change.completion)
        return ChangeOutcome.STALE

    async def change(self, change: Change) -> ChangeOutcome:
        """Write a change made from version `after.version - 1`.

        An answer that was lost is asked for again: the row no longer has the old version, and the event's token says
        whether that was us. Raises Unavailable, OutcomeUnknown, or IdempotencyInProgress when the hold of its key is
        lost.
        """
        unknown: OutcomeUnknown | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if change.repairs:
                    async with self._database.transaction() as connection:
                        rows = await write_change(connection, change)
                else:
                    rows = await self._database.write("change_appointment", *_values(change))
                # Only a lost answer makes it possible that the row moved on because of ourselves.
                if rows or (unknown is not None and await self.is_ours(change)):
                    return ChangeOutcome.DONE
                await self._check_hold(change.completion)
                if unknown is not None and change.epoch is not None:
                    # Fenced, perhaps: then this attempt has not waited for an earlier one that may still take.
                    break
                return ChangeOutcome.STALE
            except (asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError):
                return ChangeOutcome.TAKEN
            except OutcomeUnknown as problem:
                unknown = problem
            except Unavailable:
                if unknown is None:
                    raise
            await asyncio.sleep(0.05 * 2**attempt)
        raise unknown or AssertionError("an attempt ends by itself unless its answer was lost")

    async def _check_hold(self, completion: Completion | None) -> None:
        """Raise IdempotencyInProgress when a hold is somebody else's by now."""
        if completion is None:
            return
        hold = completion.hold
        if await self._database.first("key_is_held", hold.org, hold.key, hold.owner) is None:
            raise lost_hold()

    async def is_ours(self, change: Change) -> bool:
        """Whether the event at the change's version is the one we meant to write."""
        a = change.after
        row = await self._database.first("event_at", a.org, a.appointment_id, a.version)
        return (
            row is not None
            and row["data"] == change.data
            and row["token"] == change.token
            and row["correlation_id"] == change.correlation_id
        )

    async def event_of_token(self, org: int, appointment_id: UUID, token: UUID) -> tuple[int, str] | None:
        """(sequence, type) of the event that carries the token, or None; the type may be a word of a newer release."""
        row = await self._database.first("event_by_token", org, appointment_id, token)
        return None if row is None else (row["sequence"], row["type"])

    async def answer_of_key(self, org: int, key: str) -> tuple[bytes, bytes | None] | None:
        """(fingerprint, answer) of the booking made with an idempotency key, or None.

        Of a key that was used for another write the answer is None.
        """
        return await self._answers.submit((org, key))

    async def answers_of_keys(self, keys: list[tuple[int, str]]) -> list[tuple[bytes, bytes | None] | None]:
        """`answer_of_key` of many: a crowd that is refused asks at once, each whether it has its answer already."""
        orgs, names = zip(*keys, strict=True)
        found: list[tuple[bytes, bytes | None] | None] = [None] * len(keys)
        for row in await self._database.fetch("answers_of_keys", list(orgs), list(names)):
            found[row["place"] - 1] = (row["fingerprint"], row["data"])
        return found

    async def claim_committed(self, org: int, appointment_id: UUID) -> Any | None:
        """The row under a claim's id: status, idempotency_key, fingerprint, data; None when there is none."""
        return await self._database.first("claim_committed", org, appointment_id)

    async def bury_claim(
        self, org: int, appointment_id: UUID, column: int, start: datetime, end: datetime, local_day: int
    ) -> bool:
        """Put a tombstone under a claim's id or a move's token; False when a row is there already.

        That is another tombstone, or what the claim was committed as.
        """
        rows = await self._database.write(
            "bury_claim", org, appointment_id, column, start, end, day_start(local_day).date()
        )
        return bool(rows)

    async def counted(self, org: int, first_day: int, last_day: int, calendar_number: int | None) -> Counted:
        """Live appointments that count on local days `first_day` <= day < `last_day`, of one calendar or of all."""
        rows = await self._database.fetch(
            "distribution", org, day_start(first_day).date(), day_start(last_day).date(), calendar_number
        )
        epoch = day_start(0).date()
        return Counted(
            {row["coach_no"]: row["appointments"] for row in rows if row["coach_no"] is not None},
            {(row["local_day"] - epoch).days: row["appointments"] for row in rows if row["local_day"] is not None},
        )

    async def considered(
        self, org: int, first_day: int, last_day: int, calendar_number: int | None
    ) -> list[ConsideredTogether]:
        """Who was considered for the appointments `counted` would count: a whole for each kind of rule."""
        rows = await self._database.fetch(
            "considered_in_window", org, day_start(first_day).date(), day_start(last_day).date(), calendar_number
        )
        return [ConsideredTogether(row["balanced"], row["lengths"], row["considered"]) for row in rows]


def appointment_of_row(row: Any) -> Appointment:
    """An appointment from the columns that `get_appointment` names."""
    return Appointment(
        org=row["org_id"],
        appointment_id=UUID(int=row["appointment_id"].int),
        calendar_number=row["calendar_no"],
        calendar_id=row["calendar_id"],
        column=row["coach_no"],
        coach_id=row["coach_id"],
        contact_id=UUID(int=row["contact_id"].int),
        contact_email=row["email"],
        contact_name=row["contact_name"],
        start_time=row["starts_at"],
        end_time=row["ends_at"],
        occupied_start=row["occupied_from"],
        occupied_end=row["occupied_to"],
        local_day=(row["local_day"] - day_start(0).date()).days,
        timezone=row["timezone"],
        status=Status(row["status"]),
        notes=row["notes"],
        metadata=orjson.loads(row["metadata"]) if row["metadata"] else {},
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        confirmed_at=row["confirmed_at"],
        cancelled_at=row["cancelled_at"],
        strategy=row["strategy"],
        considered=row["considered"],
    )


async def write_change(connection: Any, change: Change) -> bool:
    """Write a change, and the coach-days Redis is not told of; False when the appointment is not as it was any more,
    the hold of its key is lost, its new time is behind the fence of claims, or its claim was given up.

    Raises asyncpg's ExclusionViolationError or UniqueViolationError when somebody has the new time.
    """
    rows = await connection.fetch(statement("change_appointment"), *_values(change))
    if rows:
        await note_repairs(connection, change.repairs)
    return bool(rows)


def _values(change: Change) -> tuple[Any, ...]:
    a = change.after
    kept = (None,) * 5 if change.completion is None else change.completion.values()
    return (
        a.org,
        a.appointment_id,
        a.version - 1,
        a.status.value,
        a.updated_at,
        a.confirmed_at,
        a.cancelled_at,
        a.column,
        a.start_time,
        a.end_time,
        a.occupied_start,
        a.occupied_end,
        day_start(a.local_day).date(),
        a.strategy,
        a.considered,
        a.notes,
        orjson.dumps(a.metadata),
        change.type.value,
        change.actor,
        change.correlation_id,
        change.reason,
        change.token,
        change.considered,
        change.data,
        *kept,
        change.epoch,
        change.revision,
    )
