"""A booking and another write under one key, begun where neither can see the other's row yet: one takes effect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from service.app import Services
from service.assemble_api import carry_out_once
from service.db.commit import Committed, NewBooking, commit_within
from service.db.idempotency import FinalAnswer, KeyHold
from service.db.statements import statement
from service.errors import IdempotencyInProgress, IdempotencyKeyReused, KeyJustBegun, Unavailable
from service.operations import book_ungated
from service.operations.book import Booked
from service.operations.carry_out_once import KeyedRequest
from service.operations.local_rates import RateSeen
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

KEY = "key-1"
_COMMITS_WAIT_FOR_LOCK_1 = """
CREATE FUNCTION wait_for_lock_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait_for_lock_1 AFTER INSERT ON appointments DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_for_lock_1();
"""
_WAITING = (
    "SELECT count(*)::integer FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.fixture
async def book(without: Services, org: int) -> Callable[[Services], Awaitable[Booked]]:
    """Books a certain time under the key."""
    request = wish((await free_starts(without, org))[40], idempotency_key=KEY, fingerprint="b" * 32)

    async def book(process: Services) -> Booked:
        return await process.book(request, caller(org), RateSeen())

    return book


async def _waits(sql: Any, task: asyncio.Future[Any], *, beside: int = 0) -> bool:
    """Whether the task came to wait for a lock, `beside` others that do; False when it came to its end instead."""
    found = list[int]()

    async def waits_or_is_done() -> bool:
        await sql.execute("SELECT pg_stat_clear_snapshot()")
        found.append(await sql.fetchval(_WAITING))
        return task.done() or found[-1] > beside

    await eventually(waits_or_is_done, what="a lock being waited for")
    return not task.done()


async def _another_write(process: Services, org: int, done: list[KeyHold]) -> None:
    """Carry another write out under the key."""

    async def work(hold: KeyHold) -> None:
        done.append(hold)

    await carry_out_once(process)(KeyedRequest(org, KEY, "a" * 32), work, lambda _: FinalAnswer(200, {}, b"{}"))


@pytest.mark.parametrize("kept", [True, False], ids=["and goes on", "and comes to nothing"])
async def test_a_booking_waits_for_another_write_that_is_just_beginning(
    without: Services, org: int, sql: Any, book: Callable[[Services], Awaitable[Booked]], kept: bool
) -> None:
    beginning = sql.transaction()
    await beginning.start()
    await sql.execute(statement("begin_key"), org, KEY, b"\0" * 16, uuid4(), 60.0)
    booking = asyncio.ensure_future(book(without))
    assert await _waits(sql, booking)
    if kept:
        await beginning.commit()
        with pytest.raises(IdempotencyInProgress):
            await booking
    else:
        await beginning.rollback()
        assert not (await booking).replayed
    assert await sql.fetchval("SELECT count(*) FROM appointments") == (not kept)


@pytest.mark.parametrize("booked_without", [True, False], ids=["made without Redis", "whose mark it cannot see"])
async def test_another_write_waits_for_a_booking_that_is_just_being_made(
    without: Services,
    services: Services,
    org: int,
    sql: Any,
    book: Callable[[Services], Awaitable[Booked]],
    booked_without: bool,
) -> None:
    """One of the two processes does without Redis: the mark is never set, or never seen."""
    booking_at, other_at = (without, services) if booked_without else (services, without)
    await sql.execute(_COMMITS_WAIT_FOR_LOCK_1)
    done = list[KeyHold]()
    async with sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock(1)")
        booking = asyncio.ensure_future(book(booking_at))
        assert await _waits(sql, booking)
        other = asyncio.ensure_future(_another_write(other_at, org, done))
        assert await _waits(sql, other, beside=1)
    booked = await booking
    with pytest.raises(IdempotencyKeyReused):
        await other
    assert done == []
    await services.gate.drain()
    for process in (services, without):
        again = await book(process)
        assert (again.replayed, again.body) == (True, booked.body)


async def test_a_key_that_others_keep_beginning_holds_up_no_booking_beside_it(
    without: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def contested(connection: Any, bookings: list[NewBooking]) -> list[Committed]:
        found = await commit_within(connection, bookings)
        if any(one.idempotency_key == KEY for one in bookings):
            raise KeyJustBegun("contested")
        return found

    monkeypatch.setattr(book_ungated, "commit_within", contested)
    starts = await free_starts(without, org)
    wishes = [
        wish(starts[40 + number], person=number, idempotency_key=key, fingerprint="b" * 32)
        for number, key in enumerate((KEY, "key-2", "key-3"))
    ]
    bookings = (without.book(one, caller(org), RateSeen()) for one in wishes)
    refused, *booked = await asyncio.gather(*bookings, return_exceptions=True)
    assert isinstance(refused, Unavailable)
    assert all(isinstance(one, Booked) for one in booked), booked
