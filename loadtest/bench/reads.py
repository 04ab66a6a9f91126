"""B3, B4, B5: refusals and availability beside bare Sanic with the same processes."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.client import Connection, connect
from loadtest.bench.loads import Counted
from loadtest.bench.open_loop import closed_loop
from loadtest.bench.place import free_port
from loadtest.bench.requests import Wishes, all_starts, booking, get
from loadtest.bench.setting import CALENDAR, add_key, first_midnight, make_crowd
from loadtest.bench.truth import Untrue, check_count

SAMPLE, SAMPLE_CALENDAR = "demo", "cal-1"
DAYS = 7


async def full_slot(bench: Bench) -> None:
    """One repeat of B3: bookings of one start that is fully booked, and hello, twice each in turn."""
    seconds = bench.size.seconds / 2
    async with bench.place.sql() as sql, bench.hello() as hello:
        crowd = await make_crowd(sql, bench.tag("full"), coaches=bench.size.coaches)
        await prepare(bench.place.port, crowd)
        fill = Wishes(crowd, bench.tag("fill"), first_midnight(), starts=1)
        filled = await closed_loop(bench.place.port, fill.maker(), crowd.coaches)
        if filled.statuses != {201: crowd.coaches}:
            raise Untrue(f"filling a start of {crowd.coaches} coaches was answered with {dict(filled.statuses)}")
        refused: list[Counted] = []
        bare: list[Counted] = []
        with bench.place.only_servers():
            async with bench.counted_as(409) as loads:
                for _ in range(2):
                    bare.append(await bench.load.get(hello, "/", seconds))
                    wishes = Wishes(crowd, bench.tag("late"), first_midnight(), starts=1, seed=next(bench.numbers))
                    refused.append(await bench.load.book(bench.place.port, wishes, seconds))
                    loads.append(refused[-1])
        await check_count(sql, crowd.orgs, crowd.coaches, 0, 0)
    refusals, hellos = _a_second(refused), _a_second(bare)
    bench.notebook.note("B3", "refusals", refusals / hellos, refusals_a_second=refusals, hello_a_second=hellos)


async def availability(bench: Bench) -> None:
    """One repeat of B4 but for freshness: the sample's calendar, unchanged and in full, with hello before each load."""
    seconds = bench.size.seconds / 2
    path = f"/api/availability?calendar_id={SAMPLE_CALENDAR}&days={DAYS}&from={first_midnight().date()}"
    key = await _sample_key(bench)
    with bench.place.only_servers():
        async with bench.hello() as hello:
            bare: list[Counted] = []
            connection = await connect(bench.place.port)
            for _ in range(2):  # the first may derive days, and its tag be of before
                answer = await connection.ask(get(path, X_API_Key=key))
            connection.close()
            tag = answer.header("ETag") or ""
            async with bench.counted_as(304) as loads:
                bare.append(await bench.load.get(hello, "/", seconds))
                same = await bench.load.get(bench.place.port, path, seconds, X_API_Key=key, If_None_Match=tag)
                loads.append(same)
                bare.append(await bench.load.get(hello, "/", seconds))
                varied = await bench.load.get(
                    bench.place.port, path, seconds, numbered=True, X_API_Key=key, If_None_Match=tag
                )
                loads.append(varied)
            async with bench.counted_as(200) as loads:
                bare.append(await bench.load.get(hello, "/", seconds))
                whole = await bench.load.get(bench.place.port, path, seconds, X_API_Key=key)
                loads.append(whole)
    hellos = _a_second(bare)
    bench.notebook.note(
        "B4", "unchanged", same.a_second / hellos, unchanged_a_second=same.a_second, hello_a_second=hellos
    )
    bench.notebook.note(
        "B4", "varied", varied.a_second / hellos, varied_a_second=varied.a_second, hello_a_second=hellos
    )
    bench.notebook.note(
        "B4",
        "full",
        whole.a_second / hellos,
        full_a_second=whole.a_second,
        hello_a_second=hellos,
        bytes_an_answer=len(answer.body),
    )


async def freshness(bench: Bench) -> None:
    """B4's last part: book through one of the two, read at once through a third that answers on a port of its own.

    Noted is the share of reads that showed the booking.
    """
    port = free_port()
    path = f"/api/availability?calendar_id={SAMPLE_CALENDAR}&days=28&from={first_midnight().date()}"
    key = await _sample_key(bench)
    async with bench.place.serving(port, workers=1):
        writing, reading = await connect(bench.place.port), await connect(port)
        fresh = [await _is_fresh(bench, writing, reading, path, key) for _ in range(bench.size.looks)]
        for connection in (writing, reading):
            connection.close()
    bench.notebook.note("B4", "fresh", sum(fresh) / len(fresh), tries=len(fresh))


async def _is_fresh(bench: Bench, writing: Connection, reading: Connection, path: str, key: str) -> bool:
    """Whether a reader that knows the answer of just before is told what was booked since."""
    before = await reading.ask(get(path, X_API_Key=key))
    slot: dict[str, str] = msgspec.json.decode(before.body)["slots"][0]
    request = booking(
        key,
        datetime.fromisoformat(slot["start_time"]),
        idempotency_key=bench.tag("fresh"),
        email="fresh@example.com",
        calendar_id=SAMPLE_CALENDAR,
        coach_id=slot["coach_id"],
    )
    answer = await writing.ask(request)
    if answer.status != 201:
        raise Untrue(f"a start that was listed could not be booked: {answer.body.decode()}")
    after = await reading.ask(get(path, X_API_Key=key, If_None_Match=before.header("ETag") or ""))
    return after.status == 200 and slot not in msgspec.json.decode(after.body)["slots"]


async def under_bookings(bench: Bench) -> None:
    """One repeat of B5: the full answer of a calendar, quiet and while it is booked at a fixed rate."""
    seconds = bench.size.seconds / 2
    rate = bench.size.paced_rate
    path = f"/api/availability?calendar_id={CALENDAR}&days={DAYS}&from={first_midnight().date()}"
    async with bench.place.sql() as sql:
        crowd = await make_crowd(sql, bench.tag("busy"), coaches=6)
        await prepare(bench.place.port, crowd)
        port = bench.place.port
        async with bench.counted_as(200) as loads:
            quiet = await bench.load.get(port, path, seconds, X_API_Key=crowd.key)
            pacing = asyncio.create_task(
                bench.load.book_at(port, all_starts(crowd, bench.tag("paced")), rate, seconds + 0.5)
            )
            busy = await bench.load.get(port, path, seconds, X_API_Key=crowd.key)
            paced = await pacing
            loads += [quiet, busy]
        await check_count(sql, crowd.orgs, 0, paced.statuses[201], 0)
    bench.notebook.note(
        "B5",
        "busy",
        busy.a_second / quiet.a_second,
        busy_a_second=busy.a_second,
        quiet_a_second=quiet.a_second,
        bookings_a_second=paced.statuses[201] / (seconds + 0.5),
    )


async def _sample_key(bench: Bench) -> str:
    async with bench.place.sql() as sql:
        return await add_key(sql, SAMPLE)


def _a_second(loads: list[Counted]) -> float:
    return sum(load.requests for load in loads) / sum(load.seconds for load in loads)
