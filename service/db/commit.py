"""The group commit: every booking waiting in one moment in one prepared statement, on a connection of its own.

What did not take lost to a constraint; what was lost on the way is written again under the same id, because
only a second insert of the same id waits for the first and then tells the truth.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import orjson

from service.batching import Batcher
from service.db.connection import CROWDED, POISONED, TRY_AGAIN, UNKNOWN, open_connection
from service.db.statements import statement
from service.domain.appointment import Appointment, Status
from service.domain.grid import day_start
from service.errors import BookingError, InvalidRequest, KeyJustBegun, OutcomeUnknown, Unavailable
from service.logs import get_logger

MOST_IN_ONE_COMMIT = 128
ATTEMPTS = 4
# A plan is kept for as long as the connection, and so are those of the foreign keys: a table that was small when they
# were made must not be read from end to end ever after.
_BY_INDEX = {"enable_seqscan": "off"}

_log = get_logger("db.appointments")


class NewBooking(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed booking on its way into Postgres: the appointment and what only its row and event hold.

    `epoch` and `revision` are those its claim was made in; None when Redis was not asked.
    """

    appointment: Appointment
    idempotency_key: str | None
    fingerprint: bytes | None
    actor: str
    correlation_id: str
    considered: bytes
    data: bytes
    epoch: int | None = None
    revision: int | None = None


class CommitOutcome(StrEnum):
    """What became of a booking's row.

    taken: it is in Postgres. lost: a constraint refused it, somebody has that time. repeated: the idempotency key
    is in Postgres under another id, or another write's. held: another write under the key is being carried out.
    expired: the reconciler gave the claim up before the row came. fenced: Redis has lost the claim, or its coach-day
    was changed without Redis since; the time may still be free.
    """

    TAKEN = "taken"
    LOST = "lost"
    REPEATED = "repeated"
    HELD = "held"
    EXPIRED = "expired"
    FENCED = "fenced"


class Committed(msgspec.Struct, frozen=True):
    """A booking's outcome; the fingerprint and the answer that the key has, or that an earlier attempt wrote."""

    outcome: CommitOutcome
    fingerprint: bytes | None = None
    answer: bytes | None = None


class BookingCommitter:
    """Commits bookings in groups on one connection of its own (no pool checkout, no reset on the hot path)."""

    def __init__(
        self,
        url: str,
        *,
        observe: Callable[[int], None] = lambda _size: None,
        most: int = MOST_IN_ONE_COMMIT,
        done: Callable[[], None] | None = None,
    ) -> None:
        """`observe` is told the size of each commit, `done` is called after it."""
        self._url = url
        self._batcher: Batcher[NewBooking, Committed | BookingError] = Batcher(
            self._commit, most=most, observe=observe, done=done
        )
        self._connection: Any = None
        self._prepared: Any = None
        self._chance = random.Random()

    async def commit(self, booking: NewBooking) -> Committed:
        """Write one booking.

        Raises Unavailable (nothing written), OutcomeUnknown (ask again with the same id) or InvalidRequest (it holds
        something that cannot be stored).
        """
        answer = await self._batcher.submit(booking)
        if isinstance(answer, BookingError):
            raise answer
        return answer

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._batcher.busy

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
            connection: Any = await open_connection(self._url, **_BY_INDEX)
            try:
                self._prepared = await connection.prepare(statement("commit_bookings"))
            except BaseException:  # a cancellation as well: a connection without its statement is of no use
                connection.terminate()
                raise
            self._connection = connection
        return self._prepared

    async def _commit(
        self, bookings: list[NewBooking], unknown: BaseException | None = None
    ) -> Sequence[Committed | BookingError]:
        """Write a batch. Once an answer was lost (`unknown`), giving up can only mean that the outcome is unknown."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                prepared = await self._statement()
                rows = await prepared.fetch(*_columns(bookings))
                earlier, unknown = unknown, unknown or OutcomeUnknown("of what was written nobody was told yet")
                outcomes = await outcomes_of(self._connection, bookings, rows)
                if earlier is None:
                    return outcomes
                # A fenced row is not written, so it has not waited for an earlier attempt that may still take.
                lost = OutcomeUnknown("Postgres' answer to the commit was lost")
                return [lost if one.outcome is CommitOutcome.FENCED else one for one in outcomes]
            except TRY_AGAIN as problem:
                _log.info("commit tried again", error=type(problem).__name__, attempt=attempt)
                await asyncio.sleep(self._chance.uniform(0, 0.01 * 2**attempt))
            except POISONED as problem:
                if len(bookings) == 1:
                    _log.warning("booking refused by Postgres", error=type(problem).__name__)
                    raise InvalidRequest([("body", "holds something that cannot be stored")]) from problem
                # Nothing of the batch was written. Alone, each tells for itself, and only itself: a row that was
                # written must not hear of its neighbour's trouble, or its time would be given away.
                return [await self._alone(booking, unknown) for booking in bookings]
            except (*UNKNOWN, Unavailable) as problem:
                unknown = problem if not isinstance(problem, Unavailable) else unknown
                await self._drop()
                if attempt == ATTEMPTS:
                    break
                await asyncio.sleep(self._chance.uniform(0, 0.05 * 2**attempt))
            except Exception as problem:
                # After a failover this may lead to a standby: the next batch goes over another connection.
                await self._drop()
                if unknown is not None:
                    break
                if isinstance(problem, CROWDED):
                    raise Unavailable(f"Postgres refused for now: {type(problem).__name__}") from problem
                raise
        if unknown is not None:
            raise OutcomeUnknown("Postgres' answer to the commit was lost") from unknown
        raise Unavailable("Postgres cannot be reached")

    async def _alone(self, booking: NewBooking, unknown: BaseException | None) -> Committed | BookingError:
        try:
            return (await self._commit([booking], unknown))[0]
        except BookingError as problem:
            return problem


async def commit_within(connection: Any, bookings: list[NewBooking]) -> list[Committed]:
    """Write bookings within a transaction that holds the gate's lock alone; what became of each.

    Raises InvalidRequest when one of them holds something that cannot be stored, KeyJustBegun when another write has
    just begun the key of one; the transaction is lost then.
    """
    try:
        rows = await connection.fetch(statement("commit_bookings"), *_columns(bookings))
    except POISONED as problem:
        raise InvalidRequest([("body", "holds something that cannot be stored")]) from problem
    await _take_keys(connection, bookings, {row["appointment_id"] for row in rows})
    return await outcomes_of(connection, bookings, rows)


async def _take_keys(connection: Any, bookings: list[NewBooking], taken: Collection[UUID]) -> None:
    """Write the keys where other writes hold theirs, because no mark in Redis keeps those away.

    The other write and the booking may have begun together, each before the other's row could be seen. Only rows of one
    index wait for each other: who comes second there has nothing. A booking that does is written anew with the whole
    batch, and then the commit's statement finds the other's row.
    """
    keyed = [b for b in bookings if b.idempotency_key is not None and b.appointment.appointment_id in taken]
    if not keyed:
        return
    rows = await connection.fetch(
        statement("take_keys"),
        [b.appointment.org for b in keyed],
        [b.idempotency_key for b in keyed],
        [b.fingerprint for b in keyed],
        [b.appointment.appointment_id for b in keyed],
    )
    if len(rows) < len(keyed):
        raise KeyJustBegun("another request with an idempotency key of these was begun just now")


async def find_attempted(connection: Any, bookings: list[tuple[int, UUID]]) -> dict[UUID, bytes]:
    """The answers of those bookings (organization, id) that an earlier attempt wrote."""
    rows = await connection.fetch(
        statement("find_lost_bookings"),
        [org for org, _ in bookings],
        [appointment_id for _, appointment_id in bookings],
        [None] * len(bookings),
    )
    return {row["wanted_id"]: row["data"] for row in rows if _is_own(row) and row["status"] != Status.VOID}


async def outcomes_of(connection: Any, bookings: list[NewBooking], rows: Sequence[Any]) -> list[Committed]:
    """What became of each booking, from what the statement returned; asks about those that did not take."""
    taken = {row["appointment_id"] for row in rows if not row["fenced"]}
    fenced = {row["appointment_id"] for row in rows if row["fenced"]}
    lost = [b for b in bookings if b.appointment.appointment_id not in taken]
    reasons = await _explain(connection, lost, fenced) if lost else {}
    done = Committed(CommitOutcome.TAKEN)
    return [done if b.appointment.appointment_id in taken else reasons[b.appointment.appointment_id] for b in bookings]


async def _explain(connection: Any, lost: list[NewBooking], fenced: Collection[UUID]) -> dict[UUID, Committed]:
    """Why each booking's row did not take; a row of its own id means that an earlier attempt did."""
    rows = await connection.fetch(
        statement("find_lost_bookings"),
        [b.appointment.org for b in lost],
        [b.appointment.appointment_id for b in lost],
        [b.idempotency_key for b in lost],
    )
    found = {
        b.appointment.appointment_id: Committed(
            CommitOutcome.FENCED if b.appointment.appointment_id in fenced else CommitOutcome.LOST
        )
        for b in lost
    }
    # What is said last counts: its own row before a booking's of the same key, before another write's.
    for row in sorted(rows, key=lambda row: (row["appointment_id"] is not None) + _is_own(row)):
        if row["held"]:
            found[row["wanted_id"]] = Committed(CommitOutcome.HELD)
        elif not _is_own(row):
            found[row["wanted_id"]] = Committed(CommitOutcome.REPEATED, row["fingerprint"], row["data"])
        elif row["status"] == Status.VOID:
            found[row["wanted_id"]] = Committed(CommitOutcome.EXPIRED)
        else:
            found[row["wanted_id"]] = Committed(CommitOutcome.TAKEN, row["fingerprint"], row["data"])
    return found


def _is_own(row: Any) -> bool:
    return row["wanted_id"] == row["appointment_id"]


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
                booking.epoch,
                booking.revision,
            )
        )
    # `unnest` fills up shorter arrays with nulls, and the driver looks at every element, a null too.
    return tuple(
        list(column) if any(value is not None for value in column) else [] for column in zip(*rows, strict=True)
    )
