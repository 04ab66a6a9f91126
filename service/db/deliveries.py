"""Deliveries, incoming events, kept answers and external busy times in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.domain.event import Event, EventRef, EventType

LONGEST_ANSWER = 1024
MOST_AHEAD = 600
_TYPES = frozenset(EventType)


class DueEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to be delivered: whether it already was or was given up, and whether it must wait for an earlier one.

    `earlier_reference` is what the receiver last called the appointment, at the event `earlier_sequence` and under the
    coach it then had, `own_reference` what it called this very event before a replay; `attempts` are those recorded
    since the last of `replays`, `error` is what went wrong in the last of them. A replay is `outdated` where the
    destination was to hear of something later too.
    """

    event: Event
    delivered: bool
    must_wait: bool
    earlier_reference: str | None
    earlier_coach_id: str | None
    earlier_sequence: int = 0
    own_reference: str | None = None
    attempts: int = 0
    replays: int = 0
    outdated: bool = False
    dead: bool = False
    error: str | None = None


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A committed event of a type that this version does not know: a newer one wrote it."""

    type: str


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call that was made: when, how long it took, and the first kilobyte of the answer or what went wrong."""

    made_at: datetime
    duration_ms: int
    answer: str | None


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where one event's delivery to one destination stands, and the call that led there.

    `replays` is how many were known when the attempt began: a replay that was asked for since is not concluded by it.
    """

    ref: EventRef
    destination: str
    state: str
    attempts: int
    status: int | None
    error: str | None
    reference: str | None
    replays: int = 0
    tried: AttemptRecord | None = None


class IncomingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted event of the outside: what it said and where its processing stands.

    It must wait while so many earlier ones about the same appointment, or the same coach, are `ahead` of it, not
    finished (at most MOST_AHEAD are counted); `held_up`: one of them is being tried again.
    """

    org: int
    event_id: str
    event_type: str
    body: bytes
    correlation_id: str
    state: str
    attempts: int
    error: str | None
    replays: int = 0
    ahead: int = 0
    held_up: bool = False


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the idempotency stream says of a booking's key; the answer itself is the appointment's first event."""

    org: int
    key: str
    fingerprint: bytes
    status: int
    appointment_id: UUID | None


class DeliveryStore:
    """The ledger of what was heard by whom."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(
        self, refs: Sequence[EventRef], destination: str, types: Sequence[EventType], endpoint_id: UUID | None = None
    ) -> dict[EventRef, DueEvent | UnknownEvent]:
        """The committed events among `refs`; one that was never committed is missing and must not be announced.

        `types` are the event types the destination hears, so that an event it never hears holds nothing up; an
        endpoint, `endpoint_id`, waits for none that was committed before it heard of its type.
        """
        rows = await self._database.fetch(
            "load_events",
            [ref.org for ref in refs],
            [ref.appointment_id for ref in refs],
            [ref.sequence for ref in refs],
            destination,
            [kind.value for kind in types],
            endpoint_id,
        )
        found: dict[EventRef, DueEvent | UnknownEvent] = {}
        for row in rows:
            ref = EventRef(row["org_id"], UUID(int=row["appointment_id"].int), row["sequence"])
            if row["type"] not in _TYPES:
                found[ref] = UnknownEvent(type=row["type"])
                continue
            found[ref] = DueEvent(
                event=Event(
                    ref=ref,
                    type=EventType(row["type"]),
                    occurred_at=row["occurred_at"],
                    actor=row["actor"],
                    correlation_id=row["correlation_id"],
                    reason=row["reason"],
                    data=row["data"],
                ),
                delivered=row["delivery_state"] == "delivered",
                must_wait=row["must_wait"],
                earlier_reference=row["earlier_reference"],
                earlier_coach_id=row["earlier_coach_id"],
                earlier_sequence=row["earlier_sequence"] or 0,
                own_reference=row["own_reference"],
                attempts=row["attempts"],
                replays=row["replays"],
                outdated=row["outdated"],
                dead=row["delivery_state"] == "dead",
                error=row["delivery_error"],
            )
        return found

    async def end(self, refs: Sequence[EventRef], destination: str, why: str) -> None:
        """Let deliveries that are on their way to a destination end as dead, because nobody is to hear of them."""
        await self._database.write(
            "end_deliveries",
            [ref.org for ref in refs],
            [ref.appointment_id for ref in refs],
            [ref.sequence for ref in refs],
            destination,
            why,
        )

    async def note_release(
        self, ref: EventRef, destination: str, block_id: str, believed_after: int, types: Sequence[EventType]
    ) -> list[UUID]:
        """`block_id`, the block an event's delivery made, is released: forget it. Raises Unavailable or OutcomeUnknown.

        Who has the time now and was told that it is blocked already is told of anew: the latest event of these `types`
        of each appointment there, unless fewer than `believed_after` attempts were made. Which appointments those are.
        """
        rows: list[Any] = await self._database.write(
            "note_release",
            ref.org,
            ref.appointment_id,
            ref.sequence,
            destination,
            block_id,
            believed_after,
            [kind.value for kind in types],
        )
        return [UUID(int=row["appointment_id"].int) for row in rows]

    async def record(self, records: Sequence[DeliveryRecord]) -> None:
        """Write where deliveries stand, and every attempt; one row a delivery.

        Of several `records` of one counts what would stand after one statement for each: the last that belongs to the
        latest replay, unless it was delivered before. What the receiver called it counts from whichever says it.
        """
        by_rank = sorted(records, key=lambda r: (r.replays, r.state == "delivered"))
        latest = {(r.ref, r.destination): r for r in by_rank}.values()
        named = {(r.ref, r.destination): r.reference for r in by_rank if r.reference is not None}
        tried = [(r, r.tried) for r in records if r.tried is not None]
        await self._database.write(
            "record_deliveries",
            [r.ref.org for r in latest],
            [r.ref.appointment_id for r in latest],
            [r.ref.sequence for r in latest],
            [r.destination for r in latest],
            [r.state for r in latest],
            [r.attempts for r in latest],
            [r.status for r in latest],
            [None if r.error is None else r.error[:1000] for r in latest],
            [named.get((r.ref, r.destination)) for r in latest],
            [r.replays for r in latest],
            [r.ref.org for r, _ in tried],
            [r.ref.appointment_id for r, _ in tried],
            [r.ref.sequence for r, _ in tried],
            [r.destination for r, _ in tried],
            [one.made_at for _, one in tried],
            [r.replays for r, _ in tried],
            [r.attempts for r, _ in tried],
            [r.state for r, _ in tried],
            [r.status for r, _ in tried],
            [one.duration_ms for _, one in tried],
            [None if one.answer is None else one.answer[:LONGEST_ANSWER] for _, one in tried],
        )


def incoming_event(row: Any) -> IncomingEvent:
    """An accepted event from its row."""
    return IncomingEvent(
        org=row["org_id"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        body=row["body"],
        correlation_id=row["correlation_id"],
        state=row["state"],
        attempts=row["attempts"],
        error=row["error"],
        replays=row["replays"],
        ahead=row["ahead"],
        held_up=row["held_up"],
    )


class IncomingStore:
    """Events of the outside, one row for each identity."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(
        self, org: int, event_id: str, event_type: str, body: bytes, correlation_id: str, concerns: str | None
    ) -> bool:
        """Keep an event; False when its identity is known already.

        Those that say they concern the same have their turns in the order in which they were kept.
        """
        return bool(
            await self._database.write(
                "accept_webhook_event", org, event_id, event_type, body, correlation_id, concerns
            )
        )

    async def get(self, org: int, event_id: str) -> IncomingEvent | None:
        """One event of the organization, or None."""
        row = await self._database.first("get_webhook_event", org, event_id, MOST_AHEAD)
        return None if row is None else incoming_event(row)

    async def mark(
        self, org: int, event_id: str, state: str, attempts: int, error: str | None, *, replays: int = 0
    ) -> None:
        """Write where an event's processing stands; a processed one stays processed, and so does a later replay."""
        await self._database.write("mark_webhook_event", org, event_id, state, attempts, error, replays)

    async def unfinished(self, org: int, before: datetime, most: int) -> list[str]:
        """Ids of events accepted before `before` and not finished, oldest first."""
        rows = await self._database.fetch("unfinished_webhook_events", org, before, most)
        return [row["event_id"] for row in rows]


class AnswerStore:
    """Which keys stand for bookings, among those of every other write."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, answers: Sequence[KeptAnswer]) -> None:
        """Keep answers; those already kept stay as they are."""
        await self._database.write(
            "save_answers",
            [a.org for a in answers],
            [a.key for a in answers],
            [a.fingerprint for a in answers],
            [a.status for a in answers],
            [a.appointment_id for a in answers],
        )


class BusyStore:
    """What external calendars say."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def coaches(self, org: int, after: int, most: int) -> list[tuple[int, str]]:
        """(column, coach id) of at most so many active coaches of an organization, by column, behind `after`."""
        rows = await self._database.fetch("coaches_to_sync", org, after, most)
        return [(row["coach_no"], row["coach_id"]) for row in rows]

    async def own_appointments(
        self, org: int, column: int, start: datetime, end: datetime
    ) -> list[tuple[datetime, datetime]]:
        """Our own live appointments of the coach that touch [start, end)."""
        rows: list[Any] = await self._database.fetch("own_appointments_of_coach", org, column, start, end)
        return [(row["starts_at"], row["ends_at"]) for row in rows]

    async def replace(
        self, org: int, column: int, start: datetime, end: datetime, busy: Sequence[tuple[datetime, datetime]]
    ) -> list[tuple[datetime, datetime]]:
        """Make [start, end) of the coach busy exactly at `busy`; returns the periods that came or went."""
        rows: list[Any] = await self._database.write(
            "replace_external_busy", org, column, start, end, [a for a, _ in busy], [b for _, b in busy]
        )
        return [(row["starts_at"], row["ends_at"]) for row in rows]
