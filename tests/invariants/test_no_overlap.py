"""No two live appointments of one coach overlap, whoever books and cancels at the same time wherever."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any
from uuid import UUID

import orjson

from service.errors import SlotUnavailable
from service.operations.local_rates import RateSeen
from tests.invariants.conftest import Pair
from tests.invariants.looks import cancelled, overlaps
from tests.operations.steps import differences
from tests.wishes import caller, free_starts, wish

CALENDARS = ("cal-1", "cal-2", "cal-3")
BOOKINGS = 2000
SHARE_LEAVING = 0.4


async def test_2000_mixed_bookings_and_cancellations_of_two_processes_leave_no_overlap(
    pair: Pair, org: int, sql: Any
) -> None:
    one, _ = pair
    starts = (await free_starts(one, org))[10:70]
    chance = random.Random(11)

    async def book(number: int) -> str:
        mine, theirs = chance.sample(pair, 2)
        request = wish(chance.choice(starts), chance.choice(CALENDARS), person=number)
        leaves = chance.random() < SHARE_LEAVING
        try:
            answer = await mine.book(request, caller(org), RateSeen())
        except SlotUnavailable:
            return "refused"
        if not leaves:
            return "booked"
        await cancelled(theirs, await theirs.change.get(org, UUID(orjson.loads(answer.body)["appointment_id"])))
        return "left"

    answers = await asyncio.gather(*(book(n) for n in range(BOOKINGS)))
    kinds = Counter(answers)
    assert set(kinds) == {"booked", "left", "refused"}
    rows = await sql.fetch("SELECT status::text AS status, count(*) AS count FROM appointments GROUP BY status")
    assert {row["status"]: row["count"] for row in rows} == {"scheduled": kinds["booked"], "cancelled": kinds["left"]}
    assert await overlaps(sql) == 0
    assert await sql.fetchval("SELECT count(*) FROM events") == kinds["booked"] + 2 * kinds["left"]
    # Both sides agree again: what is taken, how many a day, and who is owed what.
    await asyncio.gather(*(services.gate.drain() for services in pair))
    assert await one.grid.pending() == {}
    assert await differences(one, org) == 0
    owed = await one.grid.deficits(org, 6)
    account = await one.roster_store.deficits(await one.rosters.get(org))
    assert owed == [account.get(column, 0) for column in range(6)]
    assert sum(owed) == 0
    assert one.metrics.backstop_conflicts._value.get() == 0
