"""B1, B2, B8, B12: bookings a second beside Postgres alone, by ones and over many organizations; what one costs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from loadtest.bench.bench import Bench, Burst, prepare
from loadtest.bench.client import connect
from loadtest.bench.pgbench import CLIENTS, Baseline, add_contacts, baseline_after
from loadtest.bench.place import free_port
from loadtest.bench.requests import booking
from loadtest.bench.setting import Crowd, first_midnight, make_crowd
from loadtest.bench.truth import check_overlaps

COACHES_OF_MANY = 6


async def against_postgres(bench: Bench) -> None:
    """One repeat of B1 and B8, each load in an organization of its own."""
    async with bench.place.sql() as sql:
        crowd = await make_crowd(sql, bench.tag("book"), coaches=bench.size.coaches)
        await prepare(bench.place.port, crowd)
        baseline = await baseline_of(bench, sql, crowd)
        burst = await bench.burst(sql, crowd, seconds=bench.size.seconds)
        inserted: dict[str, float] = {}
        with bench.place.only_servers():
            for script in baseline.scripts:
                beside = await _for_pgbench(bench, sql, script)
                run = await baseline.run(script, beside, bench.size.seconds, pgbench_each(bench))
                inserted[script] = run.a_second
        await check_overlaps(sql)
    for script, a_second in inserted.items():
        bench.notebook.note(
            "B1",
            script,
            burst.a_second / a_second,
            bookings_a_second=burst.a_second,
            pgbench_a_second=a_second,
            median_ms=burst.counted.p50 / 1e3,
            refused=burst.counted.refused,
        )
    _note_cost(bench, burst)


async def against_ones(bench: Bench) -> None:
    """One repeat of B2: batches of one by other processes on the same servers, and ours beside them."""
    port = free_port()
    seconds = bench.size.seconds / 2
    async with bench.place.sql() as sql, bench.place.serving(port, BATCH_MOST=1):
        found: list[Burst] = []
        for at in (port, bench.place.port):
            crowd = await make_crowd(sql, bench.tag("ones"), coaches=bench.size.coaches)
            await prepare(at, crowd)
            found.append(await bench.burst(sql, crowd, seconds=seconds, port=at))
        await check_overlaps(sql)
    ones, ours = found
    bench.notebook.note(
        "B2",
        "ones",
        ours.a_second / ones.a_second,
        bookings_a_second=ours.a_second,
        by_ones_a_second=ones.a_second,
        refused=ours.counted.refused,
        refused_by_ones=ones.counted.refused,
    )


async def over_many(bench: Bench) -> None:
    """One repeat of B12: the same load on many small organizations, and on one large beside it."""
    async with bench.place.sql() as sql:
        found: list[Burst] = []
        for organizations, coaches in ((bench.size.organizations, COACHES_OF_MANY), (1, bench.size.coaches)):
            crowd = await make_crowd(sql, bench.tag("many"), organizations=organizations, coaches=coaches)
            await prepare(bench.place.port, crowd)
            found.append(await bench.burst(sql, crowd, seconds=bench.size.seconds / 2))
        await check_overlaps(sql)
    many, one = found
    bench.notebook.note(
        "B12",
        "many",
        many.a_second / one.a_second,
        many_a_second=many.a_second,
        one_a_second=one.a_second,
        refused=many.counted.refused,
    )


async def baseline_of(bench: Bench, sql: Any, crowd: Crowd) -> Baseline:
    """pgbench scripts after a booking made here."""
    connection = await connect(bench.place.port)
    request = booking(crowd.key, first_midnight(), idempotency_key=f"model-{crowd.name}", email="model@example.com")
    answer = await connection.ask(request)
    connection.close()
    if answer.status != 201:
        raise RuntimeError(f"the first booking was refused: {answer.body.decode()}")
    model = UUID(msgspec.json.decode(answer.body)["appointment_id"])
    return await baseline_after(bench.place.postgres_binaries, bench.place.database_url, sql, model)


def pgbench_each(bench: Bench) -> int | None:
    """How many transactions each client of pgbench makes, None for a while instead."""
    return None if bench.size.requests is None else max(1, bench.size.requests // CLIENTS)


async def _for_pgbench(bench: Bench, sql: Any, script: str) -> Crowd:
    crowd = await make_crowd(sql, bench.tag(script), coaches=bench.size.coaches)
    await add_contacts(sql, crowd)
    await sql.execute("CHECKPOINT")
    return crowd


def _note_cost(bench: Bench, burst: Burst) -> None:
    cost, bookings = burst.cost, burst.bookings
    note = bench.notebook.note
    cpu = {part: spent / bookings for part, spent in cost.cpu_us.items()}
    note(
        "B8",
        "scripts",
        cost.script_calls / bookings,
        of_the_API_alone=burst.api_scripts / bookings,
        deliveries_made_meanwhile=burst.delivered / bookings,
        **{"µs in scripts": cost.script_us / bookings},
    )
    note(
        "B8",
        "commits",
        cost.writes / bookings,
        of_the_API_alone=burst.api_commits / bookings,
        those_that_only_read_too=cost.commits / bookings,
    )
    note("B8", "wal", cost.wal_bytes / bookings)
    note("B8", "cpu", cpu["API"] + cpu["Redis"] + cpu["Postgres"], **cpu)
