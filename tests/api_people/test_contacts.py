"""A contact is made once for an address, by hand or by a booking, and seen by its organization only."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from tests.api.client import Client, assert_problem
from tests.api_people.asking import booked, local, made, pages, refused, seen, weekday
from tests.api_people.conftest import READER, STRANGER


async def test_a_contact_is_shown_as_it_was_made(api: Client) -> None:
    answer = await api("POST", "/api/contacts", {"email": "Ann@Example.com", "name": "Ann", "phone": "+1 555"})
    assert answer.status == 201
    contact = answer.json
    assert answer.headers["Location"] == f"/api/contacts/{contact['contact_id']}"
    assert contact == await seen(api, f"/api/contacts/{contact['contact_id']}")
    assert (contact["email"], contact["name"], contact["phone"]) == ("ann@example.com", "Ann", "+1 555")
    bare = await made(api, "/api/contacts", email="bob@example.com")
    assert (bare["name"], bare["phone"]) == (None, None)


async def test_an_address_has_one_contact_also_in_a_race_and_with_a_booking(api: Client) -> None:
    wishes = [{"email": address} for address in ("ann@example.com", "ANN@example.com") * 4]
    answers = await asyncio.gather(*(api("POST", "/api/contacts", wish) for wish in wishes))
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 7}
    contact_id = next(answer.json["contact_id"] for answer in answers if answer.status == 201)
    lost = next(answer for answer in answers if answer.status == 409)
    details = {"field": "email", "contact_id": contact_id}
    assert assert_problem(lost, 409, "ALREADY_EXISTS")["details"] == details
    appointment = await booked(api, local(weekday(0), "10:00"), "cal-1", "coach-1", 7)
    taken = await api("POST", "/api/contacts", {"email": "person7@example.com"})
    assert assert_problem(taken, 409, "ALREADY_EXISTS")["details"]["contact_id"] == appointment["contact_id"]
    assert (await seen(api, f"/api/contacts/{appointment['contact_id']}"))["name"] == "Person 7"


async def test_every_refusal_names_its_field(api: Client) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"email": "nobody"}, "email"),
        ({"email": 3}, "email"),
        ({"name": "Ann"}, "email"),
        ({"email": "a@b.example", "name": ""}, "name"),
        ({"email": "a@b.example", "phone": "x" * 51}, "phone"),
        ({"email": "a@b.example", "phone": "1\0"}, "phone"),
        ({"email": "a@b.example", "age": 3}, "age"),
    ]
    for body, field in bad:
        refused(await api("POST", "/api/contacts", body), field)
    assert (await seen(api, "/api/contacts"))["contacts"] == []


async def test_adding_needs_write_and_other_organizations_see_nothing(api: Client) -> None:
    assert_problem(await api.with_key(READER)("POST", "/api/contacts", {"email": "a@b.example"}), 403, "FORBIDDEN")
    contact = await made(api, "/api/contacts", email="ann@example.com")
    stranger = api.with_key(STRANGER)
    assert_problem(await stranger("GET", f"/api/contacts/{contact['contact_id']}"), 404, "NOT_FOUND")
    assert_problem(await api("GET", "/api/contacts/ann"), 404, "NOT_FOUND")
    assert (await seen(stranger, "/api/contacts"))["contacts"] == []
    other = await made(stranger, "/api/contacts", email="ann@example.com")
    assert other["contact_id"] != contact["contact_id"]


async def test_a_list_pages_completely(api: Client) -> None:
    ids = {(await made(api, "/api/contacts", email=f"p{n}@example.com"))["contact_id"] for n in range(7)}
    found = await pages(api, "/api/contacts", "contacts", 3)
    assert [len(page) for page in found] == [3, 3, 1]
    assert {contact["contact_id"] for page in found for contact in page} == ids
    for cursor in ("x", "Y29udGFjdHM6eA"):
        refused(await api("GET", f"/api/contacts?cursor={cursor}"), "cursor")
