"""A booking that fails after its claim leaves nothing behind: no time taken, no key in flight, no row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.app import Services
from service.errors import InvalidRequest, OutcomeUnknown, Unavailable
from service.operations.book import Booked
from service.operations.local_rates import RateSeen
from tests.operations import steps
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
