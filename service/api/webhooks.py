"""Calendar webhooks over HTTP: taken at once, each identity once, processed by the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from service.api.endpoint import Call, Route
from service.api.parsing import decode_body, idempotency_key, instant, refuse_nul, uuid_of
from service.api.response import Response
from service.api.shapes import CalendarEvent, EventAccepted, EventState
from service.db.deliveries import IncomingStore
from service.errors import InvalidRequest, NotAuthenticated, NotFound
from service.operations.accept_calendar_event import AcceptCalendarEvent
from service.operations.check_sender import CheckSender
from service.operations.time_off import check_period
from service.operations.tracking import TrackedTasks
from service.operations.treat_appointments import Existing

_DECODER = msgspec.json.Decoder(CalendarEvent)
_WHOLE = msgspec.json.Decoder(dict[str, Any])  # fields nobody reads are kept, so they must be sound too
_OF_APPOINTMENT = frozenset(
    {
        "appointment.cancelled",
        "appointment.confirmed",
        "appointment.updated",
        "appointment.completed",
        "appointment.no_show",
    }
)
_OF_COACH = frozenset({"coach.unavailable", "coach.available"})
LONGEST_ID = 255


class WebhookRoutes:
    """Handlers of /api/webhooks/calendar and /api/webhooks/events/{event_id}.

    `count_failure` says how long an address must wait that has sent what was not signed, in seconds.
    """

    def __init__(
        self,
        accept: AcceptCalendarEvent,
        incoming: IncomingStore,
        check_sender: CheckSender,
        count_failure: Callable[[str], float],
        tasks: TrackedTasks,
    ) -> None:
        self._accept = accept
        self._incoming = incoming
        self._check_sender = check_sender
        self._count_failure = count_failure
        self._tasks = tasks

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="POST",
                path="/api/webhooks/calendar",
                operation_id="accept_calendar_event",
                summary="Take an event of the external calendar",
                handler=self.accept,
                scope="write",
                tag="webhooks",
                body=CalendarEvent,
                body_required=True,
                answer=EventAccepted,
                idempotency="required",
            ),
            Route(
                method="POST",
                path="/api/webhooks/calendar/<organization>",
                operation_id="accept_signed_calendar_event",
                summary="Take an event of the external calendar that is signed instead of sent with a key",
                handler=self.accept_signed,
                scope=None,
                signed=True,
                tag="webhooks",
                body=CalendarEvent,
                body_required=True,
                answer=EventAccepted,
            ),
            Route(
                method="GET",
                path="/api/webhooks/events/<event_id>",
                operation_id="get_calendar_event",
                summary="Where an event's processing stands",
                handler=self.state,
                scope="read",
                tag="webhooks",
                answer=EventState,
                errors=(404,),
            ),
        ]

    async def accept(self, call: Call) -> Response:
        """POST /api/webhooks/calendar"""
        event = _event(call.body)
        identity = idempotency_key(call.request.headers) or call.header("webhook-id") or event.event_id
        if not identity:
            raise InvalidRequest(
                [("X-Idempotency-Key", "is required (or a webhook-id header, or event_id in the body)")]
            )
        return await self._take(call, call.who.org, identity, event, "event_id")

    async def accept_signed(self, call: Call) -> Response:
        """POST /api/webhooks/calendar/{organization}"""
        identity = call.header("webhook-id") or ""
        try:
            org = await self._check_sender(
                call.path["organization"],
                message_id=identity,
                timestamp=call.header("webhook-timestamp") or "",
                signatures=call.header("webhook-signature") or "",
                body=call.body,
            )
        except NotAuthenticated as problem:
            wait_s = self._count_failure(call.request.remote_addr or call.request.ip)
            raise NotAuthenticated(problem.message, wait_s=wait_s) from problem
        return await self._take(call, org, identity, _event(call.body), "webhook-id")

    async def _take(self, call: Call, org: int, identity: str, event: CalendarEvent, named: str) -> Response:
        if not 1 <= len(identity) <= LONGEST_ID or not identity.isprintable():
            raise InvalidRequest([(named, f"must be 1 to {LONGEST_ID} printable characters")])
        _check(event)
        new = await self._tasks.run(self._accept(org, identity, event.event_type, call.body, call.correlation_id))
        return Response(
            orjson.dumps({"received": True, "event_id": identity}),
            headers={} if new else {"Idempotent-Replayed": "true"},
            content_type="application/json",
        )

    async def state(self, call: Call) -> Response:
        """GET /api/webhooks/events/{event_id}"""
        event_id = call.path["event_id"]
        found = await self._incoming.get(call.who.org, event_id) if event_id.isprintable() else None
        if found is None:
            raise NotFound(f"no event {event_id[:64]!r}")
        return Response(
            orjson.dumps(
                {
                    "event_id": found.event_id,
                    "event_type": found.event_type,
                    "state": found.state,
                    "attempts": found.attempts,
                    "error": found.error,
                }
            ),
            content_type="application/json",
        )


def _event(body: bytes) -> CalendarEvent:
    event = decode_body(body, _DECODER)
    refuse_nul(decode_body(body, _WHOLE))
    return event


def _check(event: CalendarEvent) -> None:
    """Raise InvalidRequest for an unknown type, a missing field of its type, or one that cannot be."""
    kind = event.event_type
    if kind in _OF_APPOINTMENT:
        _check_appointment(event)
    elif kind in _OF_COACH:
        _check_coach(event)
    else:
        known = ", ".join(sorted(_OF_APPOINTMENT | _OF_COACH))
        raise InvalidRequest([("event_type", f"must be one of {known}")])


def _check_appointment(event: CalendarEvent) -> None:
    if event.appointment_id is None:
        raise InvalidRequest([("appointment_id", f"is required by {event.event_type}")])
    try:
        uuid_of(event.appointment_id, "appointment")
    except NotFound:
        raise InvalidRequest([("appointment_id", "is not an appointment's id")]) from None
    if event.event_type == "appointment.updated":
        _check_times(event)


def _check_coach(event: CalendarEvent) -> None:
    for name in ("coach_id", "start_time", "end_time"):
        if getattr(event, name) is None:
            raise InvalidRequest([(name, f"is required by {event.event_type}")])
    _check_times(event)
    if event.existing not in (None, *Existing):
        raise InvalidRequest([("existing", "must be one of " + ", ".join(Existing))])


def _check_times(event: CalendarEvent) -> None:
    """Times, where there are any, are instants and in order; a period of time off is no longer than may be."""
    times = {name: getattr(event, name) for name in ("start_time", "end_time")}
    for name, value in times.items():
        if value is not None and value.tzinfo is None:
            raise InvalidRequest([(name, "needs an offset")])
    start, end = (None if value is None else instant(name, value, None) for name, value in times.items())
    if start is None or end is None:
        return
    if event.event_type == "coach.unavailable":
        check_period(start, end)
    elif end <= start:
        raise InvalidRequest([("end_time", "must be after start_time")])
