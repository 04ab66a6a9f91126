"""Explaining a start over HTTP: each coach's first reason not to be free there."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import orjson

from service.api.endpoint import Call, Edge, Route
from service.api.parsing import planned_time, query_zone
from service.api.response import Response
from service.domain.appointment import show_time
from service.errors import InvalidRequest
from service.operations.explain_availability import ExplainAvailability, Question, Reason
from service.operations.rosters import Rosters


class CoachVerdict(msgspec.Struct, frozen=True):
    """One coach: the first reason that rules it out or `free`, and the same as a sentence."""

    coach_id: str
    reason: Reason
    detail: str


class ExplanationShape(msgspec.Struct, frozen=True, kw_only=True):
    """Why coaches of a calendar are free or not at a start."""

    calendar_id: str
    start_time: datetime
    end_time: datetime
    timezone: str
    coaches: list[CoachVerdict]


class ExplainRoutes:
    """Handler of /api/availability/explain."""

    def __init__(self, edge: Edge, explain: ExplainAvailability, rosters: Rosters) -> None:
        self._edge = edge
        self._explain = explain
        self._rosters = rosters

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="GET",
                path="/api/availability/explain",
                operation_id="explain_availability",
                summary="Why a start is offered or not, coach by coach",
                handler=self.explain,
                scope="read",
                tag="availability",
                answer=ExplanationShape,
                counts_itself=True,
                parameters=(
                    ("calendar_id", "the calendar whose coaches are asked about"),
                    ("start_time", "the start"),
                    ("end_time", "default the calendar's duration later; others where it allows them"),
                    ("coach_id", "only this coach of the calendar"),
                    ("timezone", "IANA zone of the times in the answer, default UTC"),
                ),
                required=("calendar_id", "start_time"),
                errors=(404,),
            )
        ]

    async def explain(self, call: Call) -> Response:
        """GET /api/availability/explain"""
        roster, _ = await self._edge.admit_to_roster(call)
        query = call.query
        missing = [(name, "is required") for name in ("calendar_id", "start_time") if name not in query]
        if missing:
            raise InvalidRequest(missing)
        zone_name = query_zone(query)
        question = Question(
            calendar_id=query["calendar_id"],
            start_time=planned_time("start_time", query["start_time"], zone_name),
            end_time=planned_time("end_time", query["end_time"], zone_name) if "end_time" in query else None,
            coach_id=query.get("coach_id"),
        )
        found = await self._explain(roster, question)
        shown = ZoneInfo(zone_name) if zone_name else None
        body = orjson.dumps(
            {
                "calendar_id": question.calendar_id,
                "start_time": show_time(found.start, shown),
                "end_time": show_time(found.end, shown),
                "timezone": zone_name or "UTC",
                "coaches": [
                    {"coach_id": one.coach.coach_id, "reason": one.reason.value, "detail": one.detail}
                    for one in found.verdicts
                ],
            }
        )
        return Response(body, content_type="application/json")
