"""What was refused is refused again by a look, for exactly as long as a claim would be, and never from memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, TypeAlias
from unittest.mock import AsyncMock
from uuid import UUID

import pytest
from msgspec.structs import replace
from redis.exceptions import TimeoutError as RedisTimeout

from service.app import Services, open_services
from service.claims.breaker import Trip
from service.claims.connection import PoolBusy
from service.claims.messages import Rate, Release
from service.errors import (
    BookingError,
    IdempotencyKeyReused,
    InvalidRequest,
    RateLimitExceeded,
    SlotUnavailable,
    Unavailable,
)
from service.operations import refuse_again
from service.operations.book import Booked
from service.operations.caller import Caller
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import BookingRequest
from service.operations.plan_move import MoveWish
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

# Refuses crowds of so many, where who waits for company waits so long (s); how many looks each crowd took.
Crowd: TypeAlias = Callable[..., Awaitable[list[int]]]
WHO: dict[str, Any] = {"actor": "tests", "correlation_id": "corr-1"}


@pytest.fixture
async def other(services: Services, org: int) -> AsyncIterator[Services]:
    """Another process."""
    async with open_services(services.settings) as opened:
        await opened.rosters.get(org)
        yield opened


@pytest.fixture
async def start(services: Services, org: int) -> datetime:
    """A start at which coach-3 is free; the grid has every day, because one that is derived may free something."""
    await services.keeper.fill(org)
    return (await free_starts(services, org))[40]


def of_coach(start: datetime, person: int = 0, **more: Any) -> BookingRequest:
    """A wish for coach-3 at that time."""
    return wish(start, person=person, coach_id="coach-3", **more)


def looks(services: Services) -> int:
    """How many requests were looked at instead of claimed."""
    return sample(services, "booking_gate_batch_size_sum", kind="still_taken")


def claims(services: Services) -> int:
    """How many requests were claimed, or tried to."""
    return sample(services, "booking_gate_batch_size_sum", kind="claim")


def counted(services: Services, outcome: str) -> int:
    """How many requests the gate said so of, by the metric."""
    return sample(services, "booking_claims_total", outcome=outcome)


def sample(services: Services, name: str, **labels: str) -> int:
    """What a series says."""
    services.metrics.later.write()
    return round(services.metrics.registry.get_sample_value(name, labels) or 0)


async def answer(
    services: Services, org: int, request: BookingRequest, rate: RateSeen | None = None
) -> Booked | BookingError:
    """What a booking is answered."""
    try:
        return await services.book(request, caller(org), rate or RateSeen())
    except BookingError as problem:
        return problem


async def refused_by_a_look(services: Services, org: int, request: BookingRequest) -> SlotUnavailable:
    """Refuse a wish twice, the second time by a look."""
    first = await answer(services, org, request)
    before, refusals = (looks(services), claims(services)), counted(services, "taken")
    again = await answer(services, org, request)
    assert isinstance(first, SlotUnavailable)
    assert isinstance(again, SlotUnavailable)
    assert (looks(services), claims(services)) == (before[0] + 1, before[1])
    assert counted(services, "taken") == refusals + 1
    assert again.details == first.details
    return again


async def test_the_whole_team_is_refused_by_a_look_with_alternatives_and_later_ones_too(
    services: Services, other: Services, org: int, start: datetime
) -> None:
    answers = [await answer(services, org, wish(start, person=n)) for n in range(5)]
    assert all(isinstance(one, Booked) for one in answers)
    refusal = await refused_by_a_look(services, org, wish(start, person=7))
    assert len(refusal.details["alternatives"]) == 3
    # Somebody takes one of them through another process.
    taken = datetime.fromisoformat(refusal.details["alternatives"][0]["start_time"])
    for person in range(5):
        await other.book(wish(taken, person=10 + person), caller(org), RateSeen())
    before = claims(services)
    crowd = await asyncio.gather(*(answer(services, org, wish(start, person=n)) for n in range(20, 60)))
    assert Counter(map(type, crowd)) == {SlotUnavailable: 40}
    told = {tuple(one["start_time"] for one in problem.details["alternatives"]) for problem in crowd}  # type: ignore[union-attr]
    assert len(told) == 1
    assert refusal.details["alternatives"][0]["start_time"] not in told.pop()
    assert (looks(services), claims(services)) == (41, before)


async def test_what_another_process_cancels_is_given_to_the_very_next(
    services: Services, other: Services, org: int, start: datetime
) -> None:
    booked = await services.book(of_coach(start), caller(org), RateSeen())
    for person in range(1, 4):
        for process in (services, other):
            await refused_by_a_look(process, org, of_coach(start, person))
        await other.change.cancel(org, UUID(booked.appointment_id), reason=None, **WHO)
        said = await answer(services, org, of_coach(start, person))
        assert isinstance(said, Booked)
        booked = said


async def test_what_a_move_leaves_and_what_a_failed_commit_gives_back_is_given_to_the_very_next(
    services: Services, other: Services, org: int, start: datetime
) -> None:
    booked = await other.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    later = MoveWish(start_time=start + timedelta(minutes=120))
    await other.move(org, UUID(booked.appointment_id), later, versions=None, complete=None, **WHO)
    claimed = await steps.claim(other, org, of_coach(start, 2))
    await refused_by_a_look(services, org, of_coach(start, 1))
    release = Release(org, claimed.token, claimed.plan.placement, claimed.appointment.local_day)
    await other.gate.release(release)
    assert isinstance(await answer(services, org, of_coach(start, 1)), Booked)


async def test_a_time_that_frees_nothing_keeps_the_refusal_whatever_else_is_booked(
    services: Services, other: Services, org: int, start: datetime
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    for number in range(1, 4):
        await other.book(wish(start + timedelta(hours=number)), caller(org), RateSeen())
    before = claims(services)
    assert isinstance(await answer(services, org, of_coach(start, 1)), SlotUnavailable)
    assert claims(services) == before


@pytest.mark.parametrize("where", ["Redis", "Postgres"])
async def test_the_key_of_who_has_the_time_gets_its_answer_again(
    services: Services, org: int, start: datetime, where: str
) -> None:
    """Also when Redis lost the answer and nothing else."""
    mine = of_coach(start, idempotency_key="mine", fingerprint="a" * 32)
    booked = await services.book(mine, caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1, idempotency_key="other"))
    await services.gate.drain()
    if where == "Postgres":
        assert await services.redis.delete(services.shards.of(org).answer(org, "mine")) == 1
    before, claimed = looks(services), claims(services)
    crowd = await asyncio.gather(
        *(answer(services, org, of_coach(start, n, idempotency_key=f"crowd-{n}")) for n in range(5)),
        answer(services, org, mine),
        answer(services, org, replace(mine, stands_for=lambda: "b" * 32)),
    )
    assert [type(said) for said in crowd] == [SlotUnavailable] * 5 + [Booked, IdempotencyKeyReused]
    replay = crowd[5]
    assert isinstance(replay, Booked)
    assert (replay.replayed, replay.body) == (True, booked.body)
    assert looks(services) == before + 7
    assert claims(services) == claimed + (2 if where == "Redis" else 0), "whose key Redis knows are told by it"


async def test_a_duplicate_waits_for_the_one_in_progress(
    services: Services, other: Services, org: int, start: datetime, sql: Any
) -> None:
    mine = of_coach(start, idempotency_key="mine", fingerprint="a" * 32)
    async with steps.commits_held(sql):
        first = asyncio.ensure_future(other.book(mine, caller(org), RateSeen()))
        await steps.a_commit_waits(sql)
        await refused_by_a_look(services, org, of_coach(start, 1))
        before = looks(services)
        duplicate = asyncio.ensure_future(services.book(mine, caller(org), RateSeen()))
        await eventually(lambda: counted(services, "in_progress") > 0, what="its claim", every_s=0.001)
        assert looks(services) == before + 1
    assert (await duplicate).body == (await first).body
    assert (await duplicate).replayed


async def test_each_request_is_counted_once_however_it_is_refused(
    services: Services, other: Services, org: int, start: datetime
) -> None:
    limited = Caller(org, "tests", frozenset({"write"}), Rate("few", 12, 60_000), "corr-1")
    booked = await services.book(of_coach(start), caller(org), RateSeen())
    seen = [RateSeen() for _ in range(16)]

    async def ask(rates: list[RateSeen]) -> list[Any]:
        wanted = (services.book(of_coach(start, 1), limited, rate) for rate in rates)
        return await asyncio.gather(*wanted, return_exceptions=True)

    answers = await ask(seen[:1]) + await ask(seen[1:8])
    await other.change.cancel(org, UUID(booked.appointment_id), reason=None, **WHO)
    answers += await ask(seen[8:10])
    before = counted(services, "limited")
    answers += await ask(seen[10:])
    kinds = Counter(type(one) for one in answers)
    assert kinds == {Booked: 1, SlotUnavailable: 11, RateLimitExceeded: 4}
    assert [type(one) for one in answers[-4:]] == [RateLimitExceeded] * 4
    assert answers[-1].retry_after_s in range(1, 61)
    assert counted(services, "limited") == before + 4
    assert sorted(rate.state.remaining for rate in seen if rate.state) == [0] * 5 + list(range(1, 12))
    assert await services.redis.get(services.shards.of(org).rate("few")) == b"16"
    # Two were told that something was freed and claimed then; nobody was counted for that again.
    assert looks(services) == 7 + 2 + 6


async def test_without_redis_postgres_refuses_and_nothing_is_looked_at(
    services: Services, org: int, start: datetime
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    services.keeping_gate.cancel()
    services.breaker.trip(Trip.FAULT)
    before, rate = looks(services), RateSeen()
    assert isinstance(await answer(services, org, of_coach(start, 1), rate), SlotUnavailable)
    assert looks(services) == before
    assert rate.state is not None


async def test_a_look_that_fails_goes_on_without_redis_and_one_without_a_connection_is_unavailable(
    services: Services, org: int, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    monkeypatch.setattr(services.gate._scripts, "still_taken", AsyncMock(side_effect=PoolBusy("none is free")))
    assert type(await answer(services, org, of_coach(start, 1))) is Unavailable
    assert services.breaker.closed
    services.keeping_gate.cancel()
    monkeypatch.setattr(services.gate._scripts, "still_taken", AsyncMock(side_effect=RedisTimeout()))
    rate = RateSeen()
    assert isinstance(await answer(services, org, of_coach(start, 1), rate), SlotUnavailable)
    assert not services.breaker.closed
    assert rate.state is not None


async def test_where_postgres_does_not_say_who_has_a_key_is_not_refused(
    services: Services, org: int, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    fails = AsyncMock(side_effect=Unavailable("Postgres did not answer"))
    monkeypatch.setattr(services.appointments, "answers_of_keys", fails)
    rate = RateSeen()
    keyed, keyless = await asyncio.gather(
        answer(services, org, of_coach(start, 1, idempotency_key="mine"), rate),
        answer(services, org, of_coach(start, 1)),
    )
    assert (type(keyed), type(keyless)) == (Unavailable, SlotUnavailable)
    assert rate.state is not None
    assert len(fails.await_args_list) == 1


async def test_in_another_epoch_nothing_that_is_remembered_counts(
    services: Services, org: int, start: datetime
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    await services.gate.drain()
    await steps.emptied(services)
    before = looks(services)
    assert isinstance(await answer(services, org, of_coach(start, 1)), SlotUnavailable)
    assert looks(services) == before, "it was claimed"
    await services.keeper.fill(org)
    await refused_by_a_look(services, org, of_coach(start, 1))


async def test_a_grid_that_was_emptied_meanwhile_is_found_out_by_a_look(
    services: Services, org: int, start: datetime
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    await services.gate.drain()
    await services.redis.flushall()
    assert isinstance(await answer(services, org, of_coach(start, 1)), SlotUnavailable)
    assert sample(services, "booking_gate_trips_total", why="suspect") == 1


async def test_what_time_has_overtaken_is_refused_by_its_rules(
    services: Services, org: int, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.book(of_coach(start), caller(org), RateSeen())
    await refused_by_a_look(services, org, of_coach(start, 1))
    monkeypatch.setattr(services.clock, "now", lambda: start + timedelta(seconds=1))
    assert isinstance(await answer(services, org, of_coach(start, 1)), InvalidRequest)


async def test_only_so_many_refusals_are_remembered(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refuse_again, "MOST_REMEMBERED", 2)
    starts = (await free_starts(services, org))[40:49:4]
    for one in starts:
        await services.book(of_coach(one), caller(org), RateSeen())
        assert isinstance(await answer(services, org, of_coach(one, 1)), SlotUnavailable)
    for one, looked in zip(reversed(starts), (1, 2, 2), strict=True):
        assert isinstance(await answer(services, org, of_coach(one, 1)), SlotUnavailable)
        assert looks(services) == looked


@pytest.fixture
async def crowded(services: Services, org: int, start: datetime, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """How a crowd is refused a time, with `GATHER_S` as the test has it."""

    async def refuse(gather_s: float, *sizes: int) -> list[int]:
        monkeypatch.setattr(refuse_again, "GATHER_S", gather_s)
        async with open_services(services.settings) as crowded:
            await crowded.rosters.get(org)
            await answer(crowded, org, of_coach(start))
            assert isinstance(await answer(crowded, org, of_coach(start, 1)), SlotUnavailable)
            calls = [0]
            for size in sizes:
                asked: list[asyncio.Task[Booked | BookingError]] = []
                for person in range(size):
                    asked.append(asyncio.create_task(answer(crowded, org, of_coach(start, 2 + person))))
                    if calls[1:]:
                        await asyncio.sleep(0.002)
                assert all(isinstance(one, SlotUnavailable) for one in await asyncio.gather(*asked))
                calls.append(sample(crowded, "booking_gate_batch_size_count", kind="still_taken"))
            return [after - before for before, after in pairwise(calls)]

    return refuse


async def test_a_crowd_that_comes_again_shares_a_look(crowded: Crowd) -> None:
    assert await crowded(30, 8, 8, 8) == [1, 1, 1]


async def test_who_is_left_of_a_crowd_waits_for_the_others_no_longer_than_that(crowded: Crowd) -> None:
    async with asyncio.timeout(30):
        assert (await crowded(0.02, 8, 3, 1))[-1] == 1
