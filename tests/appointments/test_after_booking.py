"""What follows a booking: confirmed, completed, not shown up, cancelled; and every refusal in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from copy import copy
from typing import Any

import pytest

from service.app import Services
from service.db.appointments import Change, ChangeOutcome
from service.operations.change import ATTEMPTS
from service.operations.plan_move import MoveWish
from tests.appointments.conftest import Api
from tests.wishes import free_starts

VERBS = {"confirm": "confirmed", "complete": "completed", "no-show": "no_show", "cancel": "cancelled"}


async def book(api: Api, services: Services, org: int, index: int = 0, **more: Any) -> dict[str, Any]:
    start = (await free_starts(services, org))[index]
    body = {"calendar_id": "cal-1", "start_time": start.isoformat(), "contact_email": "ada@example.com", **more}
    status, booked = await api("POST", "/api/appointments", body)
    assert status == 201, booked
    return booked


async def say(api: Api, appointment: dict[str, Any], verb: str) -> tuple[int, Any]:
    return await api("POST", f"/api/appointments/{appointment['appointment_id']}/{verb}")


async def test_confirming_sets_the_time_and_only_once(api: Api, services: Services, org: int) -> None:
    booked = await book(api, services, org)
    status, once = await say(api, booked, "confirm")
    assert (status, once["status"], once["version"]) == (200, "scheduled", 2)
    assert once["confirmed_at"] is not None
    assert await say(api, booked, "confirm") == (200, once)


@pytest.mark.parametrize("last", ["complete", "no-show", "cancel"])
@pytest.mark.parametrize("then", ["complete", "no-show", "cancel", "confirm"])
async def test_what_is_final_stays(api: Api, services: Services, org: int, last: str, then: str) -> None:
    booked = await book(api, services, org)
    status, final = await say(api, booked, last)
    assert (status, final["status"]) == (200, VERBS[last])
    status, answer = await say(api, booked, then)
    if then == last:
        assert (status, answer) == (200, final)
    else:
        assert (status, answer["error"]) == (409, "STATE_CONFLICT")
    assert (await api("GET", f"/api/appointments/{booked['appointment_id']}"))[1] == final


@pytest.mark.parametrize(("verb", "free_again"), [("cancel", True), ("complete", False), ("no-show", False)])
async def test_only_a_cancellation_frees_the_time(
    api: Api, services: Services, org: int, verb: str, free_again: bool
) -> None:
    booked = await book(api, services, org)

    async def offered() -> bool:
        _, answer = await api("GET", f"/api/availability?calendar_id=cal-1&coach_id={booked['coach_id']}")
        return booked["start_time"] in {slot["start_time"] for slot in answer["slots"]}

    assert not await offered()
    await say(api, booked, verb)
    assert await offered() is free_again
    assert (await services.rebuild.verify(lambda _: None))[0].holds


async def test_of_many_endings_at_once_one_wins_and_the_others_hear_so(api: Api, services: Services, org: int) -> None:
    for round_number in range(5):
        booked = await book(api, services, org, round_number * 3)
        answers = await asyncio.gather(*(say(api, booked, verb) for verb in ["complete", "no-show", "cancel"] * 4))
        kinds = Counter(status for status, _ in answers)
        assert kinds == {200: 4, 409: 8}, kinds
        final = (await api("GET", f"/api/appointments/{booked['appointment_id']}"))[1]
        assert {answer["status"] for status, answer in answers if status == 200} == {final["status"]}
        history = (await api("GET", f"/api/appointments/{booked['appointment_id']}/history"))[1]["history"]
        assert [event["sequence"] for event in history] == [1, 2]
    assert (await services.rebuild.verify(lambda _: None))[0].holds
    assert not await services.grid.pending()


@pytest.mark.parametrize("verb", list(VERBS))
async def test_one_that_others_keep_forestalling_is_to_be_asked_again(
    api: Api, services: Services, org: int, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    booked = await book(api, services, org)
    appointments = services.change._appointments
    change = appointments.change

    async def forestalled(wanted: Change) -> ChangeOutcome:
        await services.move(
            org,
            wanted.after.appointment_id,
            MoveWish(notes=f"before version {wanted.after.version}"),
            actor="tests",
            correlation_id="corr",
        )
        return await change(wanted)

    # The moves write by themselves.
    monkeypatch.setattr(services.move, "_appointments", copy(appointments))
    with monkeypatch.context() as patch:
        patch.setattr(appointments, "change", forestalled)
        status, answer = await say(api, booked, verb)
    assert (status, answer["error"]) == (503, "SERVICE_UNAVAILABLE")
    status, now = await api("GET", f"/api/appointments/{booked['appointment_id']}")
    assert (now["status"], now["confirmed_at"], now["version"]) == ("scheduled", None, 1 + ATTEMPTS)
    status, done = await say(api, booked, verb)
    assert (status, done["version"]) == (200, 2 + ATTEMPTS)


async def test_the_history_says_who_what_when_and_who_was_considered(api: Api, services: Services, org: int) -> None:
    booked = await book(api, services, org)
    await api("POST", f"/api/appointments/{booked['appointment_id']}/confirm", **{"X-Correlation-ID": "from-test"})
    await api("DELETE", f"/api/appointments/{booked['appointment_id']}", {"reason": "ill"})
    status, answer = await api("GET", f"/api/appointments/{booked['appointment_id']}/history")
    assert status == 200
    created, confirmed, cancelled = answer["history"]
    assert [event["type"] for event in answer["history"]] == [
        "appointment.created",
        "appointment.confirmed",
        "appointment.cancelled",
    ]
    assert created["appointment"] == booked
    assert {event["actor"] for event in answer["history"]} == {"key:unlimited"}
    assert confirmed["correlation_id"] == "from-test"
    assert (cancelled["reason"], cancelled["appointment"]["status"]) == ("ill", "cancelled")
    considered = created["assignment"]["considered"]
    assert [one["coach_id"] for one in considered] == ["coach-1", "coach-2", "coach-3", "coach-5", "coach-6"]
    assert [one["coach_id"] for one in considered if one["won"]] == [booked["coach_id"]]
    assert sum(one["share"] for one in considered) == pytest.approx(1)
    status, answer = await api("GET", "/api/appointments/01900000-0000-7000-8000-000000000000/history")
    assert (status, answer["error"]) == (404, "NOT_FOUND")
