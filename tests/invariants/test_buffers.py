"""Between two neighbours lies at least the sum of what the first keeps free after it and the second before it."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from itertools import pairwise
from typing import Any

from service.domain.appointment import Appointment
from service.errors import InvalidRequest, SlotUnavailable
from tests.invariants.conftest import Pair
from tests.invariants.looks import booked, changed_roster, listed, overlaps
from tests.operations.steps import differences

_BUFFERS = (
    "UPDATE calendars SET slot_interval = 5, min_notice_minutes = 0",
    "UPDATE calendars SET buffer_before = 5, buffer_after = 10 WHERE calendar_no = 1",
    "UPDATE calendars SET buffer_before = 15, buffer_after = 0 WHERE calendar_no = 3",
    "UPDATE coaches SET max_daily_appointments = 100",
)
BUFFERS = {"cal-1": (5, 10), "cal-3": (15, 0)}


async def test_the_gap_between_neighbours_is_the_sum_of_their_buffers(pair: Pair, org: int, sql: Any) -> None:
    one, other = pair
    await changed_roster(one, sql, org, *_BUFFERS)
    first = await booked(one, org, sorted(await listed(one, org, "cal-1", "coach-1"))[40][0], coach_id="coach-1")
    for calendar, length in (("cal-1", 30), ("cal-3", 15)):
        before, after = BUFFERS[calendar]
        starts = {start for start, _ in await listed(other, org, calendar, "coach-1")}
        behind = min(start for start in starts if start >= first.end_time)
        ahead = max(start for start in starts if start < first.start_time)
        assert behind - first.end_time == timedelta(minutes=10 + before)
        assert first.start_time - ahead == timedelta(minutes=length + after + 5)


async def test_many_at_once_with_mixed_buffers_keep_their_gaps(pair: Pair, org: int, sql: Any) -> None:
    one, other = pair
    await changed_roster(one, sql, org, *_BUFFERS)
    chance = random.Random(3)
    starts = sorted({start for start, _ in await listed(one, org, "cal-1")})[30:150]
    answers = await asyncio.gather(
        *(
            booked(chance.choice([one, other]), org, chance.choice(starts), chance.choice(list(BUFFERS)), person=n)
            for n in range(400)
        ),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} <= {Appointment, SlotUnavailable, InvalidRequest}
    made = [answer for answer in answers if isinstance(answer, Appointment)]
    assert len(made) > 40
    tight = 0
    for coach in {a.coach_id for a in made}:
        mine = sorted((a for a in made if a.coach_id == coach), key=lambda a: a.start_time)
        for earlier, later in pairwise(mine):
            needed = timedelta(minutes=BUFFERS[earlier.calendar_id][1] + BUFFERS[later.calendar_id][0])
            assert later.start_time - earlier.end_time >= needed
            tight += later.start_time - earlier.end_time == needed
    assert tight > 0, "nobody came near enough to prove anything"
    assert await overlaps(sql) == 0
    assert await differences(one, org) == 0
