"""B14: four times as many clients as can be answered in time, and what is still booked then."""

from __future__ import annotations

import asyncio

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.requests import all_starts
from loadtest.bench.setting import make_crowd
from loadtest.bench.truth import booked, check_count, check_overlaps
from loadtest.bench.usage import memory_bytes
from service.config import Settings

TIMES = 4
# When the largest API process is looked at: before the first look all clients have come.
_FIRST_LOOK, _LAST_LOOK = 0.4, 0.9


async def four_times(bench: Bench) -> None:
    """One repeat of B14: the load of B1, then the same of many more clients, for twice as long.

    Within the longest wait so many can be answered as the service books in that time; four times as many ask. Who is
    sent away asks again at once, whatever `Retry-After` says.
    """
    seconds = 2 * bench.size.seconds
    async with bench.place.sql() as sql:
        crowd = await make_crowd(sql, bench.tag("peak"), coaches=bench.size.coaches)
        await prepare(bench.place.port, crowd)
        peak = await bench.burst(sql, crowd, seconds=bench.size.seconds)
        clients = max(1, round(TIMES * peak.a_second * Settings().max_request_wait_ms / 1000))
        crowd = await make_crowd(sql, bench.tag("over"), coaches=bench.size.coaches)
        await prepare(bench.place.port, crowd)
        await sql.execute("CHECKPOINT")
        before = await booked(sql, crowd.orgs)
        load = asyncio.ensure_future(
            bench.load.book(bench.place.port, all_starts(crowd, crowd.prefix), seconds, clients=clients)
        )
        await asyncio.sleep(_FIRST_LOOK * seconds)
        first = _largest(bench)
        await asyncio.sleep((_LAST_LOOK - _FIRST_LOOK) * seconds)
        last = _largest(bench)
        over = await load
        await check_count(sql, crowd.orgs, before, over.accepted, clients)
        await check_overlaps(sql)
    accepted = over.accepted / over.seconds
    bench.notebook.note(
        "B14",
        "goodput",
        accepted / peak.a_second,
        bookings_a_second=accepted,
        peak_a_second=peak.a_second,
        clients=clients,
        sent_away_a_second=over.refused / over.seconds,
        median_ms=over.p50 / 1e3,
        p99_ms=over.p99 / 1e3,
    )
    bench.notebook.note("B14", "memory", last / first, MB_at_first=first / 1e6, MB_at_last=last / 1e6)


def _largest(bench: Bench) -> int:
    return max(own_share for _, own_share in map(memory_bytes, bench.place.pids.api))
