"""Coaches over HTTP: create, list, look at, change, deactivate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from service.api.endpoint import Call, Route
from service.api.parsing import decode_body, email, query_word, refuse_nul, timezone_name
from service.api.people_shapes import (
    PAGE_PARAMETERS,
    ChangeCoach,
    CoachPage,
    CoachShape,
    CreateCoach,
    ReplaceSchedule,
    cursor_of,
    given_or_new,
    number_before,
    page_size,
    path_id,
)
from service.api.response import Response
from service.db.people import CoachRecord
from service.domain.schedule import Window, clock_time
from service.errors import InvalidRequest
from service.operations.manage_coaches import ManageCoaches

_CREATE = msgspec.json.Decoder(CreateCoach)
_CHANGE = msgspec.json.Decoder(ChangeCoach)
_SCHEDULE = msgspec.json.Decoder(ReplaceSchedule)
_KIND = "coaches"
_MILLION = 1_000_000
# A path of /api/coaches that is no coach.
_DISTRIBUTION = "distribution"
JSON = "application/json"


class ManageCoachRoutes:
    """Handlers of /api/coaches; `opening` are the hours of a coach created without any."""

    def __init__(self, coaches: ManageCoaches, opening: Window) -> None:
        self._coaches = coaches
        self._opening = opening

    def routes(self) -> list[Route]:
        """The endpoints."""
        one = "/api/coaches/<coach_id>"
        return [
            Route(
                method="POST",
                path="/api/coaches",
                operation_id="create_coach",
                summary="Create a coach",
                handler=self.create,
                scope="admin",
                tag="coaches",
                body=CreateCoach,
                body_required=True,
                answer=CoachShape,
                status=201,
                idempotency="optional",
                errors=(409,),
            ),
            Route(
                method="GET",
                path="/api/coaches",
                operation_id="list_coaches",
                summary="Coaches, page by page",
                handler=self.page,
                scope="read",
                tag="coaches",
                answer=CoachPage,
                parameters=(*PAGE_PARAMETERS, ("active", "`true` or `false`: only coaches that are, or are not")),
            ),
            Route(
                method="GET",
                path=one,
                operation_id="get_coach",
                summary="One coach",
                handler=self.get,
                scope="read",
                tag="coaches",
                answer=CoachShape,
                errors=(404,),
            ),
            Route(
                method="PATCH",
                path=one,
                operation_id="change_coach",
                summary="Change a coach; existing appointments stay as they are",
                handler=self.change,
                scope="admin",
                tag="coaches",
                body=ChangeCoach,
                body_required=True,
                answer=CoachShape,
                idempotency="optional",
                errors=(404, 409),
            ),
            Route(
                method="DELETE",
                path=one,
                operation_id="deactivate_coach",
                summary="Deactivate a coach; existing appointments stay as they are",
                handler=self.deactivate,
                scope="admin",
                tag="coaches",
                answer=CoachShape,
                idempotency="optional",
                errors=(404,),
            ),
        ]

    async def create(self, call: Call) -> Response:
        """POST /api/coaches"""
        body = decode_body(call.body, _CREATE)
        refuse_nul(msgspec.to_builtins(body))
        coach = CoachRecord(
            coach_id=given_or_new("coach_id", body.coach_id, _DISTRIBUTION),
            name=body.name,
            email=email("email", body.email),
            specialty=body.specialty,
            timezone=timezone_name("timezone", body.timezone),
            score=round(body.score * _MILLION),
            max_daily_appointments=body.max_daily_appointments,
            calendar_ids=tuple(dict.fromkeys(body.calendar_ids)),
        )
        hours = _hours(
            body.working_hours_start or clock_time(self._opening.start_minute),
            body.working_hours_end or clock_time(self._opening.end_minute),
        )
        return _made(await self._coaches.create(call.who.org, coach, hours, complete=call.completing(_made)))

    async def page(self, call: Call) -> Response:
        """GET /api/coaches"""
        most, after = page_size(call.query), number_before(_KIND, call.query, -1)
        active = None
        if "active" in call.query:
            active = query_word("active", call.query["active"], ("true", "false")) == "true"
        found = await self._coaches.page(call.who.org, after, most + 1, active=active)
        more = cursor_of(_KIND, str(found[most - 1].column)) if len(found) > most else None
        page = CoachPage([_shape(one) for one in found[:most]], more)
        return Response(msgspec.json.encode(page), content_type=JSON)

    async def get(self, call: Call) -> Response:
        """GET /api/coaches/{coach_id}"""
        return _answer(await self._coaches.get(call.who.org, _id(call)))

    async def change(self, call: Call) -> Response:
        """PATCH /api/coaches/{coach_id}"""
        coach_id = _id(call)
        body = decode_body(call.body, _CHANGE)
        fields: dict[str, Any] = {
            name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET
        }
        refuse_nul(fields)
        calendar_ids: list[str] | None = fields.pop("calendar_ids", None)
        saved = await self._coaches.change(
            call.who.org,
            coach_id,
            _stored(fields),
            hours=_both_hours(fields.pop("working_hours_start", None), fields.pop("working_hours_end", None)),
            calendar_ids=None if calendar_ids is None else tuple(dict.fromkeys(calendar_ids)),
            complete=call.completing(_answer),
        )
        return _answer(saved)

    async def deactivate(self, call: Call) -> Response:
        """DELETE /api/coaches/{coach_id}"""
        complete = call.completing(_answer)
        return _answer(await self._coaches.change(call.who.org, _id(call), {"active": False}, complete=complete))


def _id(call: Call) -> str:
    return path_id(call.path, "coach_id", "coach")


def _made(coach: CoachRecord) -> Response:
    headers = {"Location": f"/api/coaches/{coach.coach_id}"}
    return Response(msgspec.json.encode(_shape(coach)), 201, headers, JSON)


def _answer(coach: CoachRecord) -> Response:
    return Response(msgspec.json.encode(_shape(coach)), content_type=JSON)


def _shape(coach: CoachRecord) -> CoachShape:
    shown = msgspec.structs.replace(coach, score=0)
    shape = msgspec.convert(shown, CoachShape, from_attributes=True)
    return msgspec.structs.replace(shape, score=coach.score / _MILLION)


def _stored(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a change as a coach's record has them."""
    stored = {name: value for name, value in fields.items() if not name.startswith("working_hours")}
    if "email" in stored:
        stored["email"] = email("email", stored["email"])
    if "timezone" in stored:
        timezone_name("timezone", stored["timezone"])
    if "score" in stored:
        stored["score"] = round(stored["score"] * _MILLION)
    return stored


def _both_hours(start: str | None, end: str | None) -> Window | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        missing = "working_hours_start" if start is None else "working_hours_end"
        raise InvalidRequest([(missing, "is required beside the other")])
    return _hours(start, end)


def _hours(start: str, end: str) -> Window:
    try:
        return Window.parse(start, end)
    except ValueError as problem:
        wrong = "working_hours_start" if str(problem).startswith("start") else "working_hours_end"
        raise InvalidRequest([(wrong, str(problem))]) from None
