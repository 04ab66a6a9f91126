"""Booking, moving, cancelling and searching with Postgres alone: the same rules, and nothing given twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, patch
from uuid import UUID

import orjson
import pytest

from service.app import Services, open_services
from service.claims.breaker import Trip
from service.claims.messages import Rate
from service.claims.server import RedisServer
from service.db.appointments import Change, ChangeOutcome
from service.db.commit import CommitOutcome
from service.domain.appointment import Appointment
from service.domain.grid import day_of
from service.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    OutcomeUnknown,
    RateLimitExceeded,
    SlotUnavailable,
    Unavailable,
)
from service.operations.book import Booked
from service.operations.caller import Caller
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from tests.invariants.looks import booked, cancelled, listed, overlaps
from tests.operations import steps
from tests.servers import eventually
from tests.ungated.conftest import agreed, stay_away
from tests.wishes import caller, free_starts, wish

WHO: dict[str, Any] = {"actor": "tests", "correlation_id": "corr-1"}
_OVER_LIMIT = """
SELECT count(*) FROM (
    SELECT a.coach_no FROM appointments AS a JOIN coaches AS k USING (org_id, coach_no)
    WHERE a.status = 'scheduled' GROUP BY a.org_id, a.coach_no, a.local_day, k.max_daily_appointments
    HAVING count(*) > k.max_daily_appointments
) AS over
"""


async def test_what_is_listed_is_the_same_with_redis_and_without(
    services: Services, without: Services, org: int
) -> None:
    starts = await free_starts(services, org)
    for number in range(12):
        await booked(services, org, starts[20 + 3 * number], person=number)
    for calendar in ("cal-1", "cal-2", "cal-3"):
        ours = await listed(without, org, calendar)
        assert ours == await listed(services, org, calendar)
        assert len(ours) > 100


async def test_the_same_coaches_are_chosen_with_redis_and_without(services: Services, org: int, sql: Any) -> None:
    """Twenty bookings by one way, taken back, and again by the other."""
    starts = await free_starts(services, org)
    wanted = [(starts[10 + 2 * (n % 6)], ("cal-1", "cal-2", "cal-3")[n % 3]) for n in range(20)]
    chosen: list[list[str]] = []
    for turn in range(2):
        made = []
        for number, (start, calendar) in enumerate(wanted):
            try:
                made.append(await booked(services, org, start, calendar, person=number))
            except SlotUnavailable:
                made.append(None)
        chosen.append([one.coach_id if one is not None else "nobody" for one in made])
        for one in made:
            if one is not None:
                await cancelled(services, one)
        if not turn:
            services.keeping_gate.cancel()
            services.breaker.trip(Trip.FAULT)
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) > 3
    assert services.metrics.ungated.labels("book")._value.get() > 10


async def test_200_at_once_in_two_processes_never_overlap_and_keep_the_daily_limits(
    settings: Any, without: Services, org: int, sql: Any
) -> None:
    async with open_services(settings) as other:
        stay_away(other)
        starts = await free_starts(without, org)
        wishes = [wish(starts[20 + n % 25], ("cal-1", "cal-2", "cal-3")[n % 3], person=n) for n in range(200)]
        answers = await asyncio.gather(
            *((without, other)[n % 2].book(one, caller(org), RateSeen()) for n, one in enumerate(wishes)),
            return_exceptions=True,
        )
    kinds = Counter(type(answer) for answer in answers)
    assert set(kinds) == {Booked, SlotUnavailable}, kinds
    assert await sql.fetchval("SELECT count(*) FROM appointments") == kinds[Booked] > 40
    assert await overlaps(sql) == 0
    assert await sql.fetchval(_OVER_LIMIT) == 0
    for answer in answers:
        if isinstance(answer, SlotUnavailable):
            assert len(answer.details["alternatives"]) == 3


@pytest.mark.parametrize("seed", range(3))
async def test_one_with_redis_and_one_without_keep_a_daily_limit_together(
    services: Services, without: Services, org: int, sql: Any, seed: int
) -> None:
    """Each counts what it sees; a claim that did not see the other's booking must not be committed."""
    await sql.execute("UPDATE coaches SET max_daily_appointments = 3")
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")
    await services.rosters.refresh(org, await services.rosters.get(org))
    chance = random.Random(seed)
    free = await free_starts(services, org)
    starts = [start for start in free if start.date() == free[60].date()]
    books = []
    for number in range(60):
        process = chance.choice([services, without])
        request = wish(chance.choice(starts), chance.choice(["cal-1", "cal-2", "cal-3"]), person=number)
        books.append(asyncio.ensure_future(process.book(request, caller(org), RateSeen())))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    answers = await asyncio.gather(*books, return_exceptions=True)
    kinds = Counter(type(answer) for answer in answers)
    assert set(kinds) == {Booked, SlotUnavailable}, kinds
    assert await sql.fetchval(_OVER_LIMIT) == 0
    assert await overlaps(sql) == 0
    assert await sql.fetchval("SELECT count(*) FROM appointments") == kinds[Booked]
    await agreed(services)
    assert await steps.differences(services, org) == 0
    assert sum(await services.grid.deficits(org, 6)) == 0
    assert (await services.rebuild.verify(lambda _: None))[0].holds


@pytest.mark.parametrize("dropped", [False, True], ids=["its day is there", "its day was dropped"])
async def test_a_claim_that_did_not_see_a_booking_made_without_redis_is_fenced(
    services: Services, without: Services, org: int, sql: Any, dropped: bool
) -> None:
    start = (await free_starts(services, org))[40]
    await sql.execute("UPDATE coaches SET max_daily_appointments = 1 WHERE coach_id = 'coach-3'")
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")
    await services.rosters.refresh(org, await services.rosters.get(org))
    await services.heal()
    claimed = await steps.claim(services, org, wish(start + timedelta(hours=2), coach_id="coach-3"))
    await booked(without, org, start, coach_id="coach-3")
    if dropped:
        # As when a roster with wider rows is published, which raises its revision: there is nothing to repair.
        await services.grid.forget_days(org, range(day_of(start) - 1, day_of(start) + 3))
        await services.redis.hincrby(services.shards.of(org).roster(org), "revision", 1)  # type: ignore[misc]
    # The claim stands, and the grid is repaired beside it: it must not be committed even now.
    assert await services.heal() == 1
    assert (await steps.commit(services, claimed)).outcome is CommitOutcome.FENCED
    with pytest.raises(SlotUnavailable):
        await services.book(wish(start + timedelta(hours=3), coach_id="coach-3"), caller(org), RateSeen())


async def test_a_key_has_one_answer_whoever_is_asked(services: Services, without: Services, org: int, sql: Any) -> None:
    starts = await free_starts(services, org)
    request = wish(starts[30], idempotency_key="key", fingerprint="a" * 32)
    answers = await asyncio.gather(
        *((services, without)[n % 2].book(request, caller(org), RateSeen()) for n in range(20))
    )
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert await sql.fetchval("SELECT count(*) FROM appointments") == 1
    for process in (services, without):
        with pytest.raises(IdempotencyKeyReused):
            await process.book(wish(starts[31], idempotency_key="key", fingerprint="b" * 32), caller(org), RateSeen())


async def test_it_moves_and_cancels_and_the_grid_hears_of_it(services: Services, without: Services, org: int) -> None:
    starts = await free_starts(services, org)
    first = await booked(services, org, starts[30])
    moved = await without.move(org, first.appointment_id, MoveWish(start_time=starts[60]), **WHO)
    assert (moved.start_time, moved.coach_id, moved.version) == (starts[60], first.coach_id, 2)
    other = await without.move.reassign(org, first.appointment_id, reason=None, **WHO)
    assert other.coach_id != first.coach_id
    history = await without.appointments.history(org, first.appointment_id)
    assert [len(event.considered) > 1 for event in history] == [True, False, True], "among whom it was given away"
    second = await booked(without, org, starts[31])
    gone = await without.change.cancel(org, second.appointment_id, reason=None, **WHO)
    assert gone.status.value == "cancelled"
    assert await services.heal() > 1
    await agreed(services)
    assert await steps.differences(services, org) == 0
    assert (starts[30], first.coach_id) in await listed(services, org, "cal-1")
    assert sum(await services.grid.deficits(org, 6)) == 0


async def test_what_cannot_be_booked_is_refused_as_ever(without: Services, org: int, sql: Any) -> None:
    starts = await free_starts(without, org)
    with pytest.raises(InvalidRequest, match="grid"):
        await without.book(wish(starts[30] + timedelta(minutes=1)), caller(org), RateSeen())
    good = without.book(wish(starts[30]), caller(org), RateSeen())
    bad = without.book(wish(starts[31], notes="no\0text"), caller(org), RateSeen())
    done, refused = await asyncio.gather(good, bad, return_exceptions=True)
    assert isinstance(refused, InvalidRequest)
    assert isinstance(done, Booked)
    assert await sql.fetchval("SELECT count(*) FROM appointments") == 1
    taken = [await without.book(wish(starts[40], person=n), caller(org), RateSeen()) for n in range(2)]
    assert len({orjson.loads(one.body)["coach_id"] for one in taken}) == 2


@contextmanager
def answer_lost(services: Services, *problems: Exception) -> Iterator[None]:
    """The first decision is committed and nobody is told of it; `problems` are what the next attempts meet."""
    alone, left, lost = services.gate_store.alone, list(problems), list[bool]()

    @asynccontextmanager
    async def losing() -> AsyncIterator[Any]:
        if lost and left:
            raise left.pop(0)
        async with alone() as connection:
            yield connection
        if not lost:
            lost.append(True)
            raise OutcomeUnknown("lost")

    with patch.object(services.gate_store, "alone", losing):
        yield
    assert (lost, left) == ([True], [])


@pytest.mark.parametrize("coach_id", [None, "coach-3"])
async def test_a_booking_whose_answer_was_lost_is_found_and_not_made_again(
    without: Services, org: int, sql: Any, coach_id: str | None
) -> None:
    start = (await free_starts(without, org))[30]
    with answer_lost(without):
        made = await without.book(wish(start, coach_id=coach_id), caller(org), RateSeen())
    rows = await sql.fetch("SELECT appointment_id, coach_no FROM appointments")
    body = orjson.loads(made.body)
    assert [(str(row["appointment_id"]), f"coach-{row['coach_no'] + 1}") for row in rows] == [
        (made.appointment_id, body["coach_id"])
    ]
    assert body["appointment_id"] == made.appointment_id


@pytest.mark.parametrize("late", [False, True], ids=["there at once", "there late"])
async def test_a_move_whose_answer_was_lost_is_found_and_not_refused_for_its_own_version(
    without: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Late it is only seen by who has the gate alone: then nothing of before is under way any more."""
    starts = await free_starts(without, org)
    first = await booked(without, org, starts[30])
    wanted = MoveWish(start_time=starts[60])
    is_ours, asked = without.appointments.is_ours, list[Change]()

    async def not_yet(change: Change) -> bool:
        asked.append(change)
        return (len(asked) > 1 or not late) and await is_ours(change)

    monkeypatch.setattr(without.appointments, "is_ours", not_yet)
    with answer_lost(without):
        moved = await without.move(org, first.appointment_id, wanted, versions=frozenset({1}), **WHO)
    assert (moved.start_time, moved.version) == (starts[60], 2)
    assert moved == await without.change.get(org, first.appointment_id)
    assert await sql.fetchval("SELECT count(*) FROM events") == 2


@pytest.mark.parametrize("outcome", [ChangeOutcome.STALE, ChangeOutcome.TAKEN])
async def test_a_move_that_was_not_written_is_not_called_made(
    without: Services, org: int, monkeypatch: pytest.MonkeyPatch, outcome: ChangeOutcome
) -> None:
    starts = await free_starts(without, org)
    first = await booked(without, org, starts[30])
    change_within, tried = without.appointments.change_within, list[Change]()

    async def not_at_first(connection: Any, change: Change) -> ChangeOutcome:
        tried.append(change)
        return await change_within(connection, change) if len(tried) > 1 else outcome

    monkeypatch.setattr(without.appointments, "change_within", not_at_first)
    moved = await without.move(org, first.appointment_id, MoveWish(start_time=starts[60]), **WHO)
    assert (len(tried), moved.start_time, moved.version) == (2, starts[60], 2)
    assert moved == await without.change.get(org, first.appointment_id)


async def test_who_is_to_go_to_somebody_else_stays_where_nobody_else_is_free(without: Services, org: int) -> None:
    start = (await free_starts(without, org))[30]
    first = await booked(without, org, start)
    everybody = (booked(without, org, start, person=person) for person in range(1, 10))
    others = await asyncio.gather(*everybody, return_exceptions=True)
    assert {type(one) for one in others} == {Appointment, SlotUnavailable}
    with pytest.raises(SlotUnavailable):
        await without.move.reassign(org, first.appointment_id, reason=None, **WHO)
    assert await without.change.get(org, first.appointment_id) == first


async def test_what_nobody_was_told_of_is_unknown_however_the_next_attempts_end(
    without: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.operations.book_ungated.random.Random.uniform", lambda *_: 0.0)
    starts = await free_starts(without, org)
    with answer_lost(without, Unavailable("away"), Unavailable("away")), pytest.raises(OutcomeUnknown):
        await without.book(wish(starts[30]), caller(org), RateSeen())
    appointment_id = await sql.fetchval("SELECT appointment_id FROM appointments")
    monkeypatch.setattr(without.appointments, "is_ours", AsyncMock(side_effect=Unavailable("away")))
    with answer_lost(without), pytest.raises(OutcomeUnknown):
        await without.move(org, UUID(int=appointment_id.int), MoveWish(start_time=starts[60]), **WHO)
    assert await sql.fetchval("SELECT starts_at FROM appointments") == starts[60]


async def test_each_process_counts_for_itself(without: Services, org: int) -> None:
    starts = await free_starts(without, org)
    limited = Caller(org, "tests", frozenset({"write"}), Rate("limited", 2, 60_000), "corr-1")
    seen = RateSeen()
    await without.book(wish(starts[30]), limited, seen)
    assert seen.state is not None
    assert (seen.state.limit, seen.state.remaining) == (2, 1)
    await without.book(wish(starts[31]), limited, RateSeen())
    with pytest.raises(RateLimitExceeded) as problem:
        await without.book(wish(starts[32]), limited, last := RateSeen())
    assert last.state is not None
    assert (last.state.limit, last.state.remaining) == (2, 0)
    assert 1 <= problem.value.retry_after_s <= 60


async def test_every_event_made_without_redis_is_announced_when_it_is_back(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = await free_starts(services, org)
    with monkeypatch.context() as away:
        away.setattr(RedisServer, "look", AsyncMock(side_effect=Unavailable("away")))
        services.breaker.trip(Trip.FAULT)
        made = [await booked(services, org, starts[30 + n]) for n in range(3)]
        await services.move(org, made[0].appointment_id, MoveWish(start_time=starts[60]), **WHO)
        await cancelled(services, made[1])
    assert services.metrics.ungated.labels("move")._value.get() == 1
    await eventually(lambda: services.breaker.closed, what="Redis asked again")
    events = {f"{org} {one.appointment_id.hex} 1" for one in made}
    events |= {f"{org} {one.appointment_id.hex} 2" for one in made[:2]}

    async def told() -> bool:
        return events <= set(await steps.announced(services))

    await eventually(told, what="the announcements")


async def test_what_coaches_are_owed_is_looked_at_until_nothing_differs(
    services: Services, without: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may have changed it meanwhile; then that look has put nothing right."""
    await booked(without, org, (await free_starts(without, org))[30])
    assert await services.heal() == 1
    found = [2, 0]
    monkeypatch.setattr(services.deficits, "repair", AsyncMock(side_effect=lambda _: found.pop(0)))
    assert await services.heal.owed() == 2
    assert [one for one, _ in await services.gate_store.owed()] == [org]
    assert await services.heal.owed() == 0
    assert await services.gate_store.owed() == []
