"""Over random states: `free` is told of exactly the coaches the list has at that start, and every other reason is the
first that a person who knows the hours, absences and appointments would give.

A state is zones, hours, overrides, absences, limits, calendars with buffers, notice and horizon; appointments booked
and cancelled in it, some still under way; then some coaches' hours and limits changed over them. All of it lies about
a change of New York's clocks, forward and back in turn.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from service.app import Services
from service.domain.grid import day_start
from service.operations.explain_availability import Reason
from tests.explain.conftest import Api, StillClock, clock_change, days_before, shown
from tests.explain.states import STEP, State, Taken, booked, drawn, on_cells, redrawn_hours, team
from tests.operations import steps
from tests.wishes import wish

CALENDARS = ("cal-1", "cal-2", "cal-3")
ROUNDS = 8
STARTS = 30


async def some_bookings(
    api: Api, services: Services, org: int, chance: Random, around: datetime
) -> dict[UUID, tuple[int, Taken]]:
    """Book at random, cancel some again, and leave the claims of some bookings under way."""
    claims: dict[UUID, tuple[int, Taken]] = {}
    for number in range(16):
        calendar = chance.choice(CALENDARS)
        free = await api.listed(around - timedelta(days=1), 2, calendar)
        if not free:
            continue
        start = chance.choice(sorted(free))
        coach = chance.choice(sorted(free[start]))
        if number % 4 == 3:
            a = (await steps.claim(services, org, wish(start, calendar, coach_id=coach))).appointment
            day = day_start(a.local_day).date()
            claims[a.appointment_id] = a.column, Taken(a.start_time, a.end_time, a.occupied_start, a.occupied_end, day)
            continue
        made = await api.book(start, calendar, coach_id=coach)
        if chance.random() < 0.2:
            await api("POST", f"/api/appointments/{made['appointment_id']}/cancel")
    return claims


async def compared(
    api: Api, services: Services, org: int, chance: Random, state: State, near: datetime
) -> Counter[str]:
    """How often each reason was told, after every one was found to be right."""
    told: Counter[str] = Counter()
    roster = await services.rosters.get(org)
    now = services.clock.now()
    for name in CALENDARS:
        calendar = roster.calendar(name)
        first = on_cells(near - timedelta(days=1))
        listed = await api.listed(first, 2, name)
        taken = [one for some in (*state.appointments.values(), *state.claims.values()) for one in some]
        edges = [end for one in taken for end in (one.start, one.end)]
        edges += [end for periods in (state.time_off, state.busy) for _, *ends in periods for end in ends]
        edges += [near] * (1 + len(edges) // 4)
        starts = {first + STEP * chance.randrange(2 * 288) for _ in range(STARTS // 6)}
        starts |= {first + 3 * STEP * chance.randrange(2 * 96) for _ in range(STARTS // 3)}
        starts |= {on_cells(chance.choice(edges)) + STEP * chance.randint(-9, 9) for _ in range(STARTS // 3)}
        starts |= {on_cells(near) + 3 * STEP * number for number in range(-1, 5)}
        starts |= set(chance.sample(sorted(listed), min(len(listed), STARTS // 6)))
        for start in sorted(starts):
            if not first <= start < first + timedelta(days=2):
                continue
            reasons = await api.explained(start, name)
            free = {coach for coach, reason in reasons.items() if reason == "free"}
            assert free == listed.get(start, set()), (name, start)
            expected = {coach.coach_id: state.reason(calendar, coach, start, now) for coach in team(roster, calendar)}
            assert reasons == expected, (name, start)
            told.update(reasons.values())
    return told


@pytest.mark.timeout(300)
async def test_what_is_explained_as_free_is_what_is_listed_and_all_else_has_its_first_reason(
    api: Api, services: Services, org: int, sql: Any, clock: StillClock
) -> None:
    told: Counter[str] = Counter()
    spring_or_autumn = clock_change(datetime.now(UTC) + timedelta(days=4))
    changes = (spring_or_autumn, clock_change(spring_or_autumn))
    for seed in range(ROUNDS):
        chance, around = Random(seed), changes[seed % 2]
        clock.instant = days_before(around)
        await sql.execute("UPDATE appointments SET status = 'void'")
        await services.redis.flushall()
        state = await drawn(sql, org, chance, around)
        await shown(services, org)
        claims = await some_bookings(api, services, org, chance, around)
        for column in chance.sample(range(6), 2):
            await redrawn_hours(sql, org, chance, state, column)
            await sql.execute("UPDATE coaches SET max_daily_appointments = 2 WHERE coach_no = $1", column)
        await shown(services, org)
        await booked(sql, state, claims)
        for near in (around, services.clock.now() + timedelta(hours=20), services.clock.now() + timedelta(days=5)):
            told += await compared(api, services, org, chance, state, near)
    assert set(told) == {reason.value for reason in Reason}, told
