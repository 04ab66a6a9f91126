"""Applying an accepted event of the external calendar: to the appointment it names, or to a coach's time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET

from service.db.deliveries import IncomingEvent
from service.domain.appointment import Status
from service.errors import InvalidRequest, Unavailable
from service.operations.change import ChangeAppointment
from service.operations.move import MoveAppointment
from service.operations.plan_move import MoveWish
from service.operations.time_off import Absence, TimeOff
from service.operations.treat_appointments import Existing

ACTOR = "calendar"
_PERIODS = UUID("b1d5e5a4-9b0e-5f0c-8a53-5c1c4a3f6e21")


class ApplyCalendarEvent:
    """Does what an event says. Where all is as it says already, there is nothing to do.

    It is not known whether this very event was applied before: one that is applied again, after a crash or beside a
    worker that was thought dead, is done over whatever somebody else changed in between.
    """

    def __init__(self, change: ChangeAppointment, move: MoveAppointment, time_off: TimeOff) -> None:
        self._change = change
        self._move = move
        self._time_off = time_off

    async def __call__(self, event: IncomingEvent) -> None:
        """Apply one event.

        Raises NotFound, StateConflict, SlotUnavailable or InvalidRequest when it cannot be applied, Unavailable or
        OutcomeUnknown when it should be tried again.
        """
        body = _body(event)
        org, thread = event.org, event.correlation_id
        match event.event_type:
            case "appointment.cancelled":
                reason = _text(body, "reason")
                await self._change.cancel(org, _appointment_id(body), reason=reason, actor=ACTOR, correlation_id=thread)
            case "appointment.confirmed":
                await self._change.confirm(org, _appointment_id(body), actor=ACTOR, correlation_id=thread)
            case "appointment.completed" | "appointment.no_show":
                status = Status(event.event_type.removeprefix("appointment."))
                await self._change.finish(org, _appointment_id(body), status, actor=ACTOR, correlation_id=thread)
            case "appointment.updated":
                await self._update(event, body)
            case "coach.unavailable":
                await self._close(event, body)
            case "coach.available":
                start, end = _period(body)
                await self._time_off.reopen(org, _coach_id(body), start, end, event.event_id)
            case other:
                raise InvalidRequest([("event_type", f"{other} is not known")])

    async def _update(self, event: IncomingEvent, body: dict[str, Any]) -> None:
        """Move an appointment, and take over its notes. A calendar also tells of changes that are none to us."""
        wish = MoveWish(
            start_time=_time(body, "start_time"),
            end_time=_time(body, "end_time"),
            coach_id=_text(body, "coach_id"),
            notes=_text(body, "notes") or UNSET,
        )
        await self._move(event.org, _appointment_id(body), wish, actor=ACTOR, correlation_id=event.correlation_id)

    async def _close(self, event: IncomingEvent, body: dict[str, Any]) -> None:
        start, end = _period(body)
        wish = Absence(
            start=start,
            end=end,
            reason=_text(body, "reason"),
            existing=_existing(body),
            source="calendar",
        )
        away = await self._time_off.close(
            event.org,
            _coach_id(body),
            wish,
            actor=ACTOR,
            correlation_id=event.correlation_id,
            # The same at every attempt, so that there is one period, and what is left of it is done.
            time_off_id=uuid5(_PERIODS, f"{event.org}:{event.event_id}"),
        )
        if not away.finished:
            raise Unavailable("not every appointment in the period could be treated")


def _body(event: IncomingEvent) -> dict[str, Any]:
    try:
        return msgspec.json.decode(event.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest([("body", "is not a JSON object")]) from None


def _appointment_id(body: dict[str, Any]) -> UUID:
    text = _needed(body, "appointment_id")
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest([("appointment_id", "is not an appointment's id")]) from None


def _coach_id(body: dict[str, Any]) -> str:
    return _needed(body, "coach_id")


def _period(body: dict[str, Any]) -> tuple[datetime, datetime]:
    start, end = _time(body, "start_time"), _time(body, "end_time")
    if start is None or end is None:
        raise InvalidRequest([("start_time" if start is None else "end_time", "is missing")])
    if end <= start:
        raise InvalidRequest([("end_time", "must be after start_time")])
    return start, end


def _existing(body: dict[str, Any]) -> Existing:
    try:
        return Existing(_text(body, "existing") or Existing.REASSIGN)
    except ValueError:
        raise InvalidRequest([("existing", "must be one of " + ", ".join(Existing))]) from None


def _time(body: dict[str, Any], name: str) -> datetime | None:
    text = body.get(name)
    if text is None:
        return None
    try:
        found = msgspec.convert(text, datetime)
        if found.tzinfo is None:
            raise InvalidRequest([(name, "needs an offset")])
        return found.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise InvalidRequest([(name, "is not a time")]) from None


def _needed(body: dict[str, Any], name: str) -> str:
    text = _text(body, name)
    if text is None:
        raise InvalidRequest([(name, "is missing")])
    return text


def _text(body: dict[str, Any], name: str) -> str | None:
    text = body.get(name)
    return text if isinstance(text, str) else None
