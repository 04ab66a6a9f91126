"""Appointments in Postgres: the group commit of bookings, and changes of one appointment.

A booking is written by `BookingCommitter`: one prepared statement on a connection of its own carries every
booking waiting in that moment. What did not take lost to a constraint; what was lost on the way is written
again under the same id, because only a second insert of the same id waits for the first and then tells the truth.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import orjson

from service.batching import Batcher
from service.db.connection import CROWDED, TRY_AGAIN, UNKNOWN, Database, open_connection
from service.db.statements import statement
from service.domain.appointment import Appointment, Status
from service.domain.event import EventType
from service.domain.grid import day_start
from service.errors import OutcomeUnknown, Unavailable
from service.logs import get_logger

MOST_IN_ONE_COMMIT = 128
ATTEMPTS = 4

_log = get_logger("db.appointments")


class NewBooking(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed booking on its way into Postgres: the appointment and what only its row and event hold."""

    appointment: Appointment
    idempotency_key: str | None
    fingerprint: bytes | None
    actor: str
    correlation_id: str
    considered: bytes
    data: bytes


class CommitOutcome(StrEnum):
    """What became of a booking's row.

    taken: it is in Postgres. lost: a constraint refused it, somebody has that time. repeated: the idempotency key
    is in Postgres under another id. expired: the reconciler gave the claim up before the row came.
    """

    TAKEN = "taken"
    LOST = "lost"
    REPEATED = "repeated"
    EXPIRED = "expired"


class Committed(msgspec.Struct, frozen=True):
    """A booking's outcome; for `repeated` the fingerprint and the answer that the key has."""

    outcome: CommitOutcome
    fingerprint: bytes | None = None
    answer: bytes | None = None


class BookingCommitter:
    """Commits bookings in groups on one connection of its own (no pool checkout, no reset on the hot path)."""

    def __init__(
        self, url: str, *, observe: Callable[[int], None] = lambda _size: None, most: int = MOST_IN_ONE_COMMIT
    ) -> None:
        self._url = url
        self._batcher: Batcher[NewBooking, Committed] = Batcher(self._commit, most=most, observe=observe)
        self._connection: Any = None
        self._prepared: Any = None
        self._chance = random.Random()

    async def commit(self, booking: NewBooking) -> Committed:
        """Write one booking. Raises Unavailable (nothing written) or OutcomeUnknown (ask again with the same id)."""
        return await self._batcher.submit(booking)

    async def close(self) -> None:
        """Wait for what is under way, then close the connection."""
        await self._batcher.drain()
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection, self._prepared = self._connection, None, None
        if connection is not None:
            connection.terminate()

    async def _statement(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await open_connection(self._url)
            self._prepared = await self._connection.prepare(statement("commit_bookings"))
        return self._prepared

    async def _commit(self, bookings: list[NewBooking]) -> Sequence[Committed]:
        unknown: BaseException | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                prepared = await self._statement()
                rows = await prepared.fetch(*_columns(bookings))
                taken = {row["appointment_id"] for row in rows}
                lost = [b for b in bookings if b.appointment.appointment_id not in taken]
                reasons = await self._explain(lost) if lost else {}
                done = Committed(CommitOutcome.TAKEN)
                return [
                    done if b.appointment.appointment_id in taken else reasons[b.appointment.appointment_id]
                    for b in bookings
                ]
            except TRY_AGAIN as problem:
                _log.info("commit tried again", error=type(problem).__name__, attempt=attempt)
                await asyncio.sleep(self._chance.uniform(0, 0.01 * 2**attempt))
            except asyncpg.DataError:
                # One row carries something Postgres cannot hold: alone, each tells for itself.
                if len(bookings) == 1:
                    raise
                return [await self._alone(booking) for booking in bookings]
            except (*UNKNOWN, Unavailable) as problem:
                unknown = problem if not isinstance(problem, Unavailable) else unknown
                await self._drop()
                if attempt == ATTEMPTS:
                    break
                await asyncio.sleep(self._chance.uniform(0, 0.05 * 2**attempt))
            except CROWDED as problem:
                raise Unavailable(f"Postgres refused for now: {type(problem).__name__}") from problem
        if unknown is not None:
            raise OutcomeUnknown("Postgres' answer to the commit was lost") from unknown
        raise Unavailable("Postgres cannot be reached")

    async def _alone(self, booking: NewBooking) -> Committed:
        return (await self._commit([booking]))[0]

    async def _explain(self, lost: list[NewBooking]) -> dict[UUID, Committed]:
        """Why each booking's row did not take; a row of its own id means that an earlier attempt did."""
        rows = await self._connection.fetch(
            statement("find_lost_bookings"),
            [b.appointment.org for b in lost],
            [b.appointment.appointment_id for b in lost],
            [b.idempotency_key for b in lost],
        )
        found = {b.appointment.appointment_id: Committed(CommitOutcome.LOST) for b in lost}
        for row in sorted(rows, key=lambda row: row["wanted_id"] == row["appointment_id"]):
            if row["wanted_id"] != row["appointment_id"]:
                found[row["wanted_id"]] = Committed(CommitOutcome.REPEATED, row["fingerprint"], row["data"])
            elif row["status"] == Status.VOID:
                found[row["wanted_id"]] = Committed(CommitOutcome.EXPIRED)
            else:
                found[row["wanted_id"]] = Committed(CommitOutcome.TAKEN)
        return found


def _columns(bookings: list[NewBooking]) -> tuple[list[Any], ...]:
    rows: list[tuple[Any, ...]] = []
    for booking in bookings:
        a = booking.appointment
        rows.append(
            (
                a.org,
                a.appointment_id,
                a.calendar_number,
                a.column,
                a.contact_id,
                a.contact_email,
                a.contact_name,
                a.start_time,
                a.end_time,
                a.occupied_start,
                a.occupied_end,
                day_start(a.local_day).date(),
                a.timezone,
                a.strategy,
                a.considered,
                a.notes,
                orjson.dumps(a.metadata),
                booking.idempotency_key,
                booking.fingerprint,
                a.created_at,
                booking.actor,
                booking.correlation_id,
                booking.considered,
                booking.data,
            )
        )
    return tuple(list(column) for column in zip(*rows, strict=True))


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one appointment: the state after it, and its event."""

    after: Appointment
    type: EventType
    token: UUID | None
    actor: str
    correlation_id: str
    reason: str | None
    data: bytes


class AppointmentStore:
    """Reads appointments and writes changes of one appointment at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, org: int, appointment_id: UUID) -> Appointment | None:
        """One appointment of the organization, or None."""
        row = await self._database.first("get_appointment", org, appointment_id)
        return None if row is None else _appointment(row)

    async def last_considered(self, org: int, appointment_id: UUID) -> bytes:
        """Who was considered when the appointment was last assigned, packed; empty when nobody was."""
        row = await self._database.first("last_considered", org, appointment_id)
        return b"" if row is None else row["considered"]

    async def change(self, change: Change) -> bool:
        """Write a change made from version `after.version - 1`; False when the appointment has moved on.

        An answer that was lost is asked for again: the row no longer has the old version, and the event's token says
        whether that was us. Raises Unavailable or OutcomeUnknown.
        """
        a = change.after
        arguments = (
            a.org,
            a.appointment_id,
            a.version - 1,
            a.status.value,
            a.updated_at,
            a.confirmed_at,
            a.cancelled_at,
            change.type.value,
            change.actor,
            change.correlation_id,
            change.reason,
            change.token,
            change.data,
        )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                rows = await self._database.write("change_status", *arguments)
            except OutcomeUnknown:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(0.05 * 2**attempt)
                continue
            if rows:
                return True
            # Only a lost answer makes it possible that the row moved on because of ourselves.
            return attempt > 1 and await self._is_ours(change)
        raise AssertionError("unreachable")

    async def _is_ours(self, change: Change) -> bool:
        a = change.after
        row = await self._database.first("event_at", a.org, a.appointment_id, a.version)
        return (
            row is not None
            and row["data"] == change.data
            and row["token"] == change.token
            and row["correlation_id"] == change.correlation_id
        )

    async def event_of_token(self, org: int, appointment_id: UUID, token: UUID) -> tuple[int, EventType] | None:
        """(sequence, type) of the event that carries the token, or None."""
        row = await self._database.first("event_by_token", org, appointment_id, token)
        return None if row is None else (row["sequence"], EventType(row["type"]))

    async def answer_of_key(self, org: int, key: str) -> tuple[bytes, bytes] | None:
        """(fingerprint, answer) of the booking made with an idempotency key, or None."""
        row = await self._database.first("find_by_idempotency_key", org, key)
        return None if row is None else (row["fingerprint"], row["data"])

    async def claim_committed(self, org: int, appointment_id: UUID) -> Any | None:
        """The row under a claim's id: status, idempotency_key, fingerprint, data; None when there is none."""
        return await self._database.first("claim_committed", org, appointment_id)

    async def bury_claim(
        self, org: int, appointment_id: UUID, column: int, start: datetime, end: datetime, local_day: int
    ) -> bool:
        """Put a tombstone under a claim's id; False when a row is there already (the claim was committed)."""
        rows = await self._database.write(
            "bury_claim", org, appointment_id, column, start, end, day_start(local_day).date()
        )
        return bool(rows)

    async def counted(
        self, org: int, first_day: int, last_day: int, calendar_number: int | None
    ) -> list[tuple[int, int, int]]:
        """(column, local day, live appointments) with `first_day` <= local day < `last_day`."""
        rows = await self._database.fetch(
            "distribution", org, day_start(first_day).date(), day_start(last_day).date(), calendar_number
        )
        epoch = day_start(0).date()
        return [(row["coach_no"], (row["local_day"] - epoch) // timedelta(days=1), row["appointments"]) for row in rows]

    async def considered(
        self, org: int, first_day: int, last_day: int, calendar_number: int | None
    ) -> list[tuple[str, bytes]]:
        """(strategy, who was considered, packed) of each live appointment `counted` would count."""
        rows = await self._database.fetch(
            "considered_in_window", org, day_start(first_day).date(), day_start(last_day).date(), calendar_number
        )
        return [(row["strategy"], row["considered"]) for row in rows]


def _appointment(row: Any) -> Appointment:
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
