"""No coach has more appointments on one date of its own zone than its limit, however many ask at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from zoneinfo import ZoneInfo

from service.domain.appointment import Appointment
from service.errors import SlotUnavailable
from tests.invariants.conftest import Pair
from tests.invariants.looks import booked, cancelled, changed_roster, listed
from tests.operations.steps import differences

TOKYO = ZoneInfo("Asia/Tokyo")


async def test_a_date_is_full_at_the_limit_and_open_again_after_a_cancellation(pair: Pair, org: int, sql: Any) -> None:
    one, other = pair
    await changed_roster(
        one,
        sql,
        org,
        "UPDATE coaches SET max_daily_appointments = 3, timezone = 'Asia/Tokyo'",
        "UPDATE weekly_windows SET start_minute = 0, end_minute = 1440",
    )
    # Midnight of Tokyo lies amid a UTC day: the dates that count are Tokyo's.
    wanted = sorted(start for start, coach in await listed(one, org, "cal-3", "coach-1"))
    date = wanted[len(wanted) // 2].astimezone(TOKYO).date()
    of_date = [start for start in wanted if start.astimezone(TOKYO).date() == date]
    assert len(of_date) > 60
    assert len({start.date() for start in of_date}) == 2
    answers = await asyncio.gather(
        *(
            booked((one, other)[n % 2], org, start, ("cal-1", "cal-3")[n % 2], person=n)
            for n, start in enumerate(of_date)
        ),
        return_exceptions=True,
    )
    made = [answer for answer in answers if isinstance(answer, Appointment)]
    assert {type(answer) for answer in answers} == {Appointment, SlotUnavailable}
    # Five coaches serve the two calendars, three appointments each; both calendars asked for more than they have.
    assert Counter(Counter(a.coach_id for a in made).values()) == {3: 5}
    for calendar in ("cal-1", "cal-3"):
        starts = {start for start, _ in await listed(other, org, calendar)}
        assert not any(start.astimezone(TOKYO).date() == date for start in starts)
        assert starts, "other dates are open"
    freed = made[0]
    await cancelled(other, freed)
    again = {start for start, coach in await listed(one, org, "cal-1", freed.coach_id)}
    assert any(start.astimezone(TOKYO).date() == date for start in again)
    assert await differences(one, org) == 0
