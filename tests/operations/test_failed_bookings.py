"""A booking that fails after its claim leaves nothing behind: no time taken, no key in flight, no row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from service.app import Services
from service.claims.breaker import Trip
from service.claims.messages import Rate
from service.db.commit import CommitOutcome, Committed
from service.domain.grid import day_of
from service.errors import IdempotencyInProgress, InvalidRequest, OutcomeUnknown, Unavailable
from service.operations import book
from service.operations.book import CLAIM_ATTEMPTS, Booked
from service.operations.caller import Caller
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import BookingRequest
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"notes": "a\0b"}, InvalidRequest), ({"metadata": {"n": 2**70}}, TypeError), ({"notes": "\ud800"}, TypeError)],
    ids=["refused by Postgres", "a number too long to show", "not a text"],
)
async def test_what_cannot_be_stored_gives_its_time_back(
    services: Services, org: int, sql: Any, changes: dict[str, Any], error: type[Exception]
) -> None:
    start = (await free_starts(services, org))[40]
    with pytest.raises(error):
        await services.book(wish(start, idempotency_key="key", **changes), caller(org), RateSeen())
    assert await services.grid.pending() == {}
    assert await services.grid.deficits(org, 6) == [0] * 6
    assert await steps.differences(services, org) == 0
    booked = await services.book(wish(start, idempotency_key="key", fingerprint="b" * 32), caller(org), RateSeen())
    assert not booked.replayed
    assert await sql.fetchval("SELECT count(*) FROM appointments") == 1


async def test_a_neighbour_in_the_same_commit_does_not_fail_with_it(services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    wishes = [wish(starts[40 + n], person=n, notes="a\0b" if n == 3 else None) for n in range(8)]
    answers = await asyncio.gather(
        *(services.book(one, caller(org), RateSeen()) for one in wishes), return_exceptions=True
    )
    assert [type(answer) for answer in answers].count(Booked) == 7
    assert isinstance(answers[3], InvalidRequest)
    assert await steps.differences(services, org) == 0


async def test_what_the_script_cannot_evaluate_is_counted_as_broken(services: Services, org: int) -> None:
    start = (await free_starts(services, org))[40]
    roster = services.shards.of(org).roster(org)
    await services.redis.delete(roster)
    await services.redis.set(roster, "not a hash")
    with pytest.raises(Unavailable, match="could not evaluate"):
        await services.book(wish(start), caller(org), RateSeen())
    services.metrics.later.write()
    assert services.metrics.claims.labels("broken")._value.get() == 1


async def test_a_caller_that_goes_away_does_not_stop_its_booking(services: Services, org: int, sql: Any) -> None:
    start = (await free_starts(services, org))[40]
    async with steps.commits_held(sql):
        request = asyncio.ensure_future(services.book(wish(start, idempotency_key="key"), caller(org), RateSeen()))
        await steps.a_commit_waits(sql)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await services.tasks.drain(5)
    await services.gate.drain()
    assert await sql.fetchval("SELECT count(*) FROM appointments WHERE starts_at = $1", start) == 1
    assert await services.grid.pending() == {}
    again = await services.book(wish(start, idempotency_key="key"), caller(org), RateSeen())
    assert again.replayed


async def test_a_commit_that_stays_unknown_is_known_to_the_reconciler(services: Services, org: int, sql: Any) -> None:
    """Every attempt's answer is lost: the claim stays, and the reconciler finds what became of the row."""
    start = (await free_starts(services, org))[40]
    await sql.execute(
        """
        CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$;
        CREATE TRIGGER die BEFORE INSERT ON appointments FOR EACH STATEMENT EXECUTE FUNCTION die();
        """
    )
    with pytest.raises(OutcomeUnknown):
        await services.book(wish(start, idempotency_key="key"), caller(org), RateSeen())
    assert len(await services.grid.pending()) == 1
    assert services.metrics.unknown_commits._value.get() == 1
    await sql.execute("DROP TRIGGER die ON appointments")
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await steps.differences(services, org) == 0
    booked = await services.book(wish(start, idempotency_key="key"), caller(org), RateSeen())
    assert not booked.replayed
    assert await sql.fetchval("SELECT count(*) FROM appointments WHERE status <> 'void'") == 1


async def test_what_redis_and_postgres_cannot_agree_on_is_booked_by_postgres_in_the_end(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = (await free_starts(services, org))[40]
    lost = AsyncMock(return_value=Committed(CommitOutcome.LOST))
    monkeypatch.setattr(services.committer, "commit", lost)
    booked = await services.book(wish(start, coach_id="coach-3"), caller(org), RateSeen())
    assert lost.call_count == CLAIM_ATTEMPTS
    assert str(await sql.fetchval("SELECT appointment_id FROM appointments")) == booked.appointment_id
    assert await services.grid.pending() == {}


async def test_a_booking_that_looks_twice_is_one_request_of_its_key(services: Services, org: int) -> None:
    start = (await free_starts(services, org))[40]
    await services.grid.forget_days(org, range(day_of(start) - 1, day_of(start) + 2))
    limited = Caller(org, "tests", frozenset({"write"}), Rate("limited", 1, 60_000), "corr-1")
    seen = RateSeen()
    await services.book(wish(start), limited, seen)
    services.metrics.later.write()
    assert services.metrics.claims.labels("unknown_day")._value.get() == 1
    assert seen.state is not None
    assert (seen.state.limit, seen.state.remaining) == (1, 0)


@asynccontextmanager
async def too_late_by_now(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[BookingRequest, asyncio.Future[Booked]]]:
    """A request under a key, and its booking, which waits for its commit while its start goes by."""
    start = (await free_starts(services, org))[40]
    request = wish(start, idempotency_key="key")
    async with steps.commits_held(sql):
        booking = asyncio.ensure_future(services.book(request, caller(org), RateSeen()))
        await steps.a_commit_waits(sql)
        monkeypatch.setattr(services.clock, "now", lambda: start + timedelta(hours=1))
        yield request, booking


async def test_what_is_asked_for_too_late_waits_for_the_same_request_that_was_in_time(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with too_late_by_now(services, org, sql, monkeypatch) as (request, first):
        with monkeypatch.context() as patch:
            patch.setattr(book, "PATIENCE_S", 0.05)
            with pytest.raises(IdempotencyInProgress):
                await services.book(request, caller(org), RateSeen())
        again = asyncio.ensure_future(services.book(request, caller(org), RateSeen()))
        assert not (await asyncio.wait({again}, timeout=0.05))[0]
    assert ((await again).body, (await again).replayed) == ((await first).body, True)
    with pytest.raises(InvalidRequest, match="past"):
        await services.book(wish(request.start_time, idempotency_key="other"), caller(org), RateSeen())
    services.metrics.later.write()
    assert services.metrics.claims.labels("admitted")._value.get() == 1


async def test_who_waits_for_the_same_request_is_not_refused_because_redis_goes_away(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with too_late_by_now(services, org, sql, monkeypatch) as (request, first):
        again = asyncio.ensure_future(services.book(request, caller(org), RateSeen()))
        looks = services.metrics.claims.labels("in_progress")._value
        await eventually(lambda: looks.get() > 0, what="a look at the key")
        services.keeping_gate.cancel()
        services.breaker.trip(Trip.FAULT)
        with pytest.raises(IdempotencyInProgress):
            await again
    booked = await first
    assert (await services.book(request, caller(org), RateSeen())).body == booked.body
