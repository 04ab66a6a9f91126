"""The event feed over HTTP: every committed change, page by page, to be followed from its end."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson

from service.api.endpoint import Call, Route
from service.api.people_shapes import LARGEST_PAGE, USUAL_PAGE, page_size
from service.api.response import Response
from service.api.shapes import AppointmentShape
from service.db.feed import BEGINNING, EventFeed, Place
from service.domain.appointment import in_utc, show_time
from service.domain.event import Event, EventType
from service.errors import InvalidRequest

_CURSOR = re.compile(r"event:(?P<committed>[0-9]{1,20})/(?P<appointment>[0-9a-f]{32})/(?P<sequence>[0-9]{1,9})")
_LARGEST_TRANSACTION = 2**64 - 1


class FeedData(msgspec.Struct, frozen=True):
    """What an event is about."""

    appointment: AppointmentShape


class FeedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A committed change; `sequence` counts an appointment's changes from 1 without gaps."""

    event_id: str
    type: str
    sequence: int
    occurred_at: datetime
    actor: str
    correlation_id: str
    reason: str | None
    data: FeedData


class FeedShape(msgspec.Struct, frozen=True):
    """Events in the order of their commits, and the cursor to go on from."""

    events: list[FeedEvent]
    next_cursor: str
    has_more: bool


class EventRoutes:
    """Handlers of /api/events."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="GET",
                path="/api/events",
                operation_id="read_events",
                summary="Every committed change, in order",
                handler=self.read,
                scope="read",
                tag="events",
                answer=FeedShape,
                parameters=(
                    ("after", "`next_cursor` of the page before; without it the first event is the first there is"),
                    ("limit", f"events a page, 1 to {LARGEST_PAGE}, default {USUAL_PAGE}"),
                    ("types", "only these types, with commas between"),
                    ("appointment_id", "only events of this appointment"),
                ),
            )
        ]

    async def read(self, call: Call) -> Response:
        """GET /api/events"""
        query = call.query
        page = await self._feed.read(
            call.who.org,
            _after(query.get("after")),
            page_size(query),
            types=types_of(query["types"]) if "types" in query else None,
            appointment_id=appointment_of(query["appointment_id"]) if "appointment_id" in query else None,
        )
        shown = {
            "events": [_shown(event) for event in page.events],
            "next_cursor": _cursor(page.next),
            "has_more": page.has_more,
        }
        return Response(orjson.dumps(shown), content_type="application/json")


def types_of(text: str) -> list[EventType]:
    """Event types named with commas between. Raises InvalidRequest."""
    try:
        return [EventType(word) for word in text.split(",")]
    except ValueError:
        raise InvalidRequest([("types", "must be some of " + ", ".join(EventType))]) from None


def appointment_of(text: str) -> UUID:
    """The appointment a query names. Raises InvalidRequest for what is no id."""
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest([("appointment_id", "is not an appointment's id")]) from None


def _shown(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.ref.event_id,
        "type": event.type,
        "sequence": event.ref.sequence,
        "occurred_at": show_time(event.occurred_at, None),
        "actor": event.actor,
        "correlation_id": event.correlation_id,
        "reason": event.reason,
        "data": {"appointment": orjson.Fragment(in_utc(event.data))},
    }


def _cursor(place: Place) -> str:
    text = f"event:{place.committed_in}/{place.appointment_id.hex}/{place.sequence}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _after(cursor: str | None) -> Place:
    if cursor is None:
        return BEGINNING
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), "-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None or int(found["committed"]) > _LARGEST_TRANSACTION:
        raise InvalidRequest([("after", "is not a cursor of this feed")])
    return Place(int(found["committed"]), UUID(hex=found["appointment"]), int(found["sequence"]))
