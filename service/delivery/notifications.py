"""Telling the contact of an appointment: by e-mail, or into the log where no mail server is set.

A message is made of its event and the names of the moment. It is the same at every attempt, unless somebody renamed
a coach or a calendar in between; its Message-ID is the same in any case.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from service.clock import Clock
from service.db.deliveries import DueEvent
from service.db.notifications import Circumstances, NotificationStore
from service.delivery.destinations import Outcome, Told, hears
from service.delivery.letter import Sender, letter
from service.domain import event as events
from service.domain.event import Event
from service.domain.notification import Kind, Notice, kind_of, one_line
from service.domain.zones import zone
from service.errors import Unavailable
from service.logs import get_logger
from service.outside.smtp import Smtp

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]

_log = get_logger("delivery.notifications")


class _Seen(msgspec.Struct, frozen=True):
    """What a notification reads of an event's appointment. Its times may carry any offset."""

    appointment_id: str
    calendar_id: str
    coach_id: str
    contact_email: str
    contact_name: str | None
    start_time: _Instant
    end_time: _Instant
    timezone: str


class _Times(msgspec.Struct, frozen=True):
    start_time: _Instant
    end_time: _Instant


class LoggedNotifications:
    """Writes a line for each notification, which then counts as sent. It says no more than there is in the event."""

    name = events.Destination.NOTIFICATIONS.value
    types = hears(events.Destination.NOTIFICATIONS)

    async def tell(self, due: DueEvent) -> Told:
        """One line of the log."""
        event, seen = due.event, _seen(due.event)
        _log.info(
            "notification",
            kind=_kind(event).value,
            to=seen.contact_email,
            appointment_id=seen.appointment_id,
            coach_id=seen.coach_id,
            start_time=seen.start_time.isoformat(),
            event_id=event.ref.event_id,
            correlation_id=event.correlation_id,
        )
        return Told(outcome=Outcome.DELIVERED)


class MailedNotifications:
    """Sends an e-mail with a calendar file for each notification."""

    name = events.Destination.NOTIFICATIONS.value
    types = hears(events.Destination.NOTIFICATIONS)

    def __init__(self, *, smtp: Smtp, sender: Sender, store: NotificationStore, clock: Clock) -> None:
        self._smtp = smtp
        self._sender = sender
        self._store = store
        self._clock = clock

    async def tell(self, due: DueEvent) -> Told:
        """One attempt at handing the message to the mail server."""
        event, seen = due.event, _seen(due.event)
        if _kind(event) is Kind.REMINDER and seen.start_time <= self._clock.now():
            return Told(outcome=Outcome.REFUSED, error="too late: the appointment has begun", called=False)
        try:
            around = await self._store.circumstances(event.ref, coach_id=seen.coach_id, calendar_id=seen.calendar_id)
        except Unavailable as problem:
            return Told(outcome=Outcome.FAILED, error=problem.message, called=False)
        notice = _notice(event, seen, around)
        try:
            message = letter(
                notice, self._sender, seen.contact_email, event.ref, event.occurred_at, event.correlation_id
            )
        except ValueError:
            return Told(outcome=Outcome.REFUSED, error="no message can be made for this address", called=False)
        made = await self._smtp.hand_over(self._sender.address, seen.contact_email, message)
        if made.accepted:
            return Told(outcome=Outcome.DELIVERED, status=made.code)
        outcome = Outcome.REFUSED if made.refused else Outcome.FAILED
        return Told(outcome=outcome, status=made.code, error=made.why, unwell=made.unwell)


def _seen(event: Event) -> _Seen:
    return msgspec.json.decode(event.data, type=_Seen)


def _kind(event: Event) -> Kind:
    kind = kind_of(event.type)
    if kind is None:
        raise AssertionError(f"{event.type} is no notification")
    return kind


def _notice(event: Event, seen: _Seen, around: Circumstances) -> Notice:
    before = None if around.earlier is None else msgspec.json.decode(around.earlier, type=_Times)
    return Notice(
        kind=_kind(event),
        appointment_id=seen.appointment_id,
        contact_name=one_line(seen.contact_name or "") or None,
        calendar_name=one_line(around.calendar_name),
        coach_name=one_line(around.coach_name),
        start=seen.start_time,
        end=seen.end_time,
        zone=zone(seen.timezone),
        earlier_start=None if before is None else before.start_time,
        earlier_end=None if before is None else before.end_time,
        earlier_coach_name=None if around.earlier_coach_name is None else one_line(around.earlier_coach_name),
    )
