"""B10: bookings where there are many appointments and coaches already."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.setting import DAYS, DURATION_MIN, STARTS_A_DAY, Crowd, first_midnight, make_crowd
from loadtest.bench.truth import check_overlaps

# Appointments of tomorrow would be reminded of, all at once.
_FROM_DAY = 2
_STARTS = (DAYS - _FROM_DAY) * STARTS_A_DAY


async def fill(bench: Bench) -> Crowd:
    """An organization of many coaches with many appointments, half of them over, half spread over what is offered."""
    async with bench.place.sql() as sql:
        # All at once: the service derives the days of an organization as soon as it sees it.
        async with sql.transaction():
            crowd = await make_crowd(sql, bench.tag("large"), coaches=bench.size.big_coaches)
            await _appointments(sql, crowd, bench.size.big_appointments // crowd.coaches)
        # What autovacuum would do in the middle of the load.
        await sql.execute("VACUUM ANALYZE appointments", timeout=600)
    await prepare(bench.place.port, crowd)
    return crowd


async def beside_many(small: Bench, large: Bench, crowd: Crowd) -> None:
    """One repeat of B10: the load on an installation that has few appointments, and on one that has many."""
    seconds = small.size.seconds / 2
    async with small.place.sql() as sql:
        alone = await make_crowd(sql, small.tag("small"), coaches=small.size.coaches)
        await prepare(small.place.port, alone)
        with large.place.only_servers():
            few = await small.burst(sql, alone, seconds=seconds)
        await check_overlaps(sql)
    async with large.place.sql() as sql:
        with small.place.only_servers():
            many = await large.burst(sql, crowd, seconds=seconds)
        await check_overlaps(sql)
    small.notebook.note(
        "B10",
        "full",
        many.a_second / few.a_second,
        beside_many_a_second=many.a_second,
        alone_a_second=few.a_second,
        refused=many.counted.refused,
    )


async def _appointments(sql: Any, crowd: Crowd, each: int) -> None:
    """So many appointments of each coach."""
    org, contact = crowd.orgs[0], uuid.uuid4()
    await sql.execute(
        "INSERT INTO contacts (org_id, contact_id, email, created_at) VALUES ($1, $2, 'early@example.com', now())",
        *(org, contact),
    )
    await sql.execute(
        "INSERT INTO appointments (org_id, appointment_id, calendar_no, coach_no, contact_id, starts_at, ends_at,"
        " occupied, local_day, strategy, idempotency_key, created_at, updated_at)"
        " SELECT $1, gen_random_uuid(), 1, coach, $2, start, start + $3::interval,"
        " tstzrange(start, start + $3::interval), (start AT TIME ZONE 'UTC')::date, 'balanced',"
        " 'early-' || coach || '-' || place, now(), now()"
        " FROM (SELECT coach, place, $4::timestamptz + place * $3::interval AS start FROM ("
        "  SELECT coach, place FROM generate_series(0, $5 - 1) AS coach, generate_series(-$6::integer, -1) AS place"
        "  UNION ALL"
        "  SELECT coach, place + $7 FROM generate_series(0, $5 - 1) AS coach, generate_series(0, $8 - 1) AS place"
        "  WHERE (place * 5 + coach * 7) % $8 < $6) AS places) AS starts",
        *(org, contact, timedelta(minutes=DURATION_MIN), first_midnight(), crowd.coaches, each // 2),
        *(_FROM_DAY * STARTS_A_DAY, _STARTS),
        timeout=600,
    )
