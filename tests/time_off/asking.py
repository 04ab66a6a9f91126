"""What tests of time off ask again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Any, TypeAlias
from uuid import UUID

from service.domain.appointment import Appointment
from service.operations.time_off import Absence, Away, TimeOff
from service.operations.treat_appointments import Existing
from tests.api.client import Client
from tests.api_people.asking import local, made, seen

COACH, OTHER = "coach-1", "coach-3"  # the team of cal-3
Reassigning: TypeAlias = Callable[[], Awaitable[Appointment]]
# What is done instead of moving an appointment: its id, and the move.
Around: TypeAlias = Callable[[UUID, Reassigning], Awaitable[Appointment]]


def path(coach: str) -> str:
    """Where a coach's time off is."""
    return f"/api/coaches/{coach}/time-off"


async def away(api: Client, coach: str, day: date, start: str, end: str, **more: Any) -> dict[str, Any]:
    """Time off between two wall times of one date."""
    period = {"start_time": local(day, start), "end_time": local(day, end)}
    return await made(api, path(coach), **period, **more)


async def back(api: Client, coach: str, time_off_id: str) -> dict[str, Any]:
    """What the end of a period answers."""
    answer = await api("DELETE", f"{path(coach)}/{time_off_id}")
    assert answer.status == 200, answer.raw
    return answer.json


async def shown(api: Client, appointment: dict[str, Any]) -> dict[str, Any]:
    """The appointment as it is now."""
    return await seen(api, f"/api/appointments/{appointment['appointment_id']}")


async def story(api: Client, appointment: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(type, reason) of everything that happened to an appointment."""
    found = await seen(api, f"/api/appointments/{appointment['appointment_id']}/history")
    return [(event["type"], event["reason"]) for event in found["history"]]


async def scheduled(api: Client, coach: str, start: str, end: str) -> set[str]:
    """Ids of the scheduled appointments of a coach that begin in a period (UTC times as the API writes them)."""
    query = f"/api/appointments?coach_id={coach}&status=scheduled&from={start}&to={end}"
    answer = await seen(api, f"{query}&limit=200")
    assert answer["next_cursor"] is None
    return {one["appointment_id"] for one in answer["appointments"]}


def outcomes(answer: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """(outcome, coach) of each appointment a period affected."""
    found = {one["appointment_id"]: (one["outcome"], one["coach_id"]) for one in answer["affected"]}
    assert len(found) == len(answer["affected"])
    return found


def absence(start: str, end: str, existing: Existing = Existing.REASSIGN) -> Absence:
    """A wish for a period."""
    begin, stop = datetime.fromisoformat(start), datetime.fromisoformat(end)
    return Absence(start=begin, end=stop, reason=None, existing=existing, source="api")


async def set_by(time_off: TimeOff, org: int, wish: Absence, **more: Any) -> Away:
    """The operation, without HTTP."""
    return await time_off.close(org, COACH, wish, actor="tests", correlation_id="corr-1", **more)
