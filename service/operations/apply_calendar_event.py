"""Applying an accepted event of the external calendar to the appointment it names."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from service.db.deliveries import IncomingEvent
from service.errors import InvalidRequest
from service.operations.change import ChangeAppointment

ACTOR = "calendar"


class ApplyCalendarEvent:
    """Does what an event says. What it says may have been done before: then there is nothing to do."""

    def __init__(self, change: ChangeAppointment) -> None:
        self._change = change

    async def __call__(self, event: IncomingEvent) -> None:
        """Apply one event.

        Raises NotFound, StateConflict or InvalidRequest when it never can be applied, Unavailable or
        OutcomeUnknown when it should be tried again.
        """
        body = _body(event)
        match event.event_type:
            case "appointment.cancelled":
                reason = body.get("reason")
                await self._change.cancel(
                    event.org,
                    _appointment_id(body),
                    reason=reason if isinstance(reason, str) else None,
                    actor=ACTOR,
                    correlation_id=event.correlation_id,
                )
            case "appointment.confirmed":
                await self._change.confirm(
                    event.org, _appointment_id(body), actor=ACTOR, correlation_id=event.correlation_id
                )
            case other:
                raise InvalidRequest([("event_type", f"{other} is not supported yet")])


def _body(event: IncomingEvent) -> dict[str, Any]:
    try:
        return msgspec.json.decode(event.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest([("body", "is not a JSON object")]) from None


def _appointment_id(body: dict[str, Any]) -> UUID:
    text = body.get("appointment_id")
    if not isinstance(text, str):
        raise InvalidRequest([("appointment_id", "is missing")])
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest([("appointment_id", "is not an appointment's id")]) from None
