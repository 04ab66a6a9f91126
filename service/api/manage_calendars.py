"""Calendars over HTTP: create, list, look at, change."""

from __future__ import annotations

from typing import Any

import msgspec

from service.api.endpoint import Call, Route
from service.api.parsing import decode_body, refuse_nul
from service.api.people_shapes import (
    PAGE_PARAMETERS,
    CalendarPage,
    CalendarShape,
    ChangeCalendar,
    CreateCalendar,
    cursor_of,
    given_or_new,
    number_before,
    page_size,
    path_id,
)
from service.api.response import Response
from service.db.people import CalendarRecord
from service.db.rosters import DefaultSlot
from service.domain.assignment import Strategy
from service.errors import InvalidRequest
from service.operations.manage_calendars import ManageCalendars

_CREATE = msgspec.json.Decoder(CreateCalendar)
_CHANGE = msgspec.json.Decoder(ChangeCalendar)
_KIND = "calendars"
JSON = "application/json"


class CalendarRoutes:
    """Handlers of /api/calendars; `usual` is what a calendar has that names nothing else."""

    def __init__(self, calendars: ManageCalendars, usual: DefaultSlot) -> None:
        self._calendars = calendars
        self._usual = usual

    def routes(self) -> list[Route]:
        """The endpoints."""
        one = "/api/calendars/<calendar_id>"
        return [
            Route(
                method="POST",
                path="/api/calendars",
                operation_id="create_calendar",
                summary="Create a calendar",
                handler=self.create,
                scope="admin",
                tag="calendars",
                body=CreateCalendar,
                body_required=True,
                answer=CalendarShape,
                status=201,
                idempotency="optional",
                errors=(409,),
            ),
            Route(
                method="GET",
                path="/api/calendars",
                operation_id="list_calendars",
                summary="Calendars, page by page",
                handler=self.page,
                scope="read",
                tag="calendars",
                answer=CalendarPage,
                parameters=PAGE_PARAMETERS,
            ),
            Route(
                method="GET",
                path=one,
                operation_id="get_calendar",
                summary="One calendar",
                handler=self.get,
                scope="read",
                tag="calendars",
                answer=CalendarShape,
                errors=(404,),
            ),
            Route(
                method="PATCH",
                path=one,
                operation_id="change_calendar",
                summary="Change a calendar; existing appointments stay as they are",
                handler=self.change,
                scope="admin",
                tag="calendars",
                body=ChangeCalendar,
                body_required=True,
                answer=CalendarShape,
                idempotency="optional",
                errors=(404,),
            ),
        ]

    async def create(self, call: Call) -> Response:
        """POST /api/calendars"""
        body = decode_body(call.body, _CREATE)
        refuse_nul(msgspec.to_builtins(body))
        usual = self._usual
        duration = _or(body.slot_duration, usual.duration)
        if body.slot_duration is None and body.max_duration is not None and body.max_duration < duration:
            raise InvalidRequest([("max_duration", f"is shorter than the usual slot_duration of {duration} minutes")])
        calendar = CalendarRecord(
            calendar_id=given_or_new("calendar_id", body.calendar_id),
            name=body.name,
            slot_duration=duration,
            slot_interval=_or(body.slot_interval, usual.interval),
            max_duration=body.max_duration,
            buffer_before=_or(body.buffer_before, 0),
            buffer_after=_or(body.buffer_after, usual.buffer_after),
            min_notice_minutes=_or(body.min_notice_minutes, usual.min_notice_minutes),
            max_days_ahead=_or(body.max_days_ahead, usual.max_days_ahead),
            assignment=Strategy(body.assignment),
            coach_ids=tuple(dict.fromkeys(body.coach_ids)),
        )
        return _made(await self._calendars.create(call.who.org, calendar, complete=call.completing(_made)))

    async def page(self, call: Call) -> Response:
        """GET /api/calendars"""
        most, after = page_size(call.query), number_before(_KIND, call.query, 0)
        found = await self._calendars.page(call.who.org, after, most + 1)
        more = cursor_of(_KIND, str(found[most - 1].number)) if len(found) > most else None
        page = CalendarPage([_shape(one) for one in found[:most]], more)
        return Response(msgspec.json.encode(page), content_type=JSON)

    async def get(self, call: Call) -> Response:
        """GET /api/calendars/{calendar_id}"""
        return _answer(await self._calendars.get(call.who.org, path_id(call.path, "calendar_id", "calendar")))

    async def change(self, call: Call) -> Response:
        """PATCH /api/calendars/{calendar_id}"""
        calendar_id = path_id(call.path, "calendar_id", "calendar")
        body = decode_body(call.body, _CHANGE)
        given: dict[str, Any] = {name: value for name, value in msgspec.structs.asdict(body).items()
                                 if value is not msgspec.UNSET}  # fmt: skip
        refuse_nul(given)
        coach_ids: list[str] | None = given.pop("coach_ids", None)
        if "assignment" in given:
            given["assignment"] = Strategy(given["assignment"])
        team = None if coach_ids is None else tuple(dict.fromkeys(coach_ids))
        saved = await self._calendars.change(
            call.who.org, calendar_id, given, coach_ids=team, complete=call.completing(_answer)
        )
        return _answer(saved)


def _made(calendar: CalendarRecord) -> Response:
    headers = {"Location": f"/api/calendars/{calendar.calendar_id}"}
    return Response(msgspec.json.encode(_shape(calendar)), 201, headers, JSON)


def _answer(calendar: CalendarRecord) -> Response:
    return Response(msgspec.json.encode(_shape(calendar)), content_type=JSON)


def _or(given: int | None, usual: int) -> int:
    return usual if given is None else given


def _shape(calendar: CalendarRecord) -> CalendarShape:
    return msgspec.convert(calendar, CalendarShape, from_attributes=True)
