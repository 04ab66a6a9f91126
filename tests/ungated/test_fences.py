"""The parts that keep Redis from being believed too early, one at a time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
from msgspec.structs import replace
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from service.app import Services, build_time_off
from service.claims.breaker import GateBreaker, Trip
from service.claims.connection import PoolBusy, ServerChanged
from service.claims.lateness import Lateness
from service.claims.server import RedisServer, Seen
from service.db.appointments import Change, ChangeOutcome
from service.db.commit import CommitOutcome
from service.db.gate import Repair
from service.domain.appointment import Appointment
from service.errors import GateClosed, InvalidRequest, OutcomeUnknown, SlotUnavailable, Unavailable
from service.operations.book import Booked
from service.operations.book_ungated import Wish
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from service.operations.settle_change import MOST_AHEAD
from service.operations.time_off import Absence
from service.operations.treat_appointments import Existing
from tests.invariants.looks import booked, cancelled
from tests.operations import steps
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish


class Late(Lateness):
    """A process that is late."""

    @property
    def is_late(self) -> bool:
        """It is."""
        return True


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (RedisTimeout("no answer"), Trip.FAULT),
        (TimeoutError(), Trip.FAULT),
        (ConnectionResetError(), Trip.FAULT),
        (OutOfMemoryError("command not allowed"), Trip.REFUSED),
        (ReadOnlyError("a replica"), Trip.REFUSED),
        (ResponseError("MISCONF cannot persist"), Trip.REFUSED),
        (ServerChanged("another"), Trip.SUSPECT),
        (ResponseError("wrong number of arguments for 'get' command"), None),
        (ResponseError("WRONGTYPE of a key"), None),
        (PoolBusy("No connection available."), None),
    ],
)
async def test_what_opens_the_breaker_and_what_does_not(problem: Exception, why: Trip | None) -> None:
    heard: list[Trip | None] = []
    breaker = GateBreaker(lambda _closed, trip: heard.append(trip))
    breaker.close(1)
    with pytest.raises(Unavailable), breaker.asking():
        raise problem
    assert breaker.closed is (why is None)
    assert heard[1:] == ([] if why is None else [why])


async def test_who_is_late_itself_does_not_blame_redis() -> None:
    breaker = GateBreaker(timeout_s=0.01, lateness=Late())
    breaker.close(1)
    with pytest.raises(GateClosed), breaker.asking():
        raise TimeoutError
    assert breaker.closed

    async def answer() -> int:
        await asyncio.sleep(0.05)
        return 7

    assert await breaker.ask(answer()) == 7
    breaker = GateBreaker(timeout_s=0.01)
    breaker.close(1)
    with pytest.raises(GateClosed):
        await breaker.ask(answer())
    assert not breaker.closed
    with pytest.raises(GateClosed, match="not asked"):
        await breaker.ask(answer())


async def test_who_stood_still_waits_on_before_it_knows_by_its_heartbeat() -> None:
    lateness = Lateness()
    beating = asyncio.ensure_future(lateness.run())
    breaker = GateBreaker(timeout_s=0.1, lateness=lateness)
    breaker.close(1)
    await asyncio.sleep(0.05)
    await eventually(lambda: not lateness.is_late, what="a heartbeat in time")

    async def answer() -> int:
        time.sleep(0.3)  # noqa: ASYNC251 - the whole process stands still
        await asyncio.sleep(0.05)
        return 7

    assert await breaker.ask(answer()) == 7
    assert lateness.is_late
    beating.cancel()


async def test_what_was_answered_in_time_is_not_looked_after_any_longer() -> None:
    breaker, complaints = GateBreaker(timeout_s=0.02), list[dict[str, Any]]()
    breaker.close(1)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    await breaker.ask(asyncio.sleep(0))
    await asyncio.sleep(0.05)
    assert complaints == []
    assert breaker.closed


async def test_a_call_leaves_nothing_to_the_collector() -> None:
    breaker = GateBreaker()
    breaker.close(1)
    gc.collect()
    for _ in range(20):
        await breaker.ask(asyncio.sleep(0))
    assert gc.collect() < 20


async def test_a_process_is_late_until_it_has_kept_up_for_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    lateness, now, seen = Lateness(), 1000.0, list[bool]()
    naps = [0.02, 0.06, 0.3, *[0.06] * 9]

    async def sleep(_: float) -> None:
        nonlocal now
        seen.append(lateness.is_late)
        if not naps:
            raise ZeroDivisionError
        now += naps.pop(0)

    with monkeypatch.context() as moved:
        moved.setattr(asyncio.get_running_loop(), "time", lambda: now)
        moved.setattr(asyncio, "sleep", sleep)
        with pytest.raises(ZeroDivisionError):
            await lateness.run()
        assert seen == [False] * 3 + [True] * 9 + [False]
        now += 0.3
        assert lateness.is_late, "it has not come to its beat yet"


async def test_who_fell_behind_again_meanwhile_or_cannot_ask_has_not_caught_up() -> None:
    breaker = GateBreaker()
    breaker.close(1)
    falls = breaker.falls
    breaker.fall_behind()
    breaker.caught_up(falls)
    assert breaker.behind
    breaker.trip(Trip.FAULT)
    breaker.caught_up(breaker.falls)
    assert breaker.behind
    breaker.close(1)
    breaker.caught_up(breaker.falls)
    assert not breaker.behind


async def test_who_comes_late_with_cleaning_drops_nothing_of_the_next_epoch(services: Services, org: int) -> None:
    server = RedisServer(services.looking_redis, services.shards)
    seen = await server.look()
    nonce = await server.begin_cleaning(seen)
    assert nonce is not None
    assert await server.begin_cleaning(await server.look()) is None, "one at a time"
    keys = services.shards.of(org)
    # It stood still for so long that the lock ran out, and somebody else cleaned.
    await services.looking_redis.delete(keys.lock("cleaning"))
    other = await server.begin_cleaning(await server.look())
    assert other is not None
    assert await server.clean(seen.run_id, 9, other)
    await services.looking_redis.hset(keys.pending, "token", b"claimed since")  # type: ignore[misc]
    assert not await server.clean(seen.run_id, 8, nonce)
    assert await services.looking_redis.get(keys.epoch) == b"9"
    assert await services.looking_redis.hlen(keys.pending) == 1  # type: ignore[misc]


async def test_who_saw_the_grid_lost_does_not_throw_the_next_one_away(services: Services, org: int) -> None:
    server, keys = RedisServer(services.looking_redis, services.shards), services.shards.of(org)
    await services.looking_redis.delete(keys.epoch)
    seen = await server.look()
    quicker = await server.begin_cleaning(seen)
    assert quicker is not None
    assert await server.clean(seen.run_id, 9, quicker)
    assert await server.begin_cleaning(seen) is None, "another process saw it too, and has begun the next"
    assert await server.look() == Seen(seen.run_id, 9)
    assert await server.begin_cleaning(Seen(seen.run_id, 9)) is not None, "and nobody is kept from it later"


async def test_a_crowd_that_is_fenced_repairs_once(services: Services, org: int, sql: Any) -> None:
    await services.keeper.fill(org)
    await services.heal()
    await sql.execute("UPDATE coaches SET max_daily_appointments = max_daily_appointments + 1 WHERE coach_no = 2")
    with patch.object(services.keeper, "repair", wraps=services.keeper.repair) as repair:
        found = await asyncio.gather(*(services.heal.coach(org, 2) for _ in range(20)))
    assert sum(found) >= 1
    assert repair.call_count == 1


async def test_a_note_that_comes_late_frees_nobody_elses_time(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation went on without it, and the time is somebody else's when Redis gets the note at last."""
    start = (await free_starts(services, org))[40]
    first = await booked(services, org, start, coach_id="coach-3")
    await services.gate.drain()
    note = services.gate.note_release

    late: list[Any] = []

    async def delayed(*arguments: Any) -> None:
        late.append(arguments)
        raise GateClosed("no answer")

    monkeypatch.setattr(services.gate, "note_release", delayed)
    await cancelled(services, first)
    await eventually(lambda: not services.breaker.behind, what="the grid told")
    await booked(services, org, start, coach_id="coach-3", person=1)
    await services.gate.drain()
    await note(*late.pop())
    assert len(await services.grid.pending()) == 1
    await steps.expire_pending(services)
    with patch.object(services.gate, "release", wraps=services.gate.release) as release:
        assert await services.reconcile() == 1
    assert release.call_count == 0, "it would have freed, for a moment, what is taken"
    assert await services.grid.pending() == {}
    assert await steps.differences(services, org) == 0
    with pytest.raises(SlotUnavailable):
        await services.book(wish(start, coach_id="coach-3", person=2), caller(org), RateSeen())


async def test_a_claim_of_an_epoch_that_is_over_is_fenced_and_made_again(services: Services, org: int) -> None:
    start = (await free_starts(services, org))[40]
    claimed = await steps.claim(services, org, wish(start, coach_id="coach-3"))
    await steps.emptied(services)
    assert (await steps.commit(services, claimed)).outcome is CommitOutcome.FENCED
    again = await booked(services, org, start, coach_id="coach-3")
    assert again.coach_id == "coach-3"
    assert services.metrics.fenced_commits._value.get() == 0, "only what a request lost is counted"


@pytest.mark.parametrize("gated", [True, False], ids=["with Redis", "without Redis"])
async def test_a_time_off_waits_for_who_has_read_the_hours_before(
    services: Services, without: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    """One process closes the period, with Redis or without, while another is about to book into it without."""
    start = (await free_starts(services, org))[40]
    grids = without.book._ungated._grids
    grid, read, go_on = grids.grid, asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        found = await grid(*arguments)
        read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(grids, "grid", slowly)
    booking = asyncio.ensure_future(without.book(wish(start, coach_id="coach-3"), caller(org), RateSeen()))
    await asyncio.wait_for(read.wait(), 60)
    hour = timedelta(hours=1)
    wanted = Absence(start=start - hour, end=start + hour, reason=None, existing=Existing.KEEP, source="api")
    try:
        closing = asyncio.ensure_future(
            build_time_off(services if gated else without).close(
                org, "coach-3", wanted, actor="tests", correlation_id="corr-1"
            )
        )

        async def written() -> bool:
            return await sql.fetchval("SELECT count(*) FROM time_off") == 1

        await eventually(written, what="the period")
    finally:
        go_on.set()
    await booking
    assert [one.outcome for one in (await closing).affected] == ["kept"]


async def test_a_time_off_whose_note_somebody_else_repairs_is_closed_all_the_same(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether that is done by now is not known."""
    await services.keeper.fill(org)
    start = (await free_starts(services, org))[40]
    wanted = Absence(start=start, end=start + timedelta(hours=1), reason=None, existing=Existing.KEEP, source="api")
    monkeypatch.setattr(services.heal, "coach", AsyncMock(return_value=0))
    await build_time_off(services).close(org, "coach-3", wanted, actor="tests", correlation_id="corr-1")
    assert await steps.differences(services, org) == 0


async def test_of_a_batch_decided_one_by_one_each_is_told_its_own_end(
    without: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = await free_starts(without, org)
    ungated = without.book._ungated
    decide = ungated._decide

    async def trouble(wishes: list[Wish], *, again: bool) -> Any:
        if any(one.request.notes == "away" for one in wishes) and len(wishes) == 1:
            raise Unavailable("Postgres refused for now")
        return await decide(wishes, again=again)

    monkeypatch.setattr(ungated, "_decide", trouble)
    answers = await asyncio.gather(
        *(
            without.book(wish(starts[30 + number], person=number, notes=notes), caller(org), RateSeen())
            for number, notes in enumerate(["fine", "not\0stored", "away", "fine"])
        ),
        return_exceptions=True,
    )
    assert [type(one) for one in answers] == [Booked, InvalidRequest, Unavailable, Booked]


async def test_who_notes_a_change_during_a_repair_is_repaired_after_it(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.keeper.fill(org)
    await services.heal()
    more = "UPDATE coaches SET max_daily_appointments = max_daily_appointments + 1 WHERE coach_no = 2"
    repair, began, go_on = services.keeper.repair, asyncio.Event(), asyncio.Event()

    async def held(*arguments: Any) -> Any:
        began.set()
        await go_on.wait()
        return await repair(*arguments)

    monkeypatch.setattr(services.keeper, "repair", held)
    await sql.execute(more)
    first = asyncio.ensure_future(services.heal.coach(org, 2))
    await asyncio.wait_for(began.wait(), 60)
    await sql.execute(more)
    second = asyncio.ensure_future(services.heal.coach(org, 2))
    await asyncio.sleep(0)
    go_on.set()
    assert await second == 1
    assert await services.gate_store.waiting() == 0, "its own note, too, not only that of who began before"
    await first


async def test_one_that_cannot_be_repaired_keeps_no_other_waiting(
    services: Services, org: int, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.keeper.fill(org)
    await services.heal()
    for column in (1, 2, 3):
        await sql.execute("UPDATE coaches SET max_daily_appointments = 5 WHERE coach_no = $1", column)
    repair = services.keeper.repair

    async def fails_for_one(of: int, columns: list[int], days: Any) -> Any:
        if columns == [1]:
            raise Unavailable("it cannot be repaired")
        return await repair(of, columns, days)

    monkeypatch.setattr(services.keeper, "repair", fails_for_one)
    with pytest.raises(Unavailable, match="cannot be repaired"):
        await services.heal()
    assert [found.column for found in await services.gate_store.repairs()] == [1]
    assert services.metrics.grid_repairs_waiting._value.get() == 1
    monkeypatch.undo()
    assert await services.heal() == 1


async def test_a_repair_that_may_be_noted_is_not_an_unknown_outcome_of_anything(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        raise OutcomeUnknown("lost")

    monkeypatch.setattr(services.database, "write", lost)
    with pytest.raises(Unavailable):
        await services.gate_store.repaired(Repair(1, 1, ((1, 1),), (1,)), 1, 1)


async def test_a_claim_given_up_frees_nothing_of_who_booked_its_time_without_redis(
    services: Services, without: Services, org: int
) -> None:
    """The grid was shown the other booking while the claim still stood for the same time."""
    start = (await free_starts(services, org))[40]
    await steps.claim(services, org, wish(start, coach_id="coach-3"))
    other = await booked(without, org, start, coach_id="coach-3", person=1)
    assert await services.heal() == 1
    await steps.expire_pending(services)
    with counts_before_repairs(services, other) as counts:
        assert await services.reconcile() == 1
    assert min(counts) == 1, "its count is not given back as well"
    assert await steps.differences(services, org) == 0


async def test_a_move_given_up_uncounts_nothing_of_the_same_move_made_without_redis(
    services: Services, without: Services, org: int
) -> None:
    """A request claimed the new time, lost Redis, and moved the appointment there without it."""
    starts = await free_starts(services, org)
    first = await booked(services, org, starts[40], coach_id="coach-3")
    await services.gate.drain()
    there = MoveWish(start_time=starts[80])
    who: dict[str, Any] = {"actor": "tests", "correlation_id": "corr-1"}
    with (
        patch.object(services.appointments, "change", AsyncMock(side_effect=OutcomeUnknown("lost"))),
        pytest.raises(OutcomeUnknown),
    ):
        await services.move(org, first.appointment_id, there, **who)
    moved = await without.move(org, first.appointment_id, there, **who)
    assert await services.heal() >= 1
    await steps.expire_pending(services)
    with counts_before_repairs(services, moved) as counts:
        assert await services.reconcile() == 1
    assert min(counts) == 1, "for a moment one more could have been booked than the day allows"
    assert await steps.differences(services, org) == 0


@contextmanager
def counts_before_repairs(services: Services, appointment: Appointment) -> Iterator[list[int]]:
    """What the appointment's coach has on its day by the grid, at the beginning of each repair in the block."""
    repair = services.keeper.repair
    counts: list[int] = []

    async def counting(*arguments: Any, **named: Any) -> Any:
        found = await services.grid.read_counts(appointment.org, appointment.local_day, 32)
        assert found is not None
        counts.append(found[appointment.column])
        return await repair(*arguments, **named)

    with patch.object(services.keeper, "repair", counting):
        yield counts


async def test_a_claim_that_is_fenced_frees_nothing_of_who_booked_its_time_without_redis(
    services: Services, without: Services, org: int
) -> None:
    start = (await free_starts(services, org))[40]
    commit = services.committer.commit

    async def late(*arguments: Any) -> Any:
        if not others:
            others.append(await booked(without, org, start, coach_id="coach-3", person=1))
            assert await services.heal() == 1
        return await commit(*arguments)

    others: list[Any] = []
    with patch.object(services.committer, "commit", late), pytest.raises(SlotUnavailable):
        await services.book(wish(start, coach_id="coach-3"), caller(org), RateSeen())
    assert len(others) == 1
    assert services.metrics.backstop_conflicts._value.get() == 0, "the next claim was refused by the grid"
    assert await steps.differences(services, org) == 0


@pytest.mark.parametrize("problem", [Unavailable("refused for now"), InvalidRequest([("body", "cannot be stored")])])
async def test_a_claim_that_is_not_written_frees_nothing_of_who_booked_its_time_without_redis(
    services: Services, without: Services, org: int, problem: Exception
) -> None:
    start = (await free_starts(services, org))[40]

    async def refused(*_: Any) -> Any:
        await booked(without, org, start, coach_id="coach-3", person=1)
        assert await services.heal() == 1
        raise problem

    with patch.object(services.committer, "commit", refused), pytest.raises(type(problem)):
        await services.book(wish(start, coach_id="coach-3"), caller(org), RateSeen())
    await services.tasks.drain(10)
    assert await steps.differences(services, org) == 0
    with pytest.raises(SlotUnavailable):
        await services.book(wish(start, coach_id="coach-3", person=2), caller(org), RateSeen())
    assert services.metrics.backstop_conflicts._value.get() == 0


async def test_however_many_are_not_written_few_wait_for_their_coach_day_to_be_put_right(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while Postgres is away: each repair fails slowly, and two are made at a time."""
    starts, go_on, repairs = await free_starts(services, org), asyncio.Event(), list[tuple[Any, ...]]()
    await services.keeper.fill(org)

    async def held(*arguments: Any) -> None:
        repairs.append(arguments)
        await go_on.wait()

    monkeypatch.setattr(services.keeper, "repair", held)
    monkeypatch.setattr(services.committer, "commit", AsyncMock(side_effect=Unavailable("away")))
    wishes = [wish(starts[40], coach_id="coach-3", person=n) for n in range(20)]
    for one in wishes:
        with pytest.raises(Unavailable):
            await services.book(one, caller(org), RateSeen())
    await asyncio.sleep(0)
    assert (len(services.tasks), len(repairs)) == (3, 2)
    go_on.set()
    await services.tasks.drain(10)
    assert len(repairs) == 3


async def test_what_somebody_waits_for_is_put_right_before_most_of_what_postgres_refused_in_an_outage(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    appointment = await booked(services, org, (await free_starts(services, org))[40], coach_id="coach-3")
    settle, go_on, repaired = services.book._settling, asyncio.Event(), list[int]()

    async def held(_org: int, _columns: Sequence[int], days: Iterable[int]) -> None:
        await go_on.wait()
        repaired.extend(days)

    monkeypatch.setattr(services.keeper, "repair", held)
    for n in range(10 * MOST_AHEAD):
        day = timedelta(days=n)
        settle.repair_soon(
            replace(
                appointment,
                occupied_start=appointment.occupied_start + day,
                occupied_end=appointment.occupied_end + day,
                local_day=appointment.local_day + n,
            )
        )
    waits = asyncio.ensure_future(settle.repair(replace(appointment, column=appointment.column + 1)))
    await asyncio.sleep(0)
    go_on.set()
    await waits
    assert MOST_AHEAD / 2 < len(repaired) <= MOST_AHEAD + 3
    await services.tasks.drain(10)


async def test_a_move_that_is_fenced_repairs_what_it_was_fenced_for_and_is_made(
    services: Services, without: Services, org: int
) -> None:
    starts = await free_starts(services, org)
    first = await booked(services, org, starts[40], coach_id="coach-3")
    await booked(without, org, starts[40] + timedelta(hours=1), coach_id="coach-3", person=1)
    there = MoveWish(start_time=starts[40] + timedelta(minutes=30))
    moved = await services.move(org, first.appointment_id, there, actor="tests", correlation_id="corr-1")
    assert (moved.start_time, moved.coach_id) == (there.start_time, "coach-3")
    assert services.metrics.fenced_commits._value.get() == 1
    assert await services.gate_store.waiting() == 0
    assert await steps.differences(services, org) == 0


async def test_a_move_that_did_not_see_a_booking_made_without_redis_is_fenced_after_its_repair_too(
    services: Services, without: Services, org: int
) -> None:
    """It may have been the last of its day, and what is repaired no note shows any more."""
    starts = await free_starts(services, org)
    first = await booked(services, org, starts[40], coach_id="coach-3")
    change, outcomes = services.appointments.change, list[ChangeOutcome]()

    async def late(wanted: Change) -> ChangeOutcome:
        if not outcomes:
            await booked(without, org, starts[40] + timedelta(hours=1), coach_id="coach-3", person=1)
            assert await services.heal() == 1
        outcomes.append(await change(wanted))
        return outcomes[-1]

    there = MoveWish(start_time=starts[40] + timedelta(minutes=30))
    with patch.object(services.appointments, "change", late):
        moved = await services.move(org, first.appointment_id, there, actor="tests", correlation_id="corr-1")
    assert outcomes == [ChangeOutcome.STALE, ChangeOutcome.DONE]
    assert (moved.start_time, moved.coach_id, moved.version) == (there.start_time, "coach-3", 2)
    assert await steps.differences(services, org) == 0


async def test_who_is_fenced_because_the_epoch_is_over_has_the_grid_looked_at(services: Services, org: int) -> None:
    """Somebody began the next in Postgres, and died before Redis heard of it."""
    start = (await free_starts(services, org))[40]
    await eventually(lambda: not services.breaker.behind, what="the start")
    _, server = await services.gate_store.epoch()
    over = await services.gate_store.renew(server or "") - 1
    assert services.breaker.epoch == over
    assert (await booked(services, org, start, coach_id="coach-3")).coach_id == "coach-3"
    await eventually(lambda: not services.breaker.behind, what="Redis asked again")
    assert services.breaker.epoch == (await services.gate_store.epoch())[0] > over
    assert await steps.differences(services, org) == 0
