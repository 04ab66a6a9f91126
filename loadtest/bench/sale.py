"""B11: everybody wants the same start at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.client import Answer, Connection, connections
from loadtest.bench.requests import booking, get
from loadtest.bench.setting import first_midnight, make_crowd
from loadtest.bench.truth import Untrue, check_count

WINNERS = 5
PATIENCE_S = 60.0


async def flash_sale(bench: Bench) -> None:
    """One repeat of B11. Who is told to come back later does."""
    buyers = bench.size.buyers
    async with bench.place.sql() as sql, bench.hello() as hello:
        crowd = await make_crowd(sql, bench.tag("sale"), coaches=WINNERS)
        await prepare(bench.place.port, crowd, 2)
        with bench.place.only_servers():
            bare = await _all_at_once(hello, [get("/")] * buyers)
            wishes = [
                booking(crowd.key, first_midnight(), idempotency_key=f"buyer-{n}", email=f"buyer-{n}@example.com")
                for n in range(buyers)
            ]
            sale = await _all_at_once(bench.place.port, wishes)
        if sale[1][201] != WINNERS or sale[1][409] != buyers - WINNERS:
            raise Untrue(f"{buyers} wanted {WINNERS} places and were answered {dict(sale[1])}")
        await check_count(sql, crowd.orgs, 0, WINNERS, 0)
    bench.notebook.note("B11", "sale", sale[0] / bare[0], sale_s=sale[0], hello_s=bare[0], sent_away_first=sale[1][503])


async def _all_at_once(port: int, wishes: list[bytes]) -> tuple[float, Counter[int]]:
    """Seconds until every wish has its answer, and the answers by status; 503 counts once more each time."""
    opened = await connections(port, len(wishes))
    statuses: Counter[int] = Counter()
    try:
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(_insist(*pair, statuses) for pair in zip(opened, wishes, strict=True)))
        return time.monotonic() - began, statuses
    finally:
        for connection in opened:
            connection.close()


async def _insist(connection: Connection, wish: bytes, statuses: Counter[int]) -> None:
    while True:
        answer: Answer = await connection.ask(wish)
        statuses[answer.status] += 1
        if answer.status != 503:
            return
        await asyncio.sleep(float(answer.header("Retry-After") or 1))
