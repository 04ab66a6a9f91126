"""A benchmark whose answers are not in Postgres fails, and so does one whose appointments overlap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from loadtest.bench.setting import CALENDAR, RATE_LIMIT, Crowd, first_midnight, make_crowd
from loadtest.bench.truth import Untrue, booked, check_count, check_overlaps
from service.db.keys import hash_of

HALF_HOUR = timedelta(minutes=30)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_the_setting_is_an_organization_whose_key_is_counted(sql: Any) -> None:
    crowd = await make_crowd(sql, "one-", organizations=2, coaches=3)
    assert len(crowd.orgs) == 2
    team = await sql.fetchval("SELECT count(*) FROM calendar_coaches WHERE org_id = $1", crowd.orgs[1])
    assert team == 3
    limit = await sql.fetchval("SELECT rate_limit FROM api_keys WHERE key_hash = $1", hash_of(crowd.key))
    assert limit == RATE_LIMIT
    assert await sql.fetchval("SELECT calendar_id FROM calendars WHERE org_id = $1", crowd.orgs[0]) == CALENDAR
    left = await sql.fetchval("SELECT count(*) FROM grid_repairs WHERE org_id = ANY($1::integer[])", list(crowd.orgs))
    assert left == 0, "every commit would look for repairs"


@pytest.mark.parametrize(
    ("counted", "open_requests", "holds"), [(3, 0, True), (2, 1, True), (4, 9, False), (2, 0, False)]
)
async def test_rows_are_what_was_counted_and_what_was_cut_off_at_most(
    sql: Any, counted: int, open_requests: int, holds: bool
) -> None:
    crowd = await make_crowd(sql, "rows-", coaches=1)
    before = await booked(sql, crowd.orgs)
    for number in range(3):
        await book(sql, crowd, number)
    if holds:
        assert await check_count(sql, crowd.orgs, before, counted, open_requests) == 3
    else:
        with pytest.raises(Untrue, match="3 are in Postgres"):
            await check_count(sql, crowd.orgs, before, counted, open_requests)


async def test_an_overlap_is_found_though_no_constraint_refused_it(sql: Any) -> None:
    crowd = await make_crowd(sql, "double-", coaches=1)
    await book(sql, crowd, 0)
    await book(sql, crowd, 1)
    await check_overlaps(sql)
    await sql.execute("ALTER TABLE appointments DROP CONSTRAINT appointments_no_overlap_per_coach")
    await book(sql, crowd, 0.5)
    with pytest.raises(Untrue, match="overlap"):
        await check_overlaps(sql)


async def book(sql: Any, crowd: Crowd, place: float) -> None:
    """Put an appointment of the first coach into Postgres, so many half hours after midnight."""
    org, contact, start = crowd.orgs[0], uuid4(), first_midnight() + place * HALF_HOUR
    await sql.execute(
        "INSERT INTO contacts (org_id, contact_id, email, created_at) VALUES ($1, $2, $3, now())",
        *(org, contact, f"{contact}@example.com"),
    )
    await sql.execute(
        "INSERT INTO appointments (org_id, appointment_id, calendar_no, coach_no, contact_id, starts_at, ends_at,"
        " occupied, local_day, strategy, created_at, updated_at)"
        " VALUES ($1, $2, 1, 0, $3, $4, $5, tstzrange($4, $5), $6, 'balanced', now(), now())",
        *(org, uuid4(), contact, start, start + HALF_HOUR, start.date()),
    )
