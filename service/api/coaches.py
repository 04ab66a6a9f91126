"""Coaches over HTTP: how appointments are spread over them."""

from __future__ import annotations

from datetime import datetime, timedelta

import orjson

from service.api.endpoint import Call, Route
from service.api.parsing import planned_time
from service.api.response import Response
from service.api.shapes import DistributionShape
from service.clock import Clock
from service.domain.grid import day_of
from service.errors import InvalidRequest
from service.operations.rosters import Rosters
from service.operations.show_distribution import ShowDistribution

DEFAULT_DAYS = 7
MOST_DAYS = 366


class CoachRoutes:
    """Handlers of /api/coaches."""

    def __init__(self, distribution: ShowDistribution, rosters: Rosters, clock: Clock) -> None:
        self._distribution = distribution
        self._rosters = rosters
        self._clock = clock

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="GET",
                path="/api/coaches/distribution",
                operation_id="show_distribution",
                summary="How appointments are spread over coaches, and whether by score",
                handler=self.distribution,
                scope="read",
                tag="coaches",
                answer=DistributionShape,
                parameters=(
                    ("calendar_id", "only this calendar's coaches and appointments"),
                    ("from", "first local date (of a time: its UTC date), default today"),
                    ("to", "the local date after the last one, default seven days after `from`"),
                ),
                errors=(404,),
            )
        ]

    async def distribution(self, call: Call) -> Response:
        """GET /api/coaches/distribution"""
        query = call.query
        roster = await self._rosters.current(call.who.org)
        calendar = roster.calendar(query["calendar_id"]) if "calendar_id" in query else None
        start: datetime = planned_time("from", query["from"], None) if "from" in query else self._clock.now()
        first_day = day_of(start)
        if "to" in query:
            end = planned_time("to", query["to"], None)
            last_day = day_of(end + timedelta(days=1) - timedelta(microseconds=1))
        else:
            last_day = first_day + DEFAULT_DAYS
        if not first_day < last_day <= first_day + MOST_DAYS:
            raise InvalidRequest([("to", f"must be after `from` and at most {MOST_DAYS} days later")])
        found = await self._distribution(roster, calendar, first_day, last_day)
        return Response(
            orjson.dumps(
                {
                    "distribution": found.rows,
                    "fairness_score": found.fairness_score,
                    "jain_index": found.jain_index,
                    "total_appointments": found.total,
                }
            ),
            content_type="application/json",
        )
