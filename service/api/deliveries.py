"""Deliveries over HTTP: which event reached whom, with every attempt, and sending again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

import msgspec
import orjson

from service.api.endpoint import Call, Route
from service.api.events import appointment_of
from service.api.parsing import query_word
from service.api.people_shapes import PAGE_PARAMETERS, cursor_of, page_size, row_before, unknown_cursor
from service.api.response import Response
from service.db.delivery_log import AttemptState, DeliveryPlace, DeliveryState
from service.domain.appointment import show_time
from service.domain.event import EventRef
from service.errors import NotFound
from service.operations.look_at_deliveries import DeliveryWish, LookAtDeliveries

STATES = ("pending", "delivered", "retrying", "dead")
JSON = "application/json"
_KIND = "delivery"
_ID = re.compile(
    r"(?P<appointment>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(?P<sequence>0|[1-9][0-9]{0,8})"
    r"\.(?P<destination>[\x21-\x7e]{0,128})"
)
_DESTINATION = re.compile(r"[\x21-\x7e]{1,128}")


class DeliveryShape(msgspec.Struct, frozen=True, kw_only=True):
    """One event to one destination; `attempts` counts from the last of `replays`."""

    delivery_id: str
    event_id: str
    type: str
    destination: str
    state: Literal["pending", "delivered", "retrying", "dead"]
    attempts: int
    replays: int
    last_status: int | None
    last_error: str | None
    occurred_at: datetime
    updated_at: datetime
    delivered_at: datetime | None


class AttemptShape(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: what it led to, and the first kilobyte of the answer or why there was none."""

    replay: int
    attempt: int
    made_at: datetime
    duration_ms: int
    outcome: Literal["delivered", "retrying", "dead"]
    status: int | None
    answer: str | None


class DeliveryWithAttempts(DeliveryShape, frozen=True, kw_only=True):
    """A delivery with every attempt, oldest first."""

    attempt_log: list[AttemptShape]


class DeliveryPageShape(msgspec.Struct, frozen=True):
    """Deliveries, those of the newest appointment first."""

    deliveries: list[DeliveryShape]
    next_cursor: str | None


class DeadReplayed(msgspec.Struct, frozen=True):
    """How many dead deliveries of a destination are sent again."""

    destination: str
    replayed: int


class DeliveryRoutes:
    """Handlers of /api/webhooks/deliveries and /api/webhooks/destinations."""

    def __init__(self, deliveries: LookAtDeliveries) -> None:
        self._deliveries = deliveries

    def routes(self) -> list[Route]:
        """The endpoints."""
        every = "/api/webhooks/deliveries"
        return [
            Route(
                method="GET",
                path=every,
                operation_id="list_deliveries",
                summary="Which event reached whom, page by page",
                handler=self.page,
                scope="read",
                tag="webhooks",
                answer=DeliveryPageShape,
                parameters=(
                    *PAGE_PARAMETERS,
                    ("state", "only " + ", ".join(STATES[:-1]) + " or " + STATES[-1]),
                    ("appointment_id", "only of this appointment"),
                    ("destination", "only to this destination"),
                ),
            ),
            Route(
                method="GET",
                path=f"{every}/<delivery_id>",
                operation_id="get_delivery",
                summary="One delivery with every attempt",
                handler=self.one,
                scope="read",
                tag="webhooks",
                answer=DeliveryWithAttempts,
                errors=(404,),
            ),
            Route(
                method="POST",
                path=f"{every}/<delivery_id>/replay",
                operation_id="replay_delivery",
                summary="Send a dead or delivered event again, under the same id and with the same bytes",
                handler=self.replay,
                scope="write",
                tag="webhooks",
                idempotency="optional",
                answer=DeliveryShape,
                status=202,
                errors=(404, 409),
            ),
            Route(
                method="POST",
                path="/api/webhooks/destinations/<destination>/replay",
                operation_id="replay_dead_deliveries",
                summary="Send everything again that is dead at a destination",
                handler=self.replay_dead,
                scope="write",
                tag="webhooks",
                idempotency="optional",
                answer=DeadReplayed,
                status=202,
                errors=(404,),
            ),
        ]

    async def page(self, call: Call) -> Response:
        """GET /api/webhooks/deliveries"""
        query = call.query
        wish = DeliveryWish(
            state=query_word("state", query["state"], STATES) if "state" in query else None,
            appointment_id=appointment_of(query["appointment_id"]) if "appointment_id" in query else None,
            destination=query.get("destination"),
        )
        page = await self._deliveries.page(call.who.org, wish, _after(query), page_size(query))
        shown = {
            "deliveries": [_shown(one) for one in page.deliveries],
            "next_cursor": None if page.next is None else _cursor(page.next),
        }
        return Response(orjson.dumps(shown), content_type=JSON)

    async def one(self, call: Call) -> Response:
        """GET /api/webhooks/deliveries/{delivery_id}"""
        found, attempts = await self._deliveries.one(*_of_path(call))
        shown = _shown(found)
        shown["attempt_log"] = [_attempt(one) for one in attempts]
        return Response(orjson.dumps(shown), content_type=JSON)

    async def replay(self, call: Call) -> Response:
        """POST /api/webhooks/deliveries/{delivery_id}/replay"""
        return _asked(await self._deliveries.replay(*_of_path(call), complete=call.completing(_asked)))

    async def replay_dead(self, call: Call) -> Response:
        """POST /api/webhooks/destinations/{destination}/replay"""
        destination = call.path["destination"]
        if not _DESTINATION.fullmatch(destination):
            raise NotFound(f"no destination {destination[:64]!r}")
        answer = partial(_replayed, destination)
        return answer(await self._deliveries.replay_dead(call.who.org, destination, complete=call.completing(answer)))


def _asked(delivery: DeliveryState) -> Response:
    return Response(orjson.dumps(_shown(delivery)), 202, content_type=JSON)


def _replayed(destination: str, count: int) -> Response:
    return Response(orjson.dumps({"destination": destination, "replayed": count}), 202, content_type=JSON)


def _of_path(call: Call) -> tuple[EventRef, str]:
    """The delivery a path names. Raises NotFound for what names none."""
    text = call.path["delivery_id"]
    place = _place(text)
    if place is None or not _DESTINATION.fullmatch(place.destination):
        raise NotFound(f"no delivery {text[:128]!r}")
    return EventRef(call.who.org, place.appointment_id, place.sequence), place.destination


def _place(text: str) -> DeliveryPlace | None:
    found = _ID.fullmatch(text)
    if found is None:
        return None
    return DeliveryPlace(UUID(found["appointment"]), int(found["sequence"]), found["destination"])


def _cursor(place: DeliveryPlace) -> str:
    return cursor_of(_KIND, f"{place.appointment_id}.{place.sequence}.{place.destination}")


def _after(query: Mapping[str, str]) -> DeliveryPlace | None:
    last = row_before(_KIND, query)
    if last is None:
        return None
    place = _place(last)
    if place is None:
        raise unknown_cursor()
    return place


def _shown(one: DeliveryState) -> dict[str, Any]:
    return {
        "delivery_id": f"{one.ref.event_id}.{one.destination}",
        "event_id": one.ref.event_id,
        "type": one.type,
        "destination": one.destination,
        "state": one.state,
        "attempts": one.attempts,
        "replays": one.replays,
        "last_status": one.last_status,
        "last_error": one.last_error,
        "occurred_at": show_time(one.occurred_at, None),
        "updated_at": show_time(one.updated_at, None),
        "delivered_at": show_time(one.delivered_at, None),
    }


def _attempt(one: AttemptState) -> dict[str, Any]:
    return {
        "replay": one.replay,
        "attempt": one.attempt,
        "made_at": show_time(one.made_at, None),
        "duration_ms": one.duration_ms,
        "outcome": one.outcome,
        "status": one.status,
        "answer": one.answer,
    }
