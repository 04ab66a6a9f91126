"""What is asked all the time, or by anybody, is read by an index from its place on, however much there is besides."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.db.statements import statement
from tests.db.rows import ORG, looking_into

_FILL = f"""
SET session_replication_role = replica;
DO $$ BEGIN FOR i IN 1..1200 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$;
INSERT INTO appointments (org_id, appointment_id, calendar_no, coach_no, contact_id, starts_at, ends_at, occupied,
    local_day, status, strategy, created_at, updated_at)
SELECT {ORG}, gen_random_uuid(), 1, n % 3, gen_random_uuid(), s, s + interval '30 min',
    tstzrange(s, s + interval '30 min'), s::date, 'scheduled', 'balanced', now(), now()
FROM generate_series(1, 20000) AS n, LATERAL (SELECT timestamptz '2020-01-01Z' + n / 3 * interval '3 hours' AS s) AS t;
INSERT INTO events (org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, considered, data,
    committed_in)
SELECT {ORG}, appointment_id, 1, 'appointment.created', now(), 'tests', 'corr', '',
    json_build_object('pad', repeat('x', 400)), (1 + row_number() OVER (ORDER BY starts_at) / 20)::text::xid8
FROM appointments WHERE org_id = {ORG};
"""  # noqa: S608 - our own numbers


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to a database with twenty thousand appointments of years, each told to one endpoint."""
    async with looking_into(database_url) as connection:
        await connection.execute("SET jit = off")
        for part in _FILL.strip().split(";\n"):
            await connection.execute(part)
        yield connection


async def _endpoint(sql: Any, swept_to: int) -> UUID:
    endpoint = uuid4()
    await sql.execute(
        "INSERT INTO webhook_endpoints (org_id, endpoint_id, url, swept_to)"
        " VALUES ($1, $2, 'http://x', $3::text::xid8)",
        ORG,
        endpoint,
        str(swept_to),
    )
    await sql.execute(
        "INSERT INTO webhook_subscriptions (org_id, endpoint_id, type, since)"
        " VALUES ($1, $2, 'appointment.created', '1:1:')",
        ORG,
        endpoint,
    )
    await sql.execute(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts, replays)"
        " SELECT org_id, appointment_id, sequence, 'endpoint:' || $1::uuid,"
        " CASE committed_in::text WHEN '990' THEN 'retrying' WHEN '995' THEN 'pending' ELSE 'delivered' END, 1,"
        " CASE committed_in::text WHEN '995' THEN 1 ELSE 0 END FROM events",
        endpoint,
    )
    return endpoint


async def _read(sql: Any, name: str, *given: str) -> dict[str, list[int]]:
    """The rows that each table's scans gave and those thrown away, by a plan for any values and by one for these."""
    await sql.execute("ANALYZE appointments, events, deliveries, webhook_endpoints, webhook_subscriptions")
    await sql.execute(f"PREPARE {name} AS {statement(name)}")
    found: dict[str, list[int]] = {}
    for mode in ("force_generic_plan", "force_custom_plan"):
        await sql.execute(f"SET plan_cache_mode = {mode}")
        transaction = sql.transaction()
        await transaction.start()
        plan = await sql.fetch(f"EXPLAIN (ANALYZE, VERBOSE, FORMAT TEXT) EXECUTE {name} ({', '.join(given)})")
        await transaction.rollback()
        shown = "\n".join(row[0] for row in plan)
        assert not re.search(r"Seq Scan on public\.(appointments|events|deliveries)", shown), shown
        for table, rows in re.findall(r"Scan (?:.* )?on public\.(\w+).*\(actual \S* ?rows=([0-9]+)", shown):
            found.setdefault(table, []).append(int(rows))
        # What a scan reads and then throws away counts as well.
        found.setdefault("in vain", []).append(sum(map(int, re.findall(r"Rows Removed by \w[\w ]*: ([0-9]+)", shown))))
    return found


@pytest.mark.parametrize("name", ["distribution", "considered_in_window"])
@pytest.mark.parametrize("calendar", ["NULL", "1"])
async def test_a_distribution_reads_the_appointments_of_its_days(sql: Any, name: str, calendar: str) -> None:
    read = await _read(sql, name, str(ORG), "date '2021-03-01'", "date '2021-03-08'", calendar)
    assert all(0 < rows <= 7 * 24 for rows in read["appointments"]), read
    assert all(rows <= 4 * 24 for rows in read["in vain"]), read


async def test_looking_for_what_an_endpoint_must_hear_begins_where_the_last_look_ended(sql: Any) -> None:
    endpoint = await _endpoint(sql, 985)
    read = await _read(sql, "undelivered_to_endpoint", str(ORG), f"'{endpoint}'", "interval '1 minute'", "2000")
    assert all(rows <= 20 * 20 for table in ("events", "deliveries", "in vain") for rows in read[table]), read


async def test_an_endpoint_is_removed_without_looking_at_what_it_has_heard(sql: Any) -> None:
    endpoint = await _endpoint(sql, 985)
    read = await _read(sql, "remove_endpoint", str(ORG), f"'{endpoint}'")
    assert all(rows <= 2 * 20 for table in ("deliveries", "in vain") for rows in read[table]), read
    await sql.execute(statement("remove_endpoint"), ORG, endpoint)
    states = await sql.fetch("SELECT state, count(*)::int AS n FROM deliveries GROUP BY state ORDER BY state")
    assert [(row["state"], row["n"]) for row in states] == [("dead", 40), ("delivered", 19_960)]
