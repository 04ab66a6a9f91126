"""What a key stands for: one request of one organization, from the moment it is begun until it is answered 2xx."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from sanic.compat import Header

from service.api.parsing import idempotency_key
from service.app import Services
from service.errors import GateClosed, InvalidRequest
from tests.api.client import Client, assert_problem, booking
from tests.api_people.asking import made, seen
from tests.api_people.conftest import STRANGER
from tests.idempotency.writes import EXAMPLES, Write, counted, difference
from tests.servers import eventually


@pytest.mark.parametrize("emptied", [False, True], ids=["redis-knows", "redis-lost"])
async def test_a_key_that_was_used_is_refused_on_every_other_route_and_for_every_other_body(
    services: Services, api: Client, second: Client, sql: Any, emptied: bool
) -> None:
    starts = await api.starts("cal-1", coaches=3)
    booked_under, cancelled_under, made_under = (uuid4().hex for _ in range(3))
    booked = await api.book(booking(starts[10]), key=booked_under)
    path = f"/api/appointments/{booked.json['appointment_id']}"
    other = await api.book(booking(starts[10], person=2))
    coach = Write("POST", "/api/coaches", {"name": "New", "email": "new@example.com"})
    assert (await Write("POST", f"{path}/cancel")(api, cancelled_under)).status == 200
    assert (await coach(api, made_under)).status == 201
    before = await counted(sql)
    if emptied:
        await services.redis.flushall()
    refused = [
        (Write("POST", f"{path}/cancel"), booked_under),
        (coach, booked_under),
        (Write("POST", "/api/appointments", booking(starts[12])), cancelled_under),
        (Write("POST", "/api/appointments", booking("2020-01-01T00:00:00Z")), cancelled_under),
        (Write("POST", "/api/appointments", booking(starts[12], "cal-99")), made_under),
        (Write("DELETE", path), cancelled_under),
        (Write("POST", f"{path}/cancel", {"reason": "ill"}), cancelled_under),
        (Write("POST", f"/api/appointments/{other.json['appointment_id']}/cancel"), cancelled_under),
        (Write("POST", "/api/coaches", {"name": "New", "email": "newer@example.com"}), made_under),
        (Write("POST", "/api/contacts", coach.body), made_under),
    ]
    for write, key in refused:
        for client in (api, second):
            problem = await write(client, key)
            assert_problem(problem, 422, "IDEMPOTENCY_KEY_REUSED")
    assert difference(before, await counted(sql)) == {}
    await eventually(lambda: _nothing_pending(services), what="the refused bookings' claims being freed")


async def _nothing_pending(services: Services) -> bool:
    try:
        return await services.grid.pending() == {}
    except GateClosed:
        return False  # Redis was emptied and is not asked again yet


async def test_a_refused_request_leaves_its_key_free_for_another_body_and_another_route(
    api: Client, second: Client, sql: Any
) -> None:
    key = uuid4().hex
    taken = {"name": "Alice", "email": "alice.johnson@example.com"}
    await made(api, "/api/coaches", **taken)
    assert_problem(await Write("POST", "/api/coaches", taken)(api, key), 409, "ALREADY_EXISTS")
    assert_problem(await Write("POST", "/api/coaches", {"name": 5})(second, key), 400, "VALIDATION_ERROR")
    assert_problem(await Write("PATCH", "/api/coaches/nobody", {"name": "N"})(api, key), 404, "NOT_FOUND")
    booked = await api.book(booking((await api.starts())[20]))
    path = f"/api/appointments/{booked.json['appointment_id']}"
    stale = await Write("POST", f"{path}/cancel")(second, key, **{"If-Match": '"v7"'})
    assert_problem(stale, 412, "VERSION_MISMATCH")
    assert await sql.fetchval("SELECT count(*) FROM idempotency_records") == 0
    first = await Write("POST", f"{path}/cancel")(api, key)
    assert (first.status, "Idempotent-Replayed" in first.headers) == (200, False)
    # The version it was made from is the old one by now, and what was answered then is answered still.
    again = await Write("POST", f"{path}/cancel")(second, key, **{"If-Match": '"v1"'})
    assert (again.status, again.raw, again.headers["ETag"]) == (200, first.raw, first.headers["ETag"])


async def test_a_duplicate_of_a_request_under_way_waits_for_its_answer(api: Client, second: Client, sql: Any) -> None:
    write, key = Write("PATCH", "/api/coaches/coach-2", {"specialty": "Law"}), uuid4().hex
    async with sql.transaction():
        await sql.execute("SELECT FROM organizations FOR NO KEY UPDATE")
        first = asyncio.ensure_future(write(api, key))
        await eventually(lambda: _held(sql, key), what="the key being held")
        duplicate = asyncio.ensure_future(write(second, key))
        other = asyncio.ensure_future(Write("POST", "/api/contacts", {"email": "a@example.com"})(second, key))
        done, _ = await asyncio.wait({first, duplicate, other}, timeout=0.3)
        assert not done
    answers = await asyncio.gather(first, duplicate)
    assert {(answer.status, answer.raw) for answer in answers} == {(200, answers[0].raw)}
    assert ["Idempotent-Replayed" in answer.headers for answer in answers] == [False, True]
    assert_problem(await other, 422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize("emptied", [False, True], ids=["redis-knows", "redis-lost"])
async def test_a_duplicate_waits_only_so_long(
    services: Services, api: Client, second: Client, sql: Any, monkeypatch: pytest.MonkeyPatch, emptied: bool
) -> None:
    monkeypatch.setattr("service.operations.carry_out_once.PATIENCE_S", 0.2)
    monkeypatch.setattr("service.operations.book.PATIENCE_S", 0.2)
    write, key = Write("PATCH", "/api/coaches/coach-2", {"specialty": "Law"}), uuid4().hex
    booked = Write("POST", "/api/appointments", booking((await api.starts())[30]))
    async with sql.transaction():
        await sql.execute("SELECT FROM organizations FOR NO KEY UPDATE")
        first = asyncio.ensure_future(write(api, key))
        await eventually(lambda: _held(sql, key), what="the key being held")
        if emptied:
            await services.redis.flushall()
        for duplicate in (write, Write("DELETE", "/api/coaches/coach-2"), booked):
            answer = await duplicate(second, key)
            assert_problem(answer, 409, "IDEMPOTENCY_IN_PROGRESS")
            assert int(answer.headers["Retry-After"]) >= 1
    assert (await first).status == 200
    assert (await write(second, key)).raw == (await first).raw


async def _held(sql: Any, key: str) -> bool:
    return await sql.fetchval("SELECT count(*) FROM idempotency_records WHERE key = $1 AND status IS NULL", key) == 1


async def test_redis_emptied_again_and_again_between_100_duplicates_makes_no_second_effect(
    services: Services, api: Client, second: Client, sql: Any
) -> None:
    write, key, before = await EXAMPLES["create_coach"].ready(api, 5, sql), uuid4().hex, await counted(sql)
    sent = [asyncio.ensure_future(write((api, second)[n % 2], key)) for n in range(100)]
    while not all(one.done() for one in sent):
        await services.redis.flushall()
        await asyncio.wait(sent, timeout=0.03)
    answers = await asyncio.gather(*sent)
    assert Counter(answer.status for answer in answers) == {201: 100}
    assert len({answer.raw for answer in answers}) == 1
    assert difference(before, await counted(sql)) == EXAMPLES["create_coach"].adds


async def test_the_same_key_of_another_organization_is_another_key(api: Client, sql: Any) -> None:
    key, body = uuid4().hex, {"name": "New", "email": "new@example.com"}
    write = Write("POST", "/api/coaches", body)
    ours = await write(api, key)
    theirs = await write(api.with_key(STRANGER), key)
    assert (ours.status, theirs.status) == (201, 201)
    assert "Idempotent-Replayed" not in theirs.headers
    assert ours.json["coach_id"] != theirs.json["coach_id"]
    assert (await write(api.with_key(STRANGER), key)).raw == theirs.raw
    (one,) = (await seen(api.with_key(STRANGER), "/api/coaches"))["coaches"]
    assert one["coach_id"] == theirs.json["coach_id"]


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Idempotency-Key"])
@pytest.mark.parametrize("key", ["", '""', "with space", "x" * 256, "umlaut-ü"])
async def test_a_malformed_key_is_refused_by_its_header(api: Client, sql: Any, name: str, key: str) -> None:
    before = await counted(sql)
    for write in (Write("POST", "/api/contacts", {"email": "a@example.com"}), Write("DELETE", "/api/coaches/coach-1")):
        problem = assert_problem(
            await api(write.method, write.path, write.body, headers={name: key}), 400, "VALIDATION_ERROR"
        )
        assert [field["field"] for field in problem["details"]["fields"]] == [name]
    assert difference(before, await counted(sql)) == {}


async def test_two_keys_that_differ_are_refused_and_two_alike_are_one(api: Client) -> None:
    body = {"email": "twice@example.com", "name": "Two Keys"}
    two = {"Idempotency-Key": "one", "X-Idempotency-Key": "another"}
    problem = assert_problem(await api("POST", "/api/contacts", body, headers=two), 400, "VALIDATION_ERROR")
    assert [field["field"] for field in problem["details"]["fields"]] == ["Idempotency-Key"]
    with pytest.raises(InvalidRequest):
        idempotency_key(Header([("X-Idempotency-Key", "one"), ("X-Idempotency-Key", "another")]))
    alike = {"Idempotency-Key": '"one"', "X-Idempotency-Key": "one"}
    first = await api("POST", "/api/contacts", body, headers=alike)
    again = await api("POST", "/api/contacts", body, headers={"Idempotency-Key": "one"})
    assert (first.status, again.status, again.raw) == (201, 201, first.raw)


async def test_a_key_is_the_same_quoted_or_bare_under_either_name_and_fields_in_any_order(api: Client) -> None:
    key = uuid4().hex
    body = {"email": "a@example.com", "name": "A"}
    first = await api("POST", "/api/contacts", body, headers={"Idempotency-Key": key})
    for name, text in (("Idempotency-Key", f'"{key}"'), ("X-Idempotency-Key", key)):
        spaced = b'{ "name": "A",  "email": "a@example.com" }'
        again = await api("POST", "/api/contacts", raw=spaced, headers={name: text})
        assert (again.status, again.raw, again.headers["Location"]) == (201, first.raw, first.headers["Location"])
