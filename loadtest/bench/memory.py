"""B13: what an API process and a coach's year need."""

from __future__ import annotations

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.setting import make_crowd
from loadtest.bench.usage import memory_bytes

_YEAR = 365


async def of_processes(bench: Bench) -> None:
    """The largest API process, after whatever load there was: pages that others use too in proportion."""
    resident, own_share = max(memory_bytes(pid) for pid in bench.place.pids.api)
    bench.notebook.note("B13", "process", own_share / 1e6, resident_MB=resident / 1e6)


async def of_a_year(bench: Bench) -> None:
    """What Redis needs more once it holds a year of days of an organization, for each coach."""
    async with bench.place.sql() as sql, bench.place.redis() as redis:
        crowd = await make_crowd(sql, bench.tag("year"), coaches=bench.size.coaches, days_ahead=_YEAR + 1)
        with bench.place.only_servers():
            before: dict[str, int] = await redis.info("memory")
            await prepare(bench.place.port, crowd, bench.size.days_kept)
            after: dict[str, int] = await redis.info("memory")
    a_day = (after["used_memory"] - before["used_memory"]) / crowd.coaches / bench.size.days_kept
    bench.notebook.note("B13", "year", a_day * _YEAR / 1024, coaches=crowd.coaches, days_held=bench.size.days_kept)
