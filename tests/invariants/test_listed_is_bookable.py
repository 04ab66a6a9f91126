"""What availability lists for a calendar can be booked, and nothing else can.

For a week and the hour before it, every five minutes, in every calendar: a claim succeeds exactly where the start is
listed, and for exactly the coaches that are listed there. The organization is made awkward: two zones, buffers, an
interval that misses one zone's hours, a coach near its daily limit, an absence, windows that end off the interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from service.app import Services
from service.claims.messages import Release
from service.claims.scripts import ClaimOutcome, ReleaseOutcome
from service.domain.assignment import unpack_considered
from service.domain.calendar import Roster
from service.domain.grid import five_minute_ceil
from service.errors import InvalidRequest
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import Plan, plan_of
from tests.invariants.conftest import Pair
from tests.invariants.looks import booked, changed_roster, listed
from tests.wishes import caller, free_starts, wish

_AWKWARD = (
    "UPDATE coaches SET timezone = 'Asia/Kathmandu' WHERE coach_no IN (1, 2)",
    "UPDATE coaches SET max_daily_appointments = 2 WHERE coach_no IN (0, 3)",
    "UPDATE calendars SET buffer_before = 10, buffer_after = 5, slot_interval = 60 WHERE calendar_no = 2",
    "UPDATE calendars SET buffer_after = 15, assignment = 'score', slot_interval = 20 WHERE calendar_no = 3",
    "UPDATE calendars SET min_notice_minutes = 50, max_days_ahead = 5 WHERE calendar_no = 1",
    "UPDATE calendars SET min_notice_minutes = 0 WHERE calendar_no = 3",
    "UPDATE weekly_windows SET end_minute = 1010 WHERE coach_no = 4",
    "UPDATE weekly_windows SET start_minute = 0, end_minute = 1440 WHERE coach_no = 5",
)
STEP = timedelta(minutes=5)


async def test_a_claim_succeeds_exactly_where_and_for_whom_a_start_is_listed(pair: Pair, org: int, sql: Any) -> None:
    services, other = pair
    away = services.clock.now() + timedelta(days=2)
    await sql.execute(
        "INSERT INTO external_busy VALUES ($1, 5, $2, $3)", org, away, away + timedelta(hours=5, minutes=4)
    )
    await changed_roster(services, sql, org, *_AWKWARD)
    await services.keeper.fill(org)
    for number, start in enumerate((await free_starts(services, org))[8:80:6]):
        await booked(services, org, start, person=number)
    compared = 0
    for calendar in ("cal-1", "cal-2", "cal-3"):
        wanted = await listed(other, org, calendar)
        assert wanted
        week = services.clock.now() + timedelta(days=7)
        assert {(start, who) for start, who in await _claimable(services, org, calendar) if start < week} == wanted
        compared += len(wanted)
    assert compared > 300


async def _claimable(services: Services, org: int, calendar: str) -> set[tuple[datetime, str]]:
    """(start, coach) of every claim that succeeds in seven days, each released again."""
    roster = await services.rosters.get(org)
    found: set[tuple[datetime, str]] = set()
    for starts in _apart(services.clock.now()):
        plans = [(start, plan) for start in starts if (plan := _plan(services, roster, start, calendar))]
        answers = await asyncio.gather(*(_considered(services, org, plan) for _, plan in plans))
        for (start, _), columns in zip(plans, answers, strict=True):
            found.update((start, roster.coach_by_column[column].coach_id) for column in columns)
    return found


def _apart(now: datetime) -> Iterator[list[datetime]]:
    """Every five minutes of eight days, in groups of one a day, whose claims cannot be in each other's way."""
    first = five_minute_ceil(now - timedelta(hours=1))
    for step in range(288):
        yield [first + step * STEP + timedelta(days=day) for day in range(8)]


def _plan(services: Services, roster: Roster, start: datetime, calendar: str) -> Plan | None:
    try:
        return plan_of(wish(start, calendar), roster, services.clock.now())
    except InvalidRequest:
        return None


async def _considered(services: Services, org: int, plan: Plan) -> list[int]:
    """The columns a claim finds free; none when it is refused."""
    request = wish(plan.placement.starts_at, plan.calendar.calendar_id)
    token = uuid4().hex
    reply = await services.gate.admit(services.book._admission(request, caller(org), RateSeen(), plan, token))
    if reply.outcome is ClaimOutcome.TAKEN:
        return []
    assert reply.outcome is ClaimOutcome.CLAIMED
    local_day = (await services.grid.pending())[token].local_day
    assert await services.gate.release(Release(org, token, plan.placement, local_day)) is ReleaseOutcome.RELEASED
    return [one.column for one in unpack_considered(reply.second)]
