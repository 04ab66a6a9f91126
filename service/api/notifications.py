"""What the contact of an appointment was told, over HTTP."""

from __future__ import annotations

from datetime import datetime

import msgspec

from service.api.appointments import JSON
from service.api.endpoint import Call, Route
from service.api.parsing import uuid_of
from service.api.response import Response
from service.db.notifications import Notification, NotificationStore
from service.domain.notification import Kind, kind_of
from service.errors import NotFound

_STATUS = {None: "pending", "pending": "pending", "retrying": "pending", "delivered": "sent", "dead": "failed"}


class NotificationShape(msgspec.Struct, frozen=True):
    """One message to the contact. `error` is that of the last attempt, also while it is tried again."""

    kind: Kind
    status: str
    error: str | None
    sent_at: datetime | None


class NotificationRoutes:
    """The handler of notifications."""

    def __init__(self, store: NotificationStore) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """The endpoint."""
        return [
            Route(
                method="GET",
                path="/api/appointments/<appointment_id>/notifications",
                operation_id="appointment_notifications",
                summary="What the contact was told, and what is still to be told",
                handler=self.notifications,
                scope="read",
                tag="appointments",
                answer=list[NotificationShape],
                errors=(404,),
            )
        ]

    async def notifications(self, call: Call) -> Response:
        """GET /api/appointments/{appointment_id}/notifications"""
        appointment_id = uuid_of(call.path["appointment_id"], "appointment")
        events = await self._store.of_appointment(call.who.org, appointment_id)
        if not events:
            raise NotFound(f"no appointment {appointment_id}")
        shown = [shape for one in events if (shape := _shape(one)) is not None]
        return Response(msgspec.json.encode(shown), content_type=JSON)


def _shape(one: Notification) -> NotificationShape | None:
    """None for what the contact does not hear of, and for what happened before there were notifications."""
    kind = kind_of(one.type)
    if kind is None or (one.state == "delivered" and not one.attempts):
        return None
    return NotificationShape(kind, _STATUS[one.state], one.error, one.sent_at)
