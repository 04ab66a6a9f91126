"""Whatever frees a time, in whichever process, the very next who asks where it was refused again and again gets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Any, TypeAlias

import pytest

from service.app import Services
from tests.api.client import Answer, Client, assert_problem, booking
from tests.api_people.asking import booked, changed, local, made, weekday
from tests.api_people.conftest import STRANGER
from tests.time_off.asking import away, back

CALENDAR, COACH = "cal-3", "coach-1"
DAY: date = weekday(2, 10)
NOON = local(DAY, "12:00")
# Makes noon of the coach unbookable, and gives what makes it bookable again.
Closing: TypeAlias = Callable[[Client], Awaitable[Callable[[Client], Awaitable[Any]]]]


async def by_a_booking(api: Client) -> Callable[[Client], Awaitable[Any]]:
    """It is cancelled."""
    path = f"/api/appointments/{(await booked(api, NOON, CALENDAR, COACH))['appointment_id']}"
    return lambda client: client("DELETE", path)


async def by_a_booking_that_moves(api: Client) -> Callable[[Client], Awaitable[Any]]:
    """It is moved to the afternoon."""
    path = f"/api/appointments/{(await booked(api, NOON, CALENDAR, COACH))['appointment_id']}"
    return lambda client: changed(client, path, start_time=local(DAY, "15:00"))


async def by_a_booking_that_another_coach_takes_over(api: Client) -> Callable[[Client], Awaitable[Any]]:
    """It is given to somebody else of the team."""
    path = f"/api/appointments/{(await booked(api, NOON, CALENDAR, COACH))['appointment_id']}"
    return lambda client: changed(client, path, coach_id="coach-3")


async def by_time_off(api: Client) -> Callable[[Client], Awaitable[Any]]:
    """The coach comes back."""
    period = await away(api, COACH, DAY, "11:00", "14:00")
    return lambda client: back(client, COACH, period["time_off_id"])


async def by_working_hours(api: Client) -> Callable[[Client], Awaitable[Any]]:
    """The coach works longer."""
    path, mornings = f"/api/coaches/{COACH}/schedule", [{"start": "09:00", "end": "11:00"}]
    before = (await api("GET", path)).json
    await changed(api, path, "PUT", weekly={"wednesday": mornings})
    return lambda client: changed(client, path, "PUT", weekly=before["weekly"])


async def by_the_daily_limit(api: Client) -> Callable[[Client], Awaitable[Any]]:
    """The limit is raised."""
    await changed(api, f"/api/coaches/{COACH}", max_daily_appointments=1)
    await booked(api, local(DAY, "10:00"), CALENDAR, COACH)
    return lambda client: changed(client, f"/api/coaches/{COACH}", max_daily_appointments=2)


@pytest.mark.parametrize(
    "closing",
    [
        by_a_booking,
        by_a_booking_that_moves,
        by_a_booking_that_another_coach_takes_over,
        by_time_off,
        by_working_hours,
        by_the_daily_limit,
    ],
)
async def test_the_next_who_asks_gets_what_was_freed(
    api: Client, second: Client, services: Services, org: int, closing: Closing
) -> None:
    free = await closing(api)
    await services.keeper.fill(org)  # a day that is derived may free something
    before = _claims(services)
    for person in range(3):
        answer = await api.book(_wish(person))
        assert_problem(answer, 409, "SLOT_UNAVAILABLE")
        assert_problem(await second.book(_wish(person)), 409, "SLOT_UNAVAILABLE")
    assert _claims(services) == before + 1, "the others were looked at"
    await free(second)
    answer = await api.book(_wish(3))
    assert answer.status == 201, answer.raw
    assert datetime.fromisoformat(answer.json["start_time"]) == datetime.fromisoformat(NOON)


async def test_a_coach_who_joins_the_team_gets_what_nobody_could_take(
    api: Client, second: Client, services: Services, org: int
) -> None:
    for person in range(2):
        assert (await api.book(booking(NOON, CALENDAR, person))).status == 201
    await services.keeper.fill(org)
    before = _claims(services)
    for person in range(2, 4):
        assert_problem(await api.book(booking(NOON, CALENDAR, person)), 409, "SLOT_UNAVAILABLE")
    assert _claims(services) == before + 1
    words: dict[str, Any] = {"name": "New", "email": "new@example.com", "timezone": "America/New_York"}
    await made(second, "/api/coaches", coach_id="new", calendar_ids=[CALENDAR], **words)
    answer = await api.book(booking(NOON, CALENDAR, 4))
    assert (answer.status, answer.json["coach_id"]) == (201, "new"), answer.raw


async def test_what_was_refused_says_nothing_of_another_coach_length_or_organization(
    api: Client, services: Services, org: int
) -> None:
    await changed(api, f"/api/calendars/{CALENDAR}", max_duration=60)
    await booked(api, local(DAY, "12:30"), CALENDAR, COACH)
    await services.keeper.fill(org)
    long, before = {"end_time": local(DAY, "13:00")}, _claims(services)
    for person in range(2):
        assert_problem(await api.book({**_wish(person), **long}), 409, "SLOT_UNAVAILABLE")
    assert _claims(services) == before + 1
    theirs = api.with_key(STRANGER)
    words: dict[str, Any] = {"name": "Theirs", "email": "theirs@example.com", "timezone": "America/New_York"}
    await made(theirs, "/api/coaches", coach_id=COACH, **words)
    wish: dict[str, Any] = {"calendar_id": CALENDAR, "name": "Theirs", "coach_ids": [COACH]}
    await made(theirs, "/api/calendars", slot_duration=15, max_duration=60, **wish)
    assert (await theirs.book({**_wish(1), **long})).status == 201
    assert (await api.book({**_wish(1), **long, "coach_id": "coach-3"})).status == 201
    assert (await api.book(_wish(1))).status == 201, "the shorter one"


async def test_a_refusal_by_a_look_is_answered_as_one_by_a_claim_and_tells_how_the_key_stands(
    api: Client, services: Services, org: int
) -> None:
    await services.keys.add(org, "limited", "limited", frozenset({"write"}), 5)
    limited = api.with_key("limited")
    await booked(api, NOON, CALENDAR, COACH)
    await services.keeper.fill(org)
    before = _claims(services)
    answers = [await limited.book(_wish(1), key=f"key-{number}") for number in range(7)]
    assert _claims(services) == before + 1
    first, *others = answers[:5]
    assert {_of_interest(one) for one in others} == {_of_interest(first)}
    problems = [assert_problem(one, 409, "SLOT_UNAVAILABLE") for one in answers[:5]]
    assert all(one["details"] == problems[0]["details"] for one in problems)
    assert len(problems[0]["details"]["alternatives"]) == 3
    for answer in answers[5:]:
        assert_problem(answer, 429, "RATE_LIMIT_EXCEEDED")
    assert [one.headers["X-RateLimit-Remaining"] for one in answers] == ["4", "3", "2", "1", "0", "0", "0"]


def _wish(person: int) -> dict[str, Any]:
    return booking(NOON, CALENDAR, person, coach_id=COACH)


def _claims(services: Services) -> int:
    """How many requests were claimed, or read, in this process."""
    services.metrics.later.write()
    found = services.metrics.registry.get_sample_value("booking_gate_batch_size_sum", {"kind": "claim"})
    return round(found or 0)


def _of_interest(answer: Answer) -> tuple[str, ...]:
    """The names of an answer's headers and fields."""
    return (*sorted(answer.headers), *sorted(answer.json))
