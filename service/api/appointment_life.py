"""Appointments over HTTP after they were booked: lists, how they went, what happened to them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import orjson

from service.api.appointments import JSON, shown
from service.api.endpoint import Call, Handler, Route
from service.api.parsing import email, query_integer, query_time, query_word, query_zone, uuid_of, versions_of
from service.api.response import Response
from service.api.shapes import AppointmentHistory, AppointmentPage, AppointmentShape
from service.db.appointments import AppointmentFilter, PastEvent
from service.domain.appointment import Status, in_utc, render_in, show_time
from service.domain.calendar import Roster
from service.domain.event import EventRef
from service.domain.zones import day_bounds, zone
from service.errors import InvalidRequest
from service.operations.change import ChangeAppointment
from service.operations.look_back import LookBack, considered_coaches
from service.operations.plan_booking import contact_id_of
from service.operations.rosters import Rosters

LONGEST_PAGE = 200
USUAL_PAGE = 50
_STATUSES = tuple(status.value for status in Status if status is not Status.VOID)


class AppointmentLifeRoutes:
    """Handlers of what follows a booking."""

    def __init__(self, change: ChangeAppointment, look_back: LookBack, rosters: Rosters) -> None:
        self._change = change
        self._look_back = look_back
        self._rosters = rosters

    def routes(self) -> list[Route]:
        """The endpoints."""
        one = "/api/appointments/<appointment_id>"
        return [
            Route(
                method="GET",
                path="/api/appointments",
                operation_id="list_appointments",
                summary="Appointments by start, a page at a time",
                handler=self.page,
                scope="read",
                tag="appointments",
                answer=AppointmentPage,
                parameters=(
                    ("coach_id", "only this coach's"),
                    ("calendar_id", "only those booked through this calendar"),
                    ("contact_email", "only this contact's"),
                    ("status", "one of " + ", ".join(_STATUSES)),
                    ("date", "a local date of `timezone` (UTC without): starts on that day"),
                    (
                        "timezone",
                        "IANA zone of `date`, of `from` and `to` when those are dates, and of the times shown",
                    ),
                    ("from", "a date or a time: starts at or after it"),
                    ("to", "a date or a time: starts before it"),
                    ("limit", f"1 to {LONGEST_PAGE}, default {USUAL_PAGE}"),
                    ("cursor", "`next_cursor` of the page before"),
                ),
                errors=(404,),
            ),
            self._state(f"{one}/confirm", "confirm_appointment", "The contact confirmed", self.confirm),
            self._state(f"{one}/complete", "complete_appointment", "It took place", self.complete),
            self._state(f"{one}/no-show", "no_show_appointment", "The contact did not come", self.no_show),
            Route(
                method="GET",
                path=f"{one}/history",
                operation_id="appointment_history",
                summary="Who did what when, and for an assignment who was considered and why the winner won",
                handler=self.history,
                scope="read",
                tag="appointments",
                answer=AppointmentHistory,
                errors=(404,),
            ),
        ]

    @staticmethod
    def _state(path: str, name: str, summary: str, handler: Handler) -> Route:
        return Route(
            method="POST",
            path=path,
            operation_id=name,
            summary=summary,
            handler=handler,
            scope="write",
            tag="appointments",
            answer=AppointmentShape,
            idempotency="optional",
            if_match=True,
            errors=(404, 409),
        )

    async def page(self, call: Call) -> Response:
        """GET /api/appointments"""
        query = call.query
        name = query_zone(query)
        shown_in = None if name is None else ZoneInfo(name)
        wanted = _filter(query, name, await self._rosters.current(call.who.org))
        limit = query_integer("limit", query.get("limit", str(USUAL_PAGE)), 1, LONGEST_PAGE)
        page = await self._look_back.page(wanted, limit, query.get("cursor"))
        rows = b",".join(render_in(appointment, shown_in) for appointment in page.appointments)
        body = b'{"appointments":[' + rows + b'],"next_cursor":' + orjson.dumps(page.next_cursor) + b"}"
        return Response(body, content_type=JSON)

    async def confirm(self, call: Call) -> Response:
        """POST /api/appointments/{appointment_id}/confirm"""
        return shown(
            await self._change.confirm(
                call.who.org,
                uuid_of(call.path["appointment_id"], "appointment"),
                actor=call.who.actor,
                correlation_id=call.correlation_id,
                versions=versions_of(call.header("if-match")),
                complete=call.completing(shown),
            )
        )

    async def complete(self, call: Call) -> Response:
        """POST /api/appointments/{appointment_id}/complete"""
        return await self._finish(call, Status.COMPLETED)

    async def no_show(self, call: Call) -> Response:
        """POST /api/appointments/{appointment_id}/no-show"""
        return await self._finish(call, Status.NO_SHOW)

    async def _finish(self, call: Call, status: Status) -> Response:
        return shown(
            await self._change.finish(
                call.who.org,
                uuid_of(call.path["appointment_id"], "appointment"),
                status,
                actor=call.who.actor,
                correlation_id=call.correlation_id,
                versions=versions_of(call.header("if-match")),
                complete=call.completing(shown),
            )
        )

    async def history(self, call: Call) -> Response:
        """GET /api/appointments/{appointment_id}/history"""
        appointment_id = uuid_of(call.path["appointment_id"], "appointment")
        events = await self._look_back.history(call.who.org, appointment_id)
        roster = await self._rosters.current(call.who.org)
        rows = [_event(event, EventRef(call.who.org, appointment_id, event.sequence), roster) for event in events]
        return Response(orjson.dumps({"history": rows}), content_type=JSON)


def _filter(query: Mapping[str, str], name: str | None, roster: Roster) -> AppointmentFilter:
    """The filter a query asks for, its dates those of a zone.

    Raises InvalidRequest, or NotFound for an unknown coach or calendar.
    """
    start: datetime | None = query_time("from", query["from"], name) if "from" in query else None
    end: datetime | None = query_time("to", query["to"], name) if "to" in query else None
    if "date" in query:
        if start is not None or end is not None:
            raise InvalidRequest([("date", "cannot be given beside from or to")])
        start, end = _day("date", query["date"], name or "UTC")
    status = Status(query_word("status", query["status"], _STATUSES)) if "status" in query else None
    contact = (
        contact_id_of(roster.org, email("contact_email", query["contact_email"])) if "contact_email" in query else None
    )
    return AppointmentFilter(
        org=roster.org,
        column=roster.coach(query["coach_id"]).column if "coach_id" in query else None,
        calendar_number=roster.calendar(query["calendar_id"]).number if "calendar_id" in query else None,
        contact_id=contact,
        status=status,
        start=start,
        end=end,
    )


def _day(field: str, text: str, name: str) -> tuple[datetime, datetime]:
    """The bounds of a local date. Raises InvalidRequest."""
    try:
        day = date.fromisoformat(text)
        if day.isoformat() != text:
            raise ValueError("a date of another form")
        return day_bounds(day, zone(name))
    except ValueError:
        raise InvalidRequest([(field, "is not a date (YYYY-MM-DD)")]) from None


def _event(event: PastEvent, ref: EventRef, roster: Roster) -> dict[str, object]:
    after = orjson.loads(in_utc(event.data))
    shown: dict[str, object] = {
        "event_id": ref.event_id,
        "sequence": event.sequence,
        "type": event.type,
        "occurred_at": show_time(event.occurred_at, None),
        "actor": event.actor,
        "correlation_id": event.correlation_id,
        "reason": event.reason,
        "appointment": after,
    }
    if event.considered:
        shown["assignment"] = {
            **after["assignment"],
            "considered": [
                {"coach_id": one.coach_id, "deficit": one.deficit, "share": one.share, "won": one.won}
                for one in considered_coaches(event, after["coach_id"], roster)
            ],
        }
    return shown
