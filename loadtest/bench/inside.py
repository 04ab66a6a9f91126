"""B6, B7: what the size of a team costs, in an answer and inside Redis."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from statistics import median
from typing import Any

from loadtest.bench.bench import Bench, prepare
from loadtest.bench.client import connect
from loadtest.bench.requests import Wishes, get
from loadtest.bench.setting import (
    CALENDAR,
    DURATION_MIN,
    RATE_LIMIT,
    STARTS_A_DAY,
    Crowd,
    first_midnight,
    make_crowd,
)
from loadtest.bench.usage import script_time
from service.app import Services, open_services
from service.claims.messages import Admission, Mark, Rate, Release, SlotClaim
from service.claims.scripts import ClaimOutcome
from service.config import Settings
from service.operations.plan_booking import BookingRequest, Plan, plan_of

DAYS = 7
_FINGERPRINT = "0" * 32
_TRIES = 5


async def wide_availability(bench: Bench) -> None:
    """B6: 7 days by start, of the smallest and the largest team, right after a booking so that nothing is known."""
    found: dict[int, list[float]] = {}
    async with bench.place.sql() as sql:
        for team in (bench.size.teams[0], bench.size.teams[-1]):
            crowd = await make_crowd(sql, bench.tag("wide"), coaches=team)
            await prepare(bench.place.port, crowd, DAYS + 1)
            with bench.place.only_servers():
                found[team] = await _looks(bench, crowd)
    (small, small_s), (large, large_s) = ((team, median(times)) for team, times in found.items())
    parts = {f"ms_of_{team:,}": 1e3 * took for team, took in ((small, small_s), (large, large_s))}
    bench.notebook.note("B6", "wide", 1e3 * large_s, **parts)
    bench.notebook.note("B6", "growth", large_s / small_s)


async def _looks(bench: Bench, crowd: Crowd) -> list[float]:
    """The seconds each of some requests took, one at a time over one connection."""
    path = f"/api/availability?calendar_id={CALENDAR}&days={DAYS}&group_by=start&from={first_midnight().date()}"
    request = get(path, X_API_Key=crowd.key)
    book = Wishes(crowd, bench.tag("look"), first_midnight(), starts=DAYS * STARTS_A_DAY).maker()
    looking, booking = await connect(bench.place.port), await connect(bench.place.port)
    times: list[float] = []
    numbers = count()
    for _ in range(bench.size.looks):
        while (await booking.ask(book(next(numbers)))).status == 409:
            pass  # that start is full; another one
        began = time.perf_counter()
        answer = await looking.ask(request)
        times.append(time.perf_counter() - began)
        if answer.status != 200:
            raise RuntimeError(f"availability was refused: {answer.body.decode()}")
    for connection in (looking, booking):
        connection.close()
    return times


async def claims(bench: Bench) -> None:
    """B7: single claims by teams of several sizes: at starts where all are free, and where all but one are taken."""
    settings = replace(Settings(), database_url=bench.place.database_url, redis_url=bench.place.redis_url)
    free: dict[int, float] = {}
    last: dict[int, float] = {}
    async with bench.place.sql() as sql, bench.place.redis() as redis, open_services(settings) as services:
        for team in bench.size.teams:
            crowd = await make_crowd(sql, bench.tag("team"), coaches=team)
            crowded = first_midnight() + timedelta(days=1)
            await _take_all_but_one(sql, crowd, crowded)
            await prepare(bench.place.port, crowd, 3)
            quiet = [first_midnight() + timedelta(minutes=DURATION_MIN * n) for n in range(STARTS_A_DAY)]
            with bench.place.only_servers():
                claimer = _Claimer(services, redis, crowd.orgs[0])
                looks = range(bench.size.looks)
                free[team] = median([await claimer.time(quiet[look % len(quiet)]) for look in looks])
                last[team] = median([await claimer.time(crowded) for _ in looks])
    small, large = bench.size.teams[0], bench.size.teams[-1]
    parts = {f"{team:,}": took for team, took in free.items()}
    parts |= {f"{team:,}_nearly_full": took for team, took in last.items()}
    bench.notebook.note("B7", "six", max(free[small], last[small]), **parts)
    bench.notebook.note("B7", "growth", max(free[large] / free[small], last[large] / last[small]))


class _Claimer:
    """Claims and gives back, one at a time, and reads of Redis how long the claim took it."""

    def __init__(self, services: Services, redis: Any, org: int) -> None:
        self._services = services
        self._redis = redis
        self._org = org
        self._numbers = count()

    async def time(self, start: datetime) -> float:
        """Microseconds in Redis of a claim at a start. Raises RuntimeError when others keep calling scripts."""
        for _ in range(_TRIES):
            wish = BookingRequest(
                calendar_id=CALENDAR,
                start_time=start,
                end_time=None,
                contact_email="claim@example.com",
                contact_name=None,
                notes=None,
                timezone=None,
                coach_id=None,
                metadata={},
                idempotency_key=f"claim-{self._org}-{next(self._numbers)}",
                fingerprint=_FINGERPRINT,
            )
            plan = plan_of(wish, await self._services.rosters.get(self._org), self._services.clock.now())
            token = uuid.uuid4().hex
            calls, microseconds = await script_time(self._redis)
            reply = await self._services.gate.admit(self._admission(plan, wish, token))
            calls_after, microseconds_after = await script_time(self._redis)
            if reply.outcome is not ClaimOutcome.CLAIMED:
                raise RuntimeError(f"a claim came to {reply.outcome}")
            local_day = plan.zones[0][1]
            await self._services.gate.release(
                Release(self._org, token, plan.placement, local_day, wish.idempotency_key)
            )
            if calls_after - calls == 1:
                return microseconds_after - microseconds
        raise RuntimeError("somebody else keeps calling scripts")

    def _admission(self, plan: Plan, wish: BookingRequest, token: str) -> Admission:
        claim = SlotClaim(
            org=self._org,
            version=plan.roster.version,
            width=plan.roster.width,
            calendar_number=plan.calendar.number or 0,
            token=token,
            placement=plan.placement,
            zones=plan.zones,
            strategy=plan.strategy,
            column=-1,
            turn=int(token[-4:], 16),
            idempotency_key=wish.idempotency_key,
        )
        mark = Mark(wish.idempotency_key or "", wish.fingerprint, token)
        return Admission(org=self._org, rate=Rate(f"claims-{self._org}", RATE_LIMIT, 60_000), mark=mark, claim=claim)


async def _take_all_but_one(sql: Any, crowd: Crowd, start: datetime) -> None:
    """Appointments of all coaches but one in the middle, as they would be in Postgres."""
    org, contact = crowd.orgs[0], uuid.uuid4()
    await sql.execute(
        "INSERT INTO contacts (org_id, contact_id, email, created_at) VALUES ($1, $2, 'early@example.com', now())",
        *(org, contact),
    )
    await sql.execute(
        "INSERT INTO appointments (org_id, appointment_id, calendar_no, coach_no, contact_id, starts_at, ends_at,"
        " occupied, local_day, strategy, created_at, updated_at)"
        " SELECT $1, gen_random_uuid(), 1, n, $2, $3, $4, tstzrange($3, $4), $5, 'balanced', now(), now()"
        " FROM generate_series(0, $6 - 1) AS n WHERE n <> $6 / 2",
        *(org, contact, start, start + timedelta(minutes=DURATION_MIN), start.date(), crowd.coaches),
    )
