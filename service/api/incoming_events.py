"""Incoming calendar events over HTTP: listing and replaying them, and the secret they are signed with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import orjson

from service.api.endpoint import Call, Route
from service.api.parsing import query_word
from service.api.people_shapes import PAGE_PARAMETERS, cursor_of, page_size, row_before, unknown_cursor
from service.api.response import Response
from service.api.shapes import EventState
from service.db.deliveries import IncomingEvent, IncomingStore
from service.db.incoming_log import IncomingLog, IncomingPlace, IncomingState
from service.domain.appointment import show_time
from service.errors import NotFound, StateConflict
from service.operations.check_sender import CheckSender, NewSecret
from service.operations.tracking import TrackedTasks

STATES = ("received", "processed", "retrying", "dead")
JSON = "application/json"
_KIND = "webhook-event"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class IncomingShape(msgspec.Struct, frozen=True, kw_only=True):
    """An incoming event; `attempts` counts from the last of `replays`."""

    event_id: str
    event_type: str
    state: Literal["received", "processed", "retrying", "dead"]
    attempts: int
    error: str | None
    replays: int
    received_at: datetime
    processed_at: datetime | None


class IncomingPage(msgspec.Struct, frozen=True):
    """Incoming events, newest first."""

    events: list[IncomingShape]
    next_cursor: str | None


class CalendarSecretShape(msgspec.Struct, frozen=True):
    """A new secret, shown this once, and until when the one before it counts."""

    secret: str
    previous_valid_until: datetime | None


class IncomingEventRoutes:
    """Handlers of /api/webhooks/events and /api/webhooks/calendar-secret."""

    def __init__(
        self, log: IncomingLog, incoming: IncomingStore, check_sender: CheckSender, tasks: TrackedTasks
    ) -> None:
        self._log = log
        self._incoming = incoming
        self._check_sender = check_sender
        self._tasks = tasks

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="GET",
                path="/api/webhooks/events",
                operation_id="list_calendar_events",
                summary="Incoming events, newest first, page by page",
                handler=self.page,
                scope="read",
                tag="webhooks",
                answer=IncomingPage,
                parameters=(*PAGE_PARAMETERS, ("state", "only " + ", ".join(STATES[:-1]) + " or " + STATES[-1])),
            ),
            Route(
                method="POST",
                path="/api/webhooks/events/<event_id>/replay",
                operation_id="replay_calendar_event",
                summary="Work on a dead event again",
                handler=self.replay,
                scope="write",
                tag="webhooks",
                idempotency="optional",
                answer=EventState,
                status=202,
                errors=(404, 409),
            ),
            Route(
                method="POST",
                path="/api/webhooks/calendar-secret",
                operation_id="rotate_calendar_secret",
                summary="Make the secret that calendar events are signed with",
                handler=self.rotate,
                scope="admin",
                tag="webhooks",
                idempotency="optional",
                answer=CalendarSecretShape,
                status=201,
            ),
        ]

    async def page(self, call: Call) -> Response:
        """GET /api/webhooks/events"""
        query = call.query
        state = query_word("state", query["state"], STATES) if "state" in query else None
        most = page_size(query)
        found = await self._log.page(call.who.org, state, _before(query), most + 1)
        more = _cursor(found[most - 1]) if len(found) > most else None
        shown = {"events": [_shown(one) for one in found[:most]], "next_cursor": more}
        return Response(orjson.dumps(shown), content_type=JSON)

    async def replay(self, call: Call) -> Response:
        """POST /api/webhooks/events/{event_id}/replay"""
        org, event_id = call.who.org, call.path["event_id"]
        if not event_id.isprintable():
            raise NotFound(f"no event {event_id[:64]!r}")
        asked = await self._tasks.run(self._log.replay(org, event_id, call.completing(_replayed)))
        if asked is not None:
            return _replayed(asked)
        found = await self._incoming.get(org, event_id)
        if found is None:
            raise NotFound(f"no event {event_id[:64]!r}")
        raise StateConflict("only a dead event can be replayed", details={"state": found.state})

    async def rotate(self, call: Call) -> Response:
        """POST /api/webhooks/calendar-secret"""
        return _rotated(await self._check_sender.rotate(call.who.org, complete=call.completing(_rotated)))


def _replayed(event: IncomingEvent) -> Response:
    shown = {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "state": event.state,
        "attempts": event.attempts,
        "error": event.error,
    }
    return Response(orjson.dumps(shown), 202, content_type=JSON)


def _rotated(made: NewSecret) -> Response:
    shown = {"secret": made.text, "previous_valid_until": show_time(made.previous_valid_until, None)}
    return Response(orjson.dumps(shown), 201, {"Cache-Control": "no-store"}, JSON)


def _shown(one: IncomingState) -> dict[str, Any]:
    return {
        "event_id": one.event_id,
        "event_type": one.event_type,
        "state": one.state,
        "attempts": one.attempts,
        "error": one.error,
        "replays": one.replays,
        "received_at": show_time(one.received_at, None),
        "processed_at": show_time(one.processed_at, None),
    }


def _cursor(last: IncomingState) -> str:
    return cursor_of(_KIND, f"{(last.received_at - _EPOCH) // _MICROSECOND}/{last.event_id}")


def _before(query: Mapping[str, str]) -> IncomingPlace | None:
    last = row_before(_KIND, query)
    if last is None:
        return None
    micros, _, event_id = last.partition("/")
    try:
        place = IncomingPlace(_EPOCH + int(micros) * _MICROSECOND, event_id)
    except (ValueError, OverflowError):
        raise unknown_cursor() from None
    if not event_id.isprintable():
        raise unknown_cursor()
    return place
