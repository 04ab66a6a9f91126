"""Rescheduling over HTTP: one step, the coach kept if possible, only from the version one has seen."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.app import Services
from tests.appointments.conftest import Api
from tests.operations.steps import differences
from tests.wishes import free_starts


async def book(api: Api, start: datetime, person: int = 0, **more: Any) -> dict[str, Any]:
    body = {
        "calendar_id": "cal-1",
        "start_time": start.isoformat(),
        "contact_email": f"person{person}@example.com",
        **more,
    }
    status, booked = await api("POST", "/api/appointments", body)
    assert status == 201, booked
    return booked


async def change(api: Api, appointment: dict[str, Any], *, method: str = "PATCH", **fields: Any) -> tuple[int, Any]:
    return await api(method, f"/api/appointments/{appointment['appointment_id']}", fields)


async def history(api: Api, appointment: dict[str, Any]) -> list[dict[str, Any]]:
    return (await api("GET", f"/api/appointments/{appointment['appointment_id']}/history"))[1]["history"]


async def offered(api: Api, coach_id: str) -> set[str]:
    _, answer = await api("GET", f"/api/availability?calendar_id=cal-1&coach_id={coach_id}&days=14")
    return {slot["start_time"] for slot in answer["slots"]}


def later(appointment: dict[str, Any], minutes: int) -> str:
    return (datetime.fromisoformat(appointment["start_time"]) + timedelta(minutes=minutes)).isoformat()


def instants(appointment: dict[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(appointment["start_time"]), datetime.fromisoformat(appointment["end_time"])


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_move_takes_the_new_time_and_frees_the_old(api: Api, services: Services, org: int, method: str) -> None:
    starts = await free_starts(services, org)
    booked = await book(api, starts[20])
    status, moved = await change(api, booked, method=method, start_time=starts[40].isoformat())
    assert status == 200, moved
    assert instants(moved) == (starts[40], starts[40] + timedelta(minutes=30))
    assert (moved["coach_id"], moved["version"]) == (booked["coach_id"], 2)
    assert moved["assignment"] == booked["assignment"]
    free = await offered(api, booked["coach_id"])
    assert booked["start_time"] in free
    assert moved["start_time"] not in free
    assert (await api("GET", f"/api/appointments/{booked['appointment_id']}"))[1] == moved
    told = await history(api, booked)
    assert [(event["type"], event["sequence"]) for event in told] == [
        ("appointment.created", 1),
        ("appointment.rescheduled", 2),
    ]
    assert "assignment" not in told[1]
    assert await differences(services, org) == 0
    assert await services.grid.pending() == {}


@pytest.mark.parametrize("minutes", [15, -15])
async def test_a_move_onto_its_own_time(api: Api, services: Services, org: int, minutes: int) -> None:
    booked = await book(api, (await free_starts(services, org))[20])
    status, moved = await change(api, booked, start_time=later(booked, minutes))
    assert (status, moved["coach_id"]) == (200, booked["coach_id"])
    free = await offered(api, booked["coach_id"])
    far = later(booked, -30 if minutes > 0 else 30)
    assert datetime.fromisoformat(far) in {datetime.fromisoformat(start) for start in free}
    assert booked["start_time"] not in free
    assert await differences(services, org) == 0


async def test_the_coach_goes_with_it_only_where_that_one_is_taken(api: Api, services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    booked = await book(api, starts[20])
    await book(api, starts[40], 1, coach_id=booked["coach_id"])
    status, moved = await change(api, booked, start_time=starts[40].isoformat())
    assert status == 200
    assert moved["coach_id"] != booked["coach_id"]
    told = (await history(api, booked))[1]
    assert told["type"] == "appointment.rescheduled"
    assert [one["coach_id"] for one in told["assignment"]["considered"] if one["won"]] == [moved["coach_id"]]
    assert booked["coach_id"] not in {one["coach_id"] for one in told["assignment"]["considered"]}
    assert await differences(services, org) == 0


async def test_a_coach_that_is_asked_for_or_nobody(api: Api, services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    booked = await book(api, starts[20], coach_id="coach-1")
    await book(api, starts[20], 1, coach_id="coach-2")
    status, answer = await change(api, booked, coach_id="coach-2")
    assert (status, answer["error"]) == (409, "SLOT_UNAVAILABLE")
    assert len(answer["details"]["alternatives"]) == 3
    assert (await api("GET", f"/api/appointments/{booked['appointment_id']}"))[1] == booked
    status, moved = await change(api, booked, coach_id="coach-3")
    assert (status, moved["coach_id"], moved["start_time"]) == (200, "coach-3", booked["start_time"])
    assert moved["assignment"] == {"strategy": "requested", "reason": "asked for by the client"}
    assert [event["type"] for event in await history(api, booked)][1:] == ["appointment.reassigned"]
    assert booked["start_time"] in await offered(api, "coach-1")
    status, answer = await change(api, booked, coach_id="coach-4")
    assert (status, answer["details"]["fields"][0]["field"]) == (400, "coach_id")
    assert (await change(api, booked, coach_id="nobody"))[0] == 404
    assert await differences(services, org) == 0


async def test_a_team_that_is_taken_refuses_and_changes_nothing(api: Api, services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    booked = await book(api, starts[20])
    for person in range(1, 6):
        await book(api, starts[40], person)
    status, answer = await change(api, booked, start_time=starts[40].isoformat(), notes="never")
    assert (status, answer["error"]) == (409, "SLOT_UNAVAILABLE")
    alternative = answer["details"]["alternatives"][0]["start_time"]
    assert (await api("GET", f"/api/appointments/{booked['appointment_id']}"))[1] == booked
    assert (await change(api, booked, start_time=alternative))[0] == 200
    assert await differences(services, org) == 0


async def test_notes_and_metadata_alone_touch_no_time(api: Api, services: Services, org: int) -> None:
    booked = await book(api, (await free_starts(services, org))[20], notes="first", metadata={"a": 1})
    status, changed = await change(api, booked, notes="second", metadata={"b": [2]})
    assert status == 200
    expected = {**booked, "notes": "second", "metadata": {"b": [2]}, "version": 2, "updated_at": changed["updated_at"]}
    assert changed == expected
    assert (await change(api, booked, notes=None))[1]["notes"] is None
    assert [event["type"] for event in await history(api, booked)][1:] == ["appointment.updated"] * 2
    # Noted after it took place as well; but it cannot be moved then.
    await api("POST", f"/api/appointments/{booked['appointment_id']}/complete")
    assert (await change(api, booked, notes="went well"))[1]["status"] == "completed"
    status, answer = await change(api, booked, start_time=later(booked, 15))
    assert (status, answer["error"]) == (409, "STATE_CONFLICT")


@pytest.mark.parametrize("fields", [{}, {"notes": "same"}, {"coach_id": "coach-1"}, {"start_time": "its own"}])
async def test_a_wish_that_changes_nothing_is_no_change(
    api: Api, services: Services, org: int, fields: dict[str, Any]
) -> None:
    booked = await book(api, (await free_starts(services, org))[20], coach_id="coach-1", notes="same")
    wish = {**fields, **({"start_time": booked["start_time"]} if "start_time" in fields else {})}
    assert await change(api, booked, **wish) == (200, booked)
    assert len(await history(api, booked)) == 1


async def test_a_confirmation_is_of_the_time_it_was_given_for(api: Api, services: Services, org: int) -> None:
    booked = await book(api, (await free_starts(services, org))[20], coach_id="coach-1")
    await api("POST", f"/api/appointments/{booked['appointment_id']}/confirm")
    assert (await change(api, booked, coach_id="coach-2"))[1]["confirmed_at"] is not None
    assert (await change(api, booked, start_time=later(booked, 30)))[1]["confirmed_at"] is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"start_time": "2020-01-01T10:00:00Z"}, "start_time"),
        ({"start_time": "2100-01-01T10:00:00Z"}, "start_time"),
        ({"start_time": "9999-12-31T23:45:00Z"}, "start_time"),
        ({"start_time": "off the grid"}, "start_time"),
        ({"start_time": "2027-01-01T10:00:00"}, "start_time"),
        ({"end_time": "longer"}, "end_time"),
        ({"start_time": 7}, "start_time"),
        ({"notes": "a\0b"}, "notes"),
        ({"metadata": {"k\0": 1}}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"status": "cancelled"}, "status"),
        ({"timezone": "Mars/Base"}, "timezone"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    api: Api, services: Services, org: int, fields: dict[str, Any], named: str
) -> None:
    booked = await book(api, (await free_starts(services, org))[20])
    words = {"off the grid": later(booked, 7), "longer": later(booked, 45)}
    wish = {name: words.get(value, value) if isinstance(value, str) else value for name, value in fields.items()}
    status, answer = await change(api, booked, **wish)
    assert (status, answer["error"]) == (400, "VALIDATION_ERROR"), answer
    assert answer["details"]["fields"][0]["field"].startswith(named)
    assert (await api("GET", f"/api/appointments/{booked['appointment_id']}"))[1] == booked


async def test_a_wall_clock_time_of_a_zone(api: Api, services: Services, org: int) -> None:
    booked = await book(api, (await free_starts(services, org))[20])
    days = 3 if datetime.fromisoformat(booked["start_time"]).weekday() == 4 else 1
    wall = datetime.fromisoformat(later(booked, days * 24 * 60)).strftime("%Y-%m-%dT15:00:00")
    status, moved = await change(api, booked, start_time=wall, timezone="America/New_York")
    assert status == 200, moved
    # The answer is in the zone that was named; the appointment stays in its own.
    shown = datetime.fromisoformat(wall).replace(tzinfo=ZoneInfo("America/New_York"))
    assert (moved["start_time"], moved["timezone"]) == (shown.isoformat(), "UTC")
    _, seen = await api("GET", f"/api/appointments/{booked['appointment_id']}")
    assert seen["start_time"] == shown.astimezone(UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("verb", ["PATCH", "PUT", "DELETE", "cancel", "confirm", "complete", "no-show"])
async def test_a_change_is_made_only_from_the_version_that_was_seen(
    api: Api, services: Services, org: int, verb: str
) -> None:
    booked = await book(api, (await free_starts(services, org))[20])
    path = f"/api/appointments/{booked['appointment_id']}"
    await change(api, booked, notes="meanwhile")

    async def again(etag: str) -> tuple[int, Any]:
        if verb in {"PATCH", "PUT"}:
            return await api(verb, path, {"notes": "mine"}, **{"If-Match": etag})
        if verb == "DELETE":
            return await api("DELETE", path, **{"If-Match": etag})
        return await api("POST", f"{path}/{verb}", **{"If-Match": etag})

    for etag in ('"v1"', 'W/"v2"', '"v3"', "v2", '"x"'):
        status, answer = await again(etag)
        assert (status, answer["error"]) == (412, "VERSION_MISMATCH"), etag
    assert (await again('"v1", "v2"'))[0] == 200
    assert (await api("GET", path))[1]["version"] == 3


async def test_two_who_move_from_one_version_are_told_apart(api: Api, services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    booked = await book(api, starts[20])
    path = f"/api/appointments/{booked['appointment_id']}"
    answers = await asyncio.gather(
        *(api("PATCH", path, {"start_time": starts[40 + 4 * n].isoformat()}, **{"If-Match": '"v1"'}) for n in range(6))
    )
    assert Counter(status for status, _ in answers) == {200: 1, 412: 5}
    assert await differences(services, org) == 0
    assert await services.grid.pending() == {}


@pytest.mark.parametrize("asked", [{}, {"coach_id": "coach-1"}], ids=["whoever is free", "with one coach"])
async def test_two_that_swap_their_times_never_overlap_and_are_never_lost(
    api: Api, services: Services, org: int, asked: dict[str, str]
) -> None:
    starts = await free_starts(services, org)
    pair = [await book(api, starts[20 + 2 * n], n, calendar_id="cal-3", coach_id="coach-1") for n in range(2)]
    await book(api, starts[20], 8, calendar_id="cal-3", coach_id="coach-3")
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(200):
        one, other = [(await api("GET", f"/api/appointments/{a['appointment_id']}"))[1] for a in pair]
        (status, _), (status_of_other, _) = await asyncio.gather(
            change(api, one, start_time=other["start_time"], **asked),
            change(api, other, start_time=one["start_time"], **asked),
        )
        seen[status, status_of_other] += 1
    assert {status for statuses in seen for status in statuses} <= {200, 409}, seen
    if not asked:
        assert seen[200, 200] > 0, seen
    overlaps = await services.database.first("count_overlaps", org)
    assert overlaps is not None
    assert overlaps["overlaps"] == 0
    for appointment in pair:
        _, now = await api("GET", f"/api/appointments/{appointment['appointment_id']}")
        assert now["status"] == "scheduled"
        told = await history(api, appointment)
        assert [event["sequence"] for event in told] == list(range(1, now["version"] + 1))
    assert await differences(services, org) == 0
    assert await services.grid.pending() == {}


async def test_a_booking_for_a_contact_by_id(api: Api, services: Services, org: int) -> None:
    start = (await free_starts(services, org))[20].isoformat()
    _, contact = await api("POST", "/api/contacts", {"email": "Grace@Example.com", "name": "Grace Hopper"})
    wish = {"calendar_id": "cal-1", "start_time": start, "contact_id": contact["contact_id"]}
    status, booked = await api("POST", "/api/appointments", wish)
    assert status == 201, booked
    assert booked["contact_id"] == contact["contact_id"]
    assert (booked["contact_email"], booked["contact_name"]) == ("grace@example.com", "Grace Hopper")
    both = {**wish, "contact_email": "grace@example.com"}
    status, answer = await api("POST", "/api/appointments", both)
    assert (status, answer["details"]["fields"][0]["field"]) == (400, "contact_id")
    for unknown in ("7b1f6d5e-0000-4000-8000-000000000000", "nobody"):
        assert (await api("POST", "/api/appointments", {**wish, "contact_id": unknown}))[0] == 404


async def test_alternatives_are_of_the_length_that_was_asked_for(api: Api, services: Services, org: int) -> None:
    await api("PATCH", "/api/calendars/cal-1", {"max_duration": 90})
    start = (await free_starts(services, org))[20]
    wish = {
        "calendar_id": "cal-1",
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(minutes=90)).isoformat(),
        "contact_email": "ada@example.com",
        "coach_id": "coach-1",
    }
    assert (await api("POST", "/api/appointments", wish))[0] == 201
    status, answer = await api("POST", "/api/appointments", wish)
    assert (status, answer["error"]) == (409, "SLOT_UNAVAILABLE")
    for alternative in answer["details"]["alternatives"]:
        begins, ends = instants(alternative)
        assert ends - begins == timedelta(minutes=90)
    status, booked = await api("POST", "/api/appointments", {**wish, **answer["details"]["alternatives"][0]})
    assert status == 201, booked


@pytest.mark.parametrize(
    "query", ["from=0001-01-01T00:00:00Z&timezone=America/New_York", "from=9999-12-30T20:00:00Z&days=1"]
)
async def test_availability_of_years_nobody_plans_for_is_refused(api: Api, query: str) -> None:
    status, answer = await api("GET", f"/api/availability?{query}")
    assert (status, answer["details"]["fields"][0]["field"]) == (400, "from")
