"""A coach's time off over HTTP: set, list, end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson

from service.api.endpoint import Call, Route
from service.api.parsing import decode_body, instant, query_time, query_zone, refuse_nul, timezone_name, uuid_of
from service.api.people_shapes import (
    PAGE_PARAMETERS,
    ZoneName,
    cursor_of,
    page_size,
    path_id,
    row_before,
    unknown_cursor,
)
from service.api.response import Response
from service.api.shapes import Reason
from service.db.time_off import TimeOffRecord
from service.domain.appointment import show_time
from service.errors import OutcomeUnknown
from service.operations.time_off import Absence, TimeOff
from service.operations.treat_appointments import Existing

_KIND = "time-off"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
JSON = "application/json"


class SetTimeOff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A period a coach is away, and what shall become of appointments in it.

    Times are RFC 3339; one without offset is wall-clock time of `timezone`.
    """

    start_time: datetime
    end_time: datetime
    timezone: ZoneName | None = None
    reason: Reason | None = None
    existing: Literal["reassign", "cancel", "keep"] = "reassign"


class TimeOffShape(msgspec.Struct, frozen=True, kw_only=True):
    """A period a coach is away; `source` is who said so."""

    time_off_id: str
    coach_id: str
    start_time: datetime
    end_time: datetime
    reason: str | None
    source: Literal["api", "calendar"]
    created_at: datetime


class AffectedShape(msgspec.Struct, frozen=True):
    """What became of an appointment inside, and the coach who has it now."""

    appointment_id: str
    outcome: Literal["reassigned", "cancelled", "kept"]
    coach_id: str


class TimeOffSetShape(TimeOffShape, frozen=True, kw_only=True):
    """A period that was set, and what became of every appointment in it."""

    affected: list[AffectedShape]


class TimeOffPage(msgspec.Struct, frozen=True):
    """A coach's periods by start."""

    time_off: list[TimeOffShape]
    next_cursor: str | None


_SET = msgspec.json.Decoder(SetTimeOff)


class TimeOffRoutes:
    """Handlers of /api/coaches/{coach_id}/time-off."""

    def __init__(self, time_off: TimeOff) -> None:
        self._time_off = time_off

    def routes(self) -> list[Route]:
        """The endpoints."""
        every = "/api/coaches/<coach_id>/time-off"
        return [
            Route(
                method="POST",
                path=every,
                operation_id="set_time_off",
                summary="Close a period for a coach; appointments inside are reassigned, cancelled or kept",
                handler=self.set,
                scope="admin",
                tag="coaches",
                body=SetTimeOff,
                body_required=True,
                answer=TimeOffSetShape,
                status=201,
                idempotency="optional",
                errors=(404,),
            ),
            Route(
                method="GET",
                path=every,
                operation_id="list_time_off",
                summary="When a coach is away, page by page",
                handler=self.page,
                scope="read",
                tag="coaches",
                answer=TimeOffPage,
                parameters=(
                    *PAGE_PARAMETERS,
                    ("from", "a date or a time: periods that end after it"),
                    ("to", "a date or a time: periods that begin before it"),
                    ("timezone", "IANA zone of `from`, `to` and of the times in the answer, default UTC"),
                ),
                errors=(404,),
            ),
            Route(
                method="DELETE",
                path=f"{every}/<time_off_id>",
                operation_id="end_time_off",
                summary="End a period of time off; its time opens again",
                handler=self.remove,
                scope="admin",
                tag="coaches",
                answer=TimeOffShape,
                idempotency="optional",
                errors=(404,),
            ),
        ]

    async def set(self, call: Call) -> Response:
        """POST /api/coaches/{coach_id}/time-off"""
        coach_id = _coach_id(call)
        body = decode_body(call.body, _SET)
        refuse_nul(body.reason, "reason")
        name = None if body.timezone is None else timezone_name("timezone", body.timezone)
        wish = Absence(
            start=instant("start_time", body.start_time, name),
            end=instant("end_time", body.end_time, name),
            reason=body.reason,
            existing=Existing(body.existing),
            source="api",
        )
        who = call.who
        away = await self._time_off.close(
            who.org,
            coach_id,
            wish,
            actor=who.actor,
            correlation_id=call.correlation_id,
            time_off_id=call.operation,
        )
        if not away.finished:
            raise OutcomeUnknown("not every appointment in the period could be treated yet")
        shown = _shown(away.period, coach_id, None if name is None else ZoneInfo(name))
        shown["affected"] = [
            {"appointment_id": one.appointment_id, "outcome": one.outcome.value, "coach_id": one.coach_id}
            for one in away.affected
        ]
        return Response(orjson.dumps(shown), 201, content_type=JSON)

    async def page(self, call: Call) -> Response:
        """GET /api/coaches/{coach_id}/time-off"""
        coach_id, query = _coach_id(call), call.query
        name = query_zone(query)
        start, end = (query_time(field, query[field], name) if field in query else None for field in ("from", "to"))
        most = page_size(query)
        found = await self._time_off.page(call.who.org, coach_id, start, end, most + 1, _after(query))
        more = _cursor(found[most - 1]) if len(found) > most else None
        where = None if name is None else ZoneInfo(name)
        rows = [_shown(period, coach_id, where) for period in found[:most]]
        return Response(orjson.dumps({"time_off": rows, "next_cursor": more}), content_type=JSON)

    async def remove(self, call: Call) -> Response:
        """DELETE /api/coaches/{coach_id}/time-off/{time_off_id}"""
        coach_id = _coach_id(call)
        time_off_id = uuid_of(call.path["time_off_id"], "time off")
        answer = partial(_ended, coach_id)
        return answer(
            await self._time_off.remove(call.who.org, coach_id, time_off_id, complete=call.completing(answer))
        )


def _coach_id(call: Call) -> str:
    return path_id(call.path, "coach_id", "coach")


def _ended(coach_id: str, period: TimeOffRecord) -> Response:
    return Response(orjson.dumps(_shown(period, coach_id, None)), content_type=JSON)


def _shown(period: TimeOffRecord, coach_id: str, zone: ZoneInfo | None) -> dict[str, Any]:
    return {
        "time_off_id": period.time_off_id,
        "coach_id": coach_id,
        "start_time": show_time(period.start_time, zone),
        "end_time": show_time(period.end_time, zone),
        "reason": period.reason,
        "source": period.source,
        "created_at": show_time(period.created_at, None),
    }


def _cursor(last: TimeOffRecord) -> str:
    return cursor_of(_KIND, f"{(last.start_time - _EPOCH) // _MICROSECOND}/{last.time_off_id}")


def _after(query: Mapping[str, str]) -> tuple[datetime, UUID] | None:
    last = row_before(_KIND, query)
    if last is None:
        return None
    micros, _, time_off_id = last.partition("/")
    try:
        return _EPOCH + int(micros) * _MICROSECOND, UUID(time_off_id)
    except (ValueError, OverflowError):
        raise unknown_cursor() from None
