"""A coach's schedule over HTTP, and the free slots it leaves on one of the coach's days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import msgspec
import orjson

from service.api.endpoint import Call, Edge, Route
from service.api.parsing import decode_body, query_zone, refuse_nul, timezone_name
from service.api.people_shapes import (
    CoachDayShape,
    OverrideShape,
    ReplaceSchedule,
    ScheduleShape,
    WeekShape,
    WindowShape,
    path_id,
    window_shape,
)
from service.api.response import Response
from service.domain.appointment import show_time
from service.domain.grid import instant_of
from service.domain.schedule import DayWindows, Week, WeeklySchedule, Window, check_disjoint
from service.domain.zones import day_bounds, zone
from service.errors import InvalidRequest
from service.operations.find_availability import FindAvailability, FreeSlots
from service.operations.manage_coaches import ManageCoaches
from service.operations.rosters import Rosters

_SCHEDULE = msgspec.json.Decoder(ReplaceSchedule)
JSON = "application/json"


class CoachScheduleRoutes:
    """Handlers of /api/coaches/{coach_id}/schedule and …/availability."""

    def __init__(self, coaches: ManageCoaches, edge: Edge, find: FindAvailability, rosters: Rosters) -> None:
        self._coaches = coaches
        self._edge = edge
        self._find = find
        self._rosters = rosters

    def routes(self) -> list[Route]:
        """The endpoints."""
        one = "/api/coaches/<coach_id>"
        return [
            Route(
                method="GET",
                path=f"{one}/schedule",
                operation_id="get_schedule",
                summary="When a coach works",
                handler=self.schedule,
                scope="read",
                tag="coaches",
                answer=ScheduleShape,
                errors=(404,),
            ),
            self._replacement("PUT", f"{one}/schedule", "replace_schedule"),
            self._replacement("POST", f"{one}/schedule", "post_schedule"),
            Route(
                method="GET",
                path=f"{one}/availability",
                operation_id="find_coach_day",
                summary="A coach's free slots on one date of the coach's zone",
                handler=self.day,
                scope="read",
                tag="coaches",
                answer=CoachDayShape,
                counts_itself=True,
                parameters=(
                    ("date", "YYYY-MM-DD in the coach's zone"),
                    ("calendar_id", "the slots of this calendar; without: the default duration and interval"),
                    ("timezone", "IANA zone of the times in the answer, default UTC"),
                ),
                required=("date",),
                errors=(404,),
            ),
        ]

    def _replacement(self, method: str, path: str, name: str) -> Route:
        return Route(
            method=method,
            path=path,
            operation_id=name,
            summary="Replace a coach's whole schedule; existing appointments stay as they are",
            handler=self.replace_schedule,
            scope="admin",
            tag="coaches",
            body=ReplaceSchedule,
            body_required=True,
            answer=ScheduleShape,
            idempotency="optional",
            errors=(404,),
        )

    async def schedule(self, call: Call) -> Response:
        """GET /api/coaches/{coach_id}/schedule"""
        coach_id = _id(call)
        return _schedule_answer(coach_id, await self._coaches.schedule(call.who.org, coach_id))

    async def replace_schedule(self, call: Call) -> Response:
        """PUT or POST /api/coaches/{coach_id}/schedule"""
        coach_id = _id(call)
        body = decode_body(call.body, _SCHEDULE)
        refuse_nul(msgspec.to_builtins(body))
        timezone = None if body.timezone is None else timezone_name("timezone", body.timezone)
        monday, tuesday, wednesday, thursday, friday, saturday, sunday = (
            _windows(f"weekly.{day}", getattr(body.weekly, day)) for day in WeekShape.__struct_fields__
        )
        week: Week = (monday, tuesday, wednesday, thursday, friday, saturday, sunday)
        overrides: dict[date, DayWindows] = {}
        for index, override in enumerate(body.overrides):
            if override.date in overrides:
                raise InvalidRequest([(f"overrides[{index}].date", f"{override.date} is given more than once")])
            overrides[override.date] = _windows(f"overrides[{index}].windows", override.windows)
        answer = partial(_schedule_answer, coach_id)
        return answer(
            await self._coaches.replace_schedule(
                call.who.org, coach_id, week, overrides, timezone, complete=call.completing(answer)
            )
        )

    async def day(self, call: Call) -> Response:
        """GET /api/coaches/{coach_id}/availability"""
        roster, _ = await self._edge.admit_to_roster(call)
        query = call.query
        coach = roster.coach(_id(call))
        calendar = roster.calendar(query["calendar_id"]) if "calendar_id" in query else roster.everyone
        shown = query_zone(query)
        start, end = day_bounds(_date(query), zone(coach.timezone))
        return Response(_day(await self._find(roster, calendar, coach, start, end), shown), content_type=JSON)


def _id(call: Call) -> str:
    return path_id(call.path, "coach_id", "coach")


def _windows(field: str, given: Sequence[WindowShape]) -> DayWindows:
    """The windows of one day in order. Raises InvalidRequest naming the window, or the day when two overlap."""
    found: list[Window] = []
    for index, window in enumerate(given):
        try:
            found.append(Window.parse(window.start, window.end))
        except ValueError as problem:
            raise InvalidRequest([(f"{field}[{index}]", str(problem))]) from None
    windows = tuple(sorted(found))
    try:
        check_disjoint(windows)
    except ValueError as problem:
        raise InvalidRequest([(field, str(problem))]) from None
    return windows


def _schedule_answer(coach_id: str, schedule: WeeklySchedule) -> Response:
    shape = ScheduleShape(
        coach_id=coach_id,
        timezone=schedule.timezone,
        weekly=WeekShape(**dict(zip(WeekShape.__struct_fields__, map(_shown, schedule.weekly), strict=True))),
        overrides=[OverrideShape(day, _shown(windows)) for day, windows in sorted(schedule.overrides.items())],
    )
    return Response(msgspec.json.encode(shape), content_type=JSON)


def _shown(windows: DayWindows) -> list[WindowShape]:
    return [window_shape(window.start_minute, window.end_minute) for window in windows]


def _date(query: Mapping[str, str]) -> date:
    text = query.get("date")
    if text is None:
        raise InvalidRequest([("date", "is required")])
    try:
        found = date.fromisoformat(text)
        day_bounds(found, zone("UTC"))
    except (ValueError, OverflowError):
        raise InvalidRequest([("date", "is not a date YYYY-MM-DD from 1970 to 2199")]) from None
    if found.isoformat() != text:
        raise InvalidRequest([("date", "is not a date YYYY-MM-DD from 1970 to 2199")])
    return found


def _day(free: FreeSlots, shown: str | None) -> bytes:
    where = None if shown is None else ZoneInfo(shown)
    length = timedelta(minutes=free.calendar.slot_duration)
    slots = [
        {
            "coach_id": coach.coach_id,
            "start_time": show_time(instant_of(cell), where),
            "end_time": show_time(instant_of(cell) + length, where),
        }
        for cell, coaches in free.slots()
        for coach in coaches
    ]
    return orjson.dumps(
        {
            "slots": slots,
            "total_available": len(slots),
            "from": show_time(free.start, where),
            "to": show_time(free.end, where),
            "timezone": shown or "UTC",
        }
    )
