"""B9: how long a booking takes when half of what is possible is asked for, beside an insert at the same rate."""

from __future__ import annotations

import math

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.bookings import baseline_of
from loadtest.bench.open_loop import quantile
from loadtest.bench.pgbench import add_contacts
from loadtest.bench.requests import all_starts
from loadtest.bench.setting import DAYS, STARTS_A_DAY, make_crowd
from loadtest.bench.truth import check_count, check_overlaps, delivered
from loadtest.bench.usage import read

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
OURS, PGBENCH = "ours", "pgbench"
# So much of a calendar is booked in the end at most: a start that is full would be answered sooner.
_FILLED = 0.4


async def at_half_speed(bench: Bench, rate: float | None = None) -> float:
    """One repeat of B9: bookings at half of B1's rate for a minute and what they cost, then pgbench at the same.

    The rate, which the next repeat takes over.
    """
    seconds = bench.size.latency_s
    rate = rate or await _half(bench)
    crowds = math.ceil(rate * seconds / (_FILLED * bench.size.coaches * DAYS * STARTS_A_DAY))
    async with bench.place.sql() as sql:
        crowd = await make_crowd(sql, bench.tag("pace"), organizations=crowds, coaches=bench.size.coaches)
        await prepare(bench.place.port, crowd)
        baseline = await baseline_of(bench, sql, crowd)
        await sql.execute("CHECKPOINT")
        async with bench.place.redis() as redis:
            made = -await delivered(sql)
            at_first = await read(bench.place.pids, sql, redis)
            found = await bench.load.book_at(bench.place.port, all_starts(crowd, bench.tag("pace")), rate, seconds)
            cost = (await read(bench.place.pids, sql, redis)).since(at_first)
            made += await delivered(sql)
        await check_count(sql, crowd.orgs, 1, found.statuses[201], 0)
        with bench.place.only_servers():
            beside = await make_crowd(sql, bench.tag("beside"), coaches=crowds * bench.size.coaches)
            await add_contacts(sql, beside)
            await sql.execute("CHECKPOINT")
            inserts = await baseline.latencies("row", beside, seconds, rate)
        await check_overlaps(sql)
    parts = {f"{OURS} {name} ms": 1e3 * found.quantile(share) for name, share in SHARES.items()}
    parts |= {f"{PGBENCH} {name} ms": 1e3 * quantile(inserts, share) for name, share in SHARES.items()}
    parts |= {f"µs of {part} a booking": spent / found.statuses[201] for part, spent in cost.cpu_us.items()}
    bench.notebook.note(
        "B9",
        "p99",
        found.quantile(0.99) / quantile(inserts, 0.99),
        **parts,
        deliveries_made_meanwhile=made / found.statuses[201],
        asked_a_second=rate,
        refused=found.statuses.total() - found.statuses[201],
    )
    return rate


async def _half(bench: Bench) -> float:
    """Half the bookings a second of B1, measured anew where it was not."""
    if bench.size.latency_rate is not None:
        return bench.size.latency_rate
    known = bench.notebook.part("B1", "row", "bookings a second")
    if known is None:
        async with bench.place.sql() as sql:
            crowd = await make_crowd(sql, bench.tag("rate"), coaches=bench.size.coaches)
            await prepare(bench.place.port, crowd)
            known = (await bench.burst(sql, crowd, seconds=bench.size.seconds)).a_second
    return known / 2
