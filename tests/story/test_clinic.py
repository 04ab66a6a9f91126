"""The story of a clinic: what its desk sees of fifty appointments, and that no doctor is ever booked twice."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from service.app import Services, open_services
from service.cli import clinic_of
from service.operations.seed_clinic import CLINIC, STEPS
from tests.api.client import Client, all_at_once, assert_problem
from tests.story.conftest import HERE, Clinic, begin, load, same_again

SPECIALTIES = {
    "dr-osei": "cardiology",
    "dr-lindqvist": "dermatology",
    "dr-haddad": "neurology",
    "dr-moreau": "orthopedics",
    "dr-tanaka": "pediatrics",
}


def live(appointments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that were not cancelled."""
    return [appointment for appointment in appointments if appointment["status"] != "cancelled"]


def overlaps(appointments: list[dict[str, Any]]) -> int:
    """Pairs of neighbours of one doctor, of whom the second begins before the first has ended."""
    by_doctor = sorted(live(appointments), key=lambda one: (one["coach_id"], begin(one)))
    pairs = [(first, second) for first, second in pairwise(by_doctor) if first["coach_id"] == second["coach_id"]]
    return sum(begin(second) < datetime.fromisoformat(first["end_time"]) for first, second in pairs)


async def holds(services: Services) -> bool:
    """Whether nothing overlaps, buffers included, and the grid is what Postgres says, for every organization."""
    return not [found for found in await services.rebuild.verify(lambda _: None) if not found.holds]


async def book(api: Client, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    """An appointment that can be made."""
    answer = await api("POST", "/api/appointments", body, headers=headers)
    assert answer.status == 201, answer.raw
    assert begin(answer.json) == begin(body)
    assert answer.json["coach_id"] == body["coach_id"]
    return answer.json


def alone_at_noon(appointments: list[dict[str, Any]]) -> dict[str, Any]:
    """A visit of at least half an hour around noon, the only one of its doctor on its day."""
    of_a_day = Counter((one["coach_id"], begin(one).date()) for one in live(appointments))
    return next(
        one
        for one in live(appointments)
        if of_a_day[one["coach_id"], begin(one).date()] == 1
        and 11 <= begin(one).hour <= 14
        and datetime.fromisoformat(one["end_time"]) - begin(one) >= timedelta(minutes=30)
    )


async def test_fifty_appointments_over_fourteen_days_ten_cancelled_none_overlapping(
    clinic: Clinic, services: Services
) -> None:
    coaches = (await clinic.api("GET", "/api/coaches")).json["coaches"]
    assert {coach["coach_id"]: coach["specialty"] for coach in coaches} == SPECIALTIES
    contacts = (await clinic.api("GET", "/api/contacts")).json["contacts"]
    assert len(contacts) == 10
    everything = await clinic.appointments()
    assert Counter(one["status"] for one in everything) == {"scheduled": 40, "cancelled": 10}
    assert overlaps(everything) == 0
    assert await holds(services)
    days = Counter(begin(one).date() for one in everything)
    assert set(days) == {day for day in clinic.days if day.weekday() < 5}
    assert set(days.values()) == {5}
    assert {one["coach_id"] for one in everything} == set(SPECIALTIES)
    assert {one["contact_email"] for one in everything} == {contact["email"] for contact in contacts}
    assert set(Counter((one["contact_email"], begin(one).date()) for one in everything).values()) == {1}
    own = [one for one in everything if one["calendar_id"] != "general"]
    assert all(one["calendar_id"] == SPECIALTIES[one["coach_id"]] for one in own)
    assert Counter(one["calendar_id"] for one in everything) == {
        **dict.fromkeys(SPECIALTIES.values(), 8),
        "general": 10,
    }


async def test_the_lists_by_doctor_and_day_put_together_are_the_whole(clinic: Clinic) -> None:
    everything = await clinic.appointments()
    seen: list[str] = []
    for doctor in SPECIALTIES:
        for day in clinic.days:
            found = await clinic.appointments(f"&coach_id={doctor}&date={day}&timezone={HERE.key}")
            assert {(one["coach_id"], begin(one).date()) for one in found} <= {(doctor, day)}
            assert [begin(one) for one in found] == sorted(begin(one) for one in found)
            seen += [one["appointment_id"] for one in found]
    assert sorted(seen) == sorted(one["appointment_id"] for one in everything)
    cancelled = await clinic.appointments("&status=cancelled")
    assert len(cancelled) == 10
    assert all(one["cancelled_at"] is not None for one in cancelled)


async def test_a_taken_time_is_refused_with_three_that_can_be_booked(clinic: Clinic, services: Services) -> None:
    taken = alone_at_noon(await clinic.appointments())
    # A quarter of an hour later through the other calendar: not the same start, but the same doctor's time.
    later = (begin(taken) + timedelta(minutes=15)).isoformat()
    overlapping = same_again(taken, 1, start_time=later, calendar_id="general")
    for wish in (same_again(taken), overlapping):
        problem = assert_problem(await clinic.api.book(wish), 409, "SLOT_UNAVAILABLE")
        alternatives = problem["details"]["alternatives"]
        assert len(alternatives) == 3
        for alternative in alternatives:
            assert datetime.fromisoformat(alternative["start_time"]) >= datetime.fromisoformat(taken["end_time"])
            booked = await book(clinic.api, {**wish, "start_time": alternative["start_time"]})
            assert booked["end_time"] == alternative["end_time"]
            await clinic.cancel(booked)
    # Nothing else was in the way.
    await clinic.cancel(taken)
    await book(clinic.api, overlapping)
    assert await holds(services)


async def test_every_cancelled_time_can_be_booked_again(clinic: Clinic, services: Services) -> None:
    cancelled = await clinic.appointments("&status=cancelled")
    for number, appointment in enumerate(cancelled):
        again = await book(clinic.api, same_again(appointment, number))
        assert again["appointment_id"] != appointment["appointment_id"]
        assert_problem(await clinic.api.book(same_again(appointment, 99)), 409, "SLOT_UNAVAILABLE")
    everything = await clinic.appointments()
    assert Counter(one["status"] for one in everything) == {"scheduled": 50, "cancelled": 10}
    assert overlaps(everything) == 0
    assert await holds(services)


async def test_the_history_names_the_request_behind_each_step(clinic: Clinic) -> None:
    everything = await clinic.appointments()
    gone = next(one for one in everything if one["status"] == "cancelled")
    created, cancelled = await clinic.history(gone)
    assert created["correlation_id"].startswith("seed-clinic-")
    assert {created["actor"], cancelled["actor"]} == {"command:seed"}
    assert cancelled["reason"] == "the patient cannot come"
    booked = await book(clinic.api, same_again(gone), **{"X-Correlation-ID": "visit-made"})
    confirm = f"/api/appointments/{booked['appointment_id']}/confirm"
    assert (await clinic.api("POST", confirm, headers={"X-Correlation-ID": "visit-confirmed"})).status == 200
    await clinic.cancel(booked, **{"X-Correlation-ID": "visit-cancelled"})
    steps = await clinic.history(booked)
    assert [(one["type"], one["correlation_id"], one["actor"]) for one in steps] == [
        ("appointment.created", "visit-made", "key:desk"),
        ("appointment.confirmed", "visit-confirmed", "key:desk"),
        ("appointment.cancelled", "visit-cancelled", "key:desk"),
    ]


async def test_of_ten_at_once_for_one_doctor_and_time_one_is_booked(clinic: Clinic, services: Services) -> None:
    everything = await clinic.appointments()
    gone = next(one for one in everything if one["status"] == "cancelled")
    answers = await all_at_once(clinic.api.book(same_again(gone, number)) for number in range(10))
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 9}
    (winner,) = [answer.json for answer in answers if answer.status == 201]
    for answer in answers:
        if answer.json != winner:
            assert_problem(answer, 409, "SLOT_UNAVAILABLE")
    day = f"&coach_id={gone['coach_id']}&date={begin(gone).date()}&timezone={HERE.key}&status=scheduled"
    found = [one["appointment_id"] for one in await clinic.appointments(day) if begin(one) == begin(gone)]
    assert found == [winner["appointment_id"]]
    assert len(await clinic.appointments()) == 51
    assert await holds(services)


async def test_nothing_of_the_clinic_shows_in_the_sample_organization(clinic: Clinic, services: Services) -> None:
    demo = clinic.demo
    assert (await demo("GET", "/api/appointments")).json["appointments"] == []
    assert (await demo("GET", "/api/contacts")).json["contacts"] == []
    for path, name in (("coaches", "coach_id"), ("calendars", "calendar_id")):
        ours = {one[name] for one in (await clinic.api("GET", f"/api/{path}")).json[path]}
        theirs = {one[name] for one in (await demo("GET", f"/api/{path}")).json[path]}
        assert ours
        assert not ours & theirs
    (one, *_) = await clinic.appointments()
    path = f"/api/appointments/{one['appointment_id']}"
    for method, place in [("GET", path), ("GET", f"{path}/history"), ("POST", f"{path}/cancel"), ("DELETE", path)]:
        assert_problem(await demo(method, place), 404, "NOT_FOUND")
    assert_problem(await demo.book(same_again(one)), 404, "NOT_FOUND")
    for place in ("coaches/dr-osei", "calendars/cardiology", f"contacts/{one['contact_id']}"):
        assert_problem(await demo("GET", f"/api/{place}"), 404, "NOT_FOUND")
    assert (await clinic.appointments())[0] == one
    async with services.database.transaction() as connection:
        rows = await connection.fetch("SELECT org_id, count(*) FROM events GROUP BY org_id")
    assert [tuple(row) for row in rows] == [(clinic.org, 60)]


async def test_every_booking_and_cancellation_is_announced(clinic: Clinic, services: Services) -> None:
    redis: Any = services.redis
    entries = await redis.xrange(services.shards.of(clinic.org).stream("crm"))
    events = Counter(fields[b"event"].decode() for _, fields in entries)
    wanted: set[str] = set()
    for one in await clinic.appointments():
        name = f"{clinic.org} {one['appointment_id'].replace('-', '')}"
        wanted |= {f"{name} {version}" for version in range(1, one["version"] + 1)}
    assert len(wanted) == 60
    assert events == dict.fromkeys(wanted, 1)


async def test_loading_it_again_changes_nothing_also_with_redis_emptied(clinic: Clinic, services: Services) -> None:
    before = await clinic.appointments()
    assert await load(services) == (0, STEPS)
    await services.redis.flushall()
    assert await load(services) == (0, STEPS)
    assert await clinic.appointments() == before


@pytest.mark.parametrize("broken_after", [3, 9, 15, 40, 75])
async def test_a_load_that_was_broken_off_is_finished_by_the_next(services: Services, broken_after: int) -> None:
    left = iter(range(broken_after))

    def progress() -> None:
        if next(left, None) is None:
            raise InterruptedError

    async with open_services(services.settings) as loading:
        with pytest.raises(InterruptedError):
            await clinic_of(loading)(progress)
    added, _ = await load(services)
    assert added == STEPS - broken_after - 1
    org = await services.roster_store.organization(CLINIC)
    async with services.database.transaction() as connection:
        rows = await connection.fetch(
            "SELECT status::text, count(*) FROM appointments WHERE org_id = $1 GROUP BY status", org
        )
    assert {row["status"]: row["count"] for row in rows} == {"scheduled": 40, "cancelled": 10}
    assert await load(services) == (0, STEPS)
    assert await holds(services)
