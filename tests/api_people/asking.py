"""What tests of coaches, calendars and contacts ask again and again."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.app import Services
from service.domain.grid import day_of
from service.operations.rosters import grid_days
from tests.api.client import Answer, Client, assert_problem, booking

NEW_YORK = ZoneInfo("America/New_York")


def weekday(number: int, after_days: int = 3) -> date:
    """The first date with that weekday (Monday 0) at least `after_days` from today."""
    day = datetime.now(NEW_YORK).date() + timedelta(days=after_days)
    return day + timedelta(days=(number - day.weekday()) % 7)


async def made(api: Client, path: str, **body: Any) -> dict[str, Any]:
    """What a POST made."""
    answer = await api("POST", path, body)
    assert answer.status == 201, answer.raw
    return answer.json


async def changed(api: Client, path: str, method: str = "PATCH", **body: Any) -> dict[str, Any]:
    """What a PATCH or PUT left."""
    answer = await api(method, path, body)
    assert answer.status == 200, answer.raw
    return answer.json


async def seen(api: Client, path: str) -> dict[str, Any]:
    """What a GET answers."""
    answer = await api("GET", path)
    assert answer.status == 200, answer.raw
    return answer.json


def refused(answer: Answer, field: str) -> None:
    """The answer is a 400 that names the field."""
    problem = assert_problem(answer, 400, "VALIDATION_ERROR")
    assert [one["field"] for one in problem["details"]["fields"]] == [field], problem["details"]


async def clock_starts(api: Client, coach: str, day: date, zone: str = "America/New_York", **query: str) -> list[str]:
    """The starts `HH:MM` of a coach's date."""
    words = "".join(f"&{name}={value}" for name, value in query.items())
    answer = await seen(api, f"/api/coaches/{coach}/availability?date={day}&timezone={zone}{words}")
    assert answer["total_available"] == len(answer["slots"])
    assert {slot["coach_id"] for slot in answer["slots"]} <= {coach}
    return [datetime.fromisoformat(slot["start_time"]).strftime("%H:%M") for slot in answer["slots"]]


async def booked(api: Client, start: str, calendar: str, coach: str, person: int = 0) -> dict[str, Any]:
    """An appointment with a coach."""
    answer = await api.book(booking(start, calendar, person, coach_id=coach))
    assert answer.status == 201, answer.raw
    return answer.json


def local(day: date, clock: str, zone: ZoneInfo = NEW_YORK) -> str:
    """RFC 3339 of a wall time."""
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=zone).isoformat()


async def differences(services: Services, org: int) -> int:
    """Cells and counts of the grid that are not what Postgres says."""
    roster = await services.rosters.get(org)
    days = grid_days(roster, day_of(services.clock.now()))
    return sum([(await services.keeper.check_day(org, day, write=False)).total for day in days])


async def pages(api: Client, path: str, name: str, limit: int) -> list[list[dict[str, Any]]]:
    """Every page of a list."""
    found: list[list[dict[str, Any]]] = []
    cursor = ""
    while True:
        page = await seen(api, f"{path}?limit={limit}{cursor}")
        found.append(page[name])
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
        assert len(found) < 100
