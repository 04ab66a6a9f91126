"""B6, B7: what the size of a team costs, in an answer and inside Redis."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
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
from service.domain.assignment import draws_of
from service.domain.grid import CELLS_PER_DAY, columns_mask, day_of
from service.operations.plan_booking import BookingRequest, Plan, plan_of

DAYS = 7
TOGETHER = 32
_CROWDED_DAY = DAYS + 1
_FINGERPRINT = "0" * 32
_TRIES = 5


async def make_teams(bench: Bench) -> dict[int, Crowd]:
    """An organization for each size of a team, its days in Redis."""
    teams: dict[int, Crowd] = {}
    async with bench.place.sql() as sql:
        for team in bench.size.teams:
            teams[team] = await make_crowd(sql, bench.tag("team"), coaches=team)
            await prepare(bench.place.port, teams[team], _CROWDED_DAY + 2)
    return teams


async def wide_availability(bench: Bench, teams: dict[int, Crowd]) -> None:
    """One repeat of B6: 7 days by start, of the smallest and the largest team, each right after a booking."""
    small, large = bench.size.teams[0], bench.size.teams[-1]
    with bench.place.only_servers():
        took = {team: 1e3 * median(await _looks(bench, teams[team])) for team in (small, large)}
    bench.notebook.note("B6", "wide", took[large], **{f"ms of {team:,}": ms for team, ms in took.items()})
    bench.notebook.note("B6", "growth", took[large] / took[small])


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


async def claims(bench: Bench, teams: dict[int, Crowd]) -> None:
    """One repeat of B7: claims by teams of several sizes, at starts where all are free and where all but one are taken.

    As under load many of them share a call; `alone` is what a call with one claim takes.
    """
    settings = replace(Settings(), database_url=bench.place.database_url, redis_url=bench.place.redis_url)
    found: dict[str, float] = {}
    first, last = f"{bench.size.teams[0]:,}", f"{bench.size.teams[-1]:,}"
    crowded, quiet = (_starts_of(day) for day in (_CROWDED_DAY, _CROWDED_DAY + 1))
    async with bench.place.redis() as redis, open_services(settings) as services:
        for team, crowd in teams.items():
            claimer = _Claimer(services, redis, crowd.orgs[0])
            await claimer.take_all_but(team // 2, crowded[0])
            looks = range(bench.size.looks)
            with bench.place.only_servers():
                found[f"{team:,}"] = median([await claimer.time(quiet[:TOGETHER]) for _ in looks])
                found[f"{team:,} nearly full"] = median([await claimer.time(crowded[:TOGETHER]) for _ in looks])
                found[f"{team:,} alone"] = median([await claimer.time(quiet[:1]) for _ in looks])
    growth = max(found[last] / found[first], found[f"{last} nearly full"] / found[f"{first} nearly full"])
    bench.notebook.note("B7", "six", max(found[first], found[f"{first} nearly full"]), **found)
    bench.notebook.note("B7", "growth", growth)


def _starts_of(day: int) -> list[datetime]:
    """The starts of a day, 0 the first that is offered."""
    midnight = first_midnight() + timedelta(days=day)
    return [midnight + timedelta(minutes=DURATION_MIN * n) for n in range(STARTS_A_DAY)]


class _Claimer:
    """Claims and gives back, and reads of Redis how long the claims took it."""

    def __init__(self, services: Services, redis: Any, org: int) -> None:
        self._services = services
        self._redis = redis
        self._org = org

    async def take_all_but(self, column: int, midnight: datetime) -> None:
        """Make a day of the grid one on which all coaches but one are taken all day."""
        width = (await self._services.rosters.get(self._org)).width
        row = int.from_bytes(b"\xff" * width, "big") & ~columns_mask([column], width)
        key = self._services.shards.of(self._org).occupied(self._org, day_of(midnight))
        await self._redis.set(key, row.to_bytes(width, "big") * CELLS_PER_DAY)

    async def time(self, starts: Sequence[datetime]) -> float:
        """Microseconds in Redis of a claim, of one at each start, all in one call.

        Raises RuntimeError when others keep calling scripts.
        """
        for _ in range(_TRIES):
            wishes = [self._wish(start) for start in starts]
            roster = await self._services.rosters.get(self._org)
            plans = [plan_of(wish, roster, self._services.clock.now()) for wish in wishes]
            tokens = [uuid.uuid4().hex for _ in wishes]
            admissions = [self._admission(*parts) for parts in zip(plans, wishes, tokens, strict=True)]
            calls, microseconds = await script_time(self._redis)
            replies = await asyncio.gather(*(self._services.gate.admit(admission) for admission in admissions))
            calls_after, microseconds_after = await script_time(self._redis)
            if any(reply.outcome is not ClaimOutcome.CLAIMED for reply in replies):
                raise RuntimeError(f"claims came to {[reply.outcome for reply in replies]}")
            for plan, wish, token in zip(plans, wishes, tokens, strict=True):
                key, local_day = wish.idempotency_key, plan.zones[0][1]
                await self._services.gate.release(Release(self._org, token, plan.placement, local_day, key))
            if calls_after - calls == 1:
                return (microseconds_after - microseconds) / len(starts)
        raise RuntimeError("somebody else keeps calling scripts")

    def _wish(self, start: datetime) -> BookingRequest:
        return BookingRequest(
            calendar_id=CALENDAR,
            start_time=start,
            end_time=None,
            contact_email="claim@example.com",
            contact_name=None,
            notes=None,
            timezone=None,
            coach_id=None,
            metadata={},
            idempotency_key=f"claim-{uuid.uuid4()}",
            stands_for=lambda: _FINGERPRINT,
        )

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
            draws=draws_of(plan.calendar.team, int(token, 16)),
            idempotency_key=wish.idempotency_key,
        )
        mark = Mark(wish.idempotency_key or "", wish.fingerprint, token)
        return Admission(org=self._org, rate=Rate(f"claims-{self._org}", RATE_LIMIT, 60_000), mark=mark, claim=claim)
