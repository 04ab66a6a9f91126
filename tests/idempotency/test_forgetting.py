"""Old keys are forgotten a few at a time by one worker; what is younger, or under way, stays."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from service.app import Services, open_services
from service.assemble_worker import forgetting
from service.db.idempotency import Completion, FinalAnswer, KeyRecords
from service.operations.forget_keys import ForgetKeys
from tests.api.client import Client, assert_problem, booking
from tests.idempotency.writes import Write

GROW_OLD = "UPDATE idempotency_records SET created_at = now() - make_interval(hours => $1)"


async def test_records_older_than_the_retention_go_in_batches_and_are_counted(
    services: Services, api: Client, sql: Any
) -> None:
    for number in range(7):
        assert (
            await Write("POST", "/api/contacts", {"email": f"a{number}@example.com"})(api, f"old-{number}")
        ).status == 201
    await sql.execute(GROW_OLD, 26)
    young, held = uuid4().hex, uuid4().hex
    assert (await Write("POST", "/api/contacts", {"email": "young@example.com"})(api, young)).status == 201
    await sql.execute(
        "INSERT INTO idempotency_records (org_id, key, fingerprint, operation, owner, held_until, created_at)"
        " SELECT org_id, $1, '\\x00', gen_random_uuid(), gen_random_uuid(), now() + interval '1 minute',"
        " now() - interval '3 days' FROM organizations WHERE name = 'demo'",
        held,
    )
    statements = list[int]()
    records = KeyRecords(services.database)
    really = records.forget

    async def counted(hours: int, most: int) -> int:
        statements.append(await really(hours, most))
        return statements[-1]

    records.forget = counted  # type: ignore[method-assign]
    assert await ForgetKeys(records, services.metrics, 25, batch=3)() == 7
    assert statements == [3, 3, 1]
    assert services.metrics.forgotten_keys._value.get() == 7
    left = {row["key"] for row in await sql.fetch("SELECT key FROM idempotency_records")}
    assert left == {young, held}


async def test_a_forgotten_key_may_be_used_again_but_a_bookings_stays(
    services: Services, api: Client, sql: Any
) -> None:
    key, booked_under = uuid4().hex, uuid4().hex
    contact = Write("POST", "/api/contacts", {"email": "a@example.com"})
    assert (await contact(api, key)).status == 201
    wish = booking((await api.starts())[20])
    booked = await api.book(wish, key=booked_under)
    await sql.execute(GROW_OLD, 26)
    assert await forgetting(services)() == 1
    await services.redis.flushall()
    other = await Write("POST", "/api/contacts", {"email": "b@example.com"})(api, key)
    assert (other.status, "Idempotent-Replayed" in other.headers) == (201, False)
    again = await api.book(wish, key=booked_under)
    assert (again.status, again.raw) == (201, booked.raw)
    assert_problem(await contact(api, booked_under), 422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_key_is_kept_from_its_answer_on_however_long_ago_it_was_begun(
    services: Services, org: int, sql: Any
) -> None:
    records = KeyRecords(services.database)
    hold = await records.begin(org, "key-1", b"\0" * 16, uuid4(), 0)
    assert hold is not None
    await sql.execute(GROW_OLD, 26)
    assert await records.complete(Completion(hold, FinalAnswer(200, {}, b"{}")))
    assert await records.forget(25, 10) == 0


async def test_of_several_workers_one_does_it_a_period(services: Services, api: Client, sql: Any) -> None:
    assert (await Write("POST", "/api/contacts", {"email": "a@example.com"})(api, uuid4().hex)).status == 201
    await sql.execute(GROW_OLD, 26)
    async with open_services(services.settings) as others:
        assert sorted(await asyncio.gather(forgetting(services)(), forgetting(others)())) == [0, 1]
        await sql.execute(
            "INSERT INTO idempotency_records (org_id, key, fingerprint, status, headers, body, created_at)"
            " SELECT org_id, 'late', '\\x00', 200, '{}', '', now() - interval '2 days' FROM organizations LIMIT 1"
        )
        assert await forgetting(others)() == 0, "not before the period is over"
