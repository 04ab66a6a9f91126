"""Whom the built-in deliveries go to, and what each of them is told.

A destination makes one attempt at a time and says what came of it; when to try again is the dispatcher's. The
key of an event is the same at every attempt, and so is every byte of what is sent under it.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Protocol

import msgspec

from service.db.deliveries import DeliveryStore, DueEvent
from service.db.rosters import RosterStore
from service.delivery.patience import patiently
from service.domain import event as events
from service.domain.event import Event, EventRef, EventType
from service.outside.calendar_api import AlreadyBlocked, Blocked, CalendarApi, NotDone
from service.outside.crm import Crm, CrmCancelled, CrmCreated, CrmUpdated
from service.outside.http import Attempt

LONGEST_REFERENCE = 255
# The calendar says now and then that a time is blocked which is not.
_BELIEVED_AFTER = 3


class Outcome(StrEnum):
    """What came of an attempt. failed: it may go better later. refused: it never will."""

    DELIVERED = "delivered"
    FAILED = "failed"
    REFUSED = "refused"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's end.

    `reference` is what the receiver calls it, `answer` the first kilobyte of what it said; `unwell` says whether
    it seems to be in trouble, `called` whether it was called at all.
    """

    outcome: Outcome
    status: int | None = None
    error: str | None = None
    reference: str | None = None
    answer: str | None = None
    retry_after_ms: int | None = None
    unwell: bool = False
    called: bool = True

    @classmethod
    def of(cls, made: Attempt, *, reference: str | None = None) -> Told:
        """What an HTTP attempt means for a delivery."""
        if made.succeeded:
            return cls(outcome=Outcome.DELIVERED, status=made.status, reference=reference, answer=made.excerpt)
        return cls(
            outcome=Outcome.REFUSED if made.refused else Outcome.FAILED,
            status=made.status,
            error=made.why,
            answer=made.excerpt if made.status is not None else made.why,
            retry_after_ms=made.retry_after_ms,
            unwell=made.unwell,
        )


class Destination(Protocol):
    """Somebody who hears of events."""

    name: str
    """Of its stream, its deliveries and its metrics."""
    types: tuple[EventType, ...]
    """What it hears of."""

    async def tell(self, due: DueEvent) -> Told:
        """One attempt at telling it of an event."""
        ...


class _Told(msgspec.Struct, frozen=True):
    """What destinations read of an event's appointment. Its times may carry any offset."""

    appointment_id: str
    coach_id: str
    contact_id: str
    start_time: Annotated[datetime, msgspec.Meta(tz=True)]
    end_time: Annotated[datetime, msgspec.Meta(tz=True)]
    status: str


def hears(destination: events.Destination) -> tuple[EventType, ...]:
    """The event types a built-in destination hears of."""
    return tuple(kind for kind in EventType if destination in events.heard_by(kind, calendar=True, endpoints=True))


class CrmDestination:
    """Tells the CRM of every change: made, cancelled, or anything else as an update of the status."""

    name = events.Destination.CRM.value
    types = hears(events.Destination.CRM)

    def __init__(self, crm: Crm) -> None:
        self._crm = crm

    async def tell(self, due: DueEvent) -> Told:
        """One webhook under the event's id."""
        event = due.event
        seen = _appointment(event)
        key, thread = event.ref.event_id, event.correlation_id
        match event.type:
            case EventType.CREATED:
                made = await self._crm.created(
                    CrmCreated(
                        appointment_id=seen.appointment_id,
                        coach_id=seen.coach_id,
                        start_time=seen.start_time.astimezone(UTC),
                        end_time=seen.end_time.astimezone(UTC),
                        client_id=seen.contact_id,
                    ),
                    key,
                    thread,
                )
            case EventType.CANCELLED:
                cancelled = CrmCancelled(appointment_id=seen.appointment_id, reason=event.reason)
                made = await self._crm.cancelled(cancelled, key, thread)
            case _:
                updated = CrmUpdated(appointment_id=seen.appointment_id, status=seen.status)
                made = await self._crm.updated(updated, key, thread)
        crm_id = made.json().get("crm_id")
        return Told.of(made, reference=_reference(crm_id))


_NOTHING_TO_SAY = Told(outcome=Outcome.DELIVERED, called=False)


class CalendarDestination:
    """Keeps the external calendar blocked where we have appointments with coaches it knows, those of one organization.

    The id of a block is the delivery's reference, so the event that ends it can find it. That a time is blocked there
    already is believed when it is said again and again: then it is as good as blocked by us, only that we have no id
    to release it by. When the block turns out to be that of an appointment which was there before, it is asked anew.
    """

    name = events.Destination.CALENDAR.value
    types = hears(events.Destination.CALENDAR)

    def __init__(
        self,
        calendar: CalendarApi,
        deliveries: DeliveryStore,
        rosters: RosterStore,
        *,
        attempts: int,
        chance: random.Random,
    ) -> None:
        """`attempts` is the most that are made."""
        self._calendar = calendar
        self._deliveries = deliveries
        self._rosters = rosters
        self._believed_after = min(_BELIEVED_AFTER, attempts)
        self._chance = chance

    async def tell(self, due: DueEvent) -> Told:
        """Block what was made, release what was cancelled, and both for what was moved."""
        match due.event.type:
            case EventType.CREATED:
                # A replay of what was moved or cancelled since would block a time that nobody ever releases.
                return _NOTHING_TO_SAY if due.outdated else await self._block(due)
            case EventType.CANCELLED:
                return await self._release_earlier(due)
            case _:
                released = await self._release_earlier(due)
                if released.outcome is Outcome.FAILED or due.outdated:
                    return released
                blocked = await self._block(due)
                if blocked.outcome is Outcome.DELIVERED and released.outcome is Outcome.REFUSED:
                    # It is a dead letter for its old time; the new one is blocked all the same.
                    return msgspec.structs.replace(released, reference=blocked.reference)
                return blocked

    async def _block(self, due: DueEvent) -> Told:
        seen = _appointment(due.event)
        if not await self._knows(due.event.ref.org):
            return _NOTHING_TO_SAY  # enqueued where nobody could say so, or by a release that did not ask
        if due.own_reference is not None:
            # A replay: a calendar that forgot the block makes another, one that did not would have two.
            released = await self._release(due, due.event.ref, seen.coach_id, due.own_reference)
            if released.outcome is not Outcome.DELIVERED:
                return released
        result = await self._calendar.block(
            seen.coach_id,
            seen.start_time.astimezone(UTC),
            seen.end_time.astimezone(UTC),
            correlation_id=due.event.correlation_id,
        )
        match result:
            case Blocked(block_id, made):
                return Told.of(made, reference=_reference(block_id))
            case AlreadyBlocked(made) if due.attempts + 1 >= self._believed_after:
                return Told(outcome=Outcome.DELIVERED, status=made.status, answer=made.excerpt)
            case AlreadyBlocked(made) | NotDone(made):
                return Told.of(made)

    async def _release_earlier(self, due: DueEvent) -> Told:
        coach_id, block_id = due.earlier_coach_id, due.earlier_reference
        if coach_id is None or block_id is None:
            return _NOTHING_TO_SAY
        earlier = msgspec.structs.replace(due.event.ref, sequence=due.earlier_sequence)
        return await self._release(due, earlier, coach_id, block_id)

    async def _release(self, due: DueEvent, blocked_by: EventRef, coach_id: str, block_id: str) -> Told:
        result = await self._calendar.release(coach_id, block_id, correlation_id=due.event.correlation_id)
        if isinstance(result, NotDone):
            return Told.of(result.made)
        # Somebody may have booked the time, and been told that it is blocked, before it was released.
        await patiently(
            "note a release",
            lambda: self._deliveries.note_release(blocked_by, self.name, block_id, self._believed_after, self.types),
            self._chance,
        )
        return Told(outcome=Outcome.DELIVERED, status=result.made.status, answer=result.made.excerpt)

    async def _knows(self, org: int) -> bool:
        return await patiently(
            "look the calendar's organization up", lambda: self._rosters.in_calendar(org), self._chance
        )


def _reference(value: object) -> str | None:
    """What a receiver calls it, if that is a name that can be kept."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_REFERENCE else None


def _appointment(event: Event) -> _Told:
    return msgspec.json.decode(event.data, type=_Told)
