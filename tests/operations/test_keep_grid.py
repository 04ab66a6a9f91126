"""The grid stays what Postgres says plus what is pending, however derivations, repairs and bookings interleave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import orjson
import pytest

from service.app import Services, open_services
from service.claims.grid import ColumnState
from service.claims.scripts import ClaimOutcome, DeriveOutcome, ReleaseOutcome
from service.config import Settings
from service.domain.grid import day_of
from service.domain.plane import plane_of
from service.errors import SlotUnavailable
from service.operations.keep_grid import counts_by_column, known_in, occupied_by_column, open_by_column
from service.operations.local_rates import RateSeen
from service.operations.rosters import grid_days
from tests.operations import steps
from tests.wishes import caller, free_starts, wish


@pytest.fixture
async def neighbour(settings: Settings) -> AsyncIterator[Services]:
    """A second process on the same servers."""
    async with open_services(settings) as opened:
        yield opened


async def test_a_derivation_keeps_what_is_pending_and_counts_it_once(services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    claimed = await steps.claim(services, org, wish(starts[40]))
    committed = await steps.claim(services, org, wish(starts[40], person=1))
    await steps.commit(services, committed)
    days = sorted({part.day for part in claimed.plan.placement.segments()} | {claimed.appointment.local_day})
    before = [await services.grid.read(org, range(d, d + 1), [d]) for d in days]
    counts = [await services.grid.read_counts(org, d, 6) for d in days]
    for day in days:
        await services.grid.forget_days(org, range(day, day + 1))
        await services.keeper.derive(org, [day])
    assert [await services.grid.read(org, range(d, d + 1), [d]) for d in days] == before
    assert [await services.grid.read_counts(org, d, 6) for d in days] == counts
    assert sum(sum(row or []) for row in counts) == 2
    assert await steps.differences(services, org) == 0


async def test_a_derivation_overtaken_by_a_commit_looks_again(services: Services, org: int) -> None:
    claimed = await steps.claim(services, org, wish((await free_starts(services, org))[40]))
    day = claimed.plan.placement.start // 288
    roster = await services.rosters.get(org)
    await services.grid.forget_days(org, range(day, day + 1))
    nonce = await services.grid.mark_day(org, day)
    source = await services.roster_store.day_source(roster, day)  # Postgres does not know of the booking yet …
    await steps.commit(services, claimed)
    await steps.settle(services, claimed)  # … and Redis not any more: written now, the day would forget it
    outcome = await services.grid.derive_day(
        roster,
        day,
        nonce,
        open_plane=plane_of(open_by_column(source, day), roster.width),
        occupied=plane_of(occupied_by_column(source, day), roster.width),
        counts=counts_by_column(source, roster.width * 8),
        known=known_in(source),
    )
    assert outcome is DeriveOutcome.CHANGED
    assert await services.grid.missing_days(org, range(day, day + 1)) == [day]
    await services.keeper.derive(org, [day])
    assert await steps.differences(services, org) == 0
    assert sum(await services.grid.read_counts(org, claimed.appointment.local_day, 6) or []) == 1


@pytest.mark.parametrize("settled", [True, False])
async def test_a_repair_overtaken_by_a_booking_does_not_forget_it(services: Services, org: int, settled: bool) -> None:
    start = (await free_starts(services, org))[40]
    roster = await services.rosters.get(org)
    column, day = roster.coach("coach-3").column, day_of(start)
    nonce = await services.grid.mark_coach_day(org, day, column)
    source = await services.roster_store.day_source(roster, day, [column])
    state = ColumnState(
        open=open_by_column(source, day)[column],
        occupied=occupied_by_column(source, day).get(column, 0),
        count=len(source.counted),
        known=tuple(known_in(source)),
    )
    booked = await services.book(wish(start, coach_id="coach-3"), caller(org), RateSeen())
    if settled:
        await services.gate.drain()
    found = await services.grid.repair_coach_day(roster, day, column, nonce, state, write=True)
    # Of a claim that is still pending it knows; what was settled since, it may have missed.
    assert found.outcome is (DeriveOutcome.CHANGED if settled else DeriveOutcome.REPAIRED)
    assert (await services.keeper.repair(org, [column], [day])).total == 0
    with pytest.raises(SlotUnavailable):
        await services.book(wish(start, coach_id="coach-3"), caller(org), RateSeen())
    assert orjson.loads(booked.body)["coach_id"] == "coach-3"
    assert await steps.differences(services, org) == 0


async def test_a_repair_puts_right_what_was_wrong_and_nothing_else(services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    for number in range(8):
        await services.book(wish(starts[30 + 2 * number], person=number), caller(org), RateSeen())
    day, keys = day_of(starts[30]), services.shards.of(org)
    for key in (keys.open(org, day), keys.occupied(org, day)):
        await services.redis.setbit(key, 200 * 32 + 1, 1)
        await services.redis.setbit(key, 100 * 32 + 4, 1)
    await services.redis.setbit(keys.full(org, day), 2, 1)
    await services.redis.setrange(keys.counts(org, day), 2 * 3, b"\0\7")
    wrong = await services.keeper.check_day(org, day, write=False)
    assert wrong.outcome is DeriveOutcome.COMPARED
    assert wrong.occupied == 2
    assert wrong.count == 2
    right = await services.keeper.check_day(org, day, write=True)
    assert (right.outcome, right.open, right.occupied, right.count) == (
        DeriveOutcome.REPAIRED,
        wrong.open,
        wrong.occupied,
        wrong.count,
    )
    assert await steps.differences(services, org) == 0


async def test_a_release_after_a_repair_does_not_free_anothers_time(services: Services, org: int) -> None:
    """Cancelled, but its release is late; the repair in between must neither give the time away nor lose it."""
    start = (await free_starts(services, org, "cal-2"))[10]
    request = wish(start, "cal-2", coach_id="coach-4")
    booked = await services.book(request, caller(org), RateSeen())
    await services.gate.drain()
    appointment = await services.change.get(org, UUID(orjson.loads(booked.body)["appointment_id"]))
    token = await steps.note_release(services, appointment)
    await steps.commit_cancellation(services, appointment, token)
    days = {day_of(appointment.start_time), appointment.local_day}
    await services.keeper.repair(org, [appointment.column], days)
    with pytest.raises(SlotUnavailable):
        await services.book(request, caller(org), RateSeen())
    assert await services.gate.release(steps.release_of(appointment, token)) is ReleaseOutcome.RELEASED
    await services.book(request, caller(org), RateSeen())
    assert await services.gate.release(steps.release_of(appointment, token)) is ReleaseOutcome.ABSENT
    with pytest.raises(SlotUnavailable):
        await services.book(request, caller(org), RateSeen())
    assert await steps.differences(services, org) == 0


async def test_a_wider_roster_keeps_pending_claims_and_derives_the_days_again(
    services: Services, neighbour: Services, org: int, sql: Any
) -> None:
    starts = await free_starts(services, org)
    finished = await steps.claim(services, org, wish(starts[40]))
    given_up = await steps.claim(services, org, wish(starts[41], person=1))
    await _widen(sql, org)
    wide = await neighbour.rosters.get(org)  # another process reads the roster and publishes it
    assert (wide.width, (await services.rosters.get(org)).width) == (8, 4)
    assert len(await neighbour.grid.missing_days(org, range(day_of(starts[40]), day_of(starts[40]) + 2))) == 2
    # This process still has the narrow roster: it is told so, decides by the wide one and finds its own claim kept.
    for number in range(3):
        await services.book(wish(starts[40], person=10 + number), caller(org), RateSeen())
    assert (await services.rosters.get(org)).width == 8
    assert await steps.differences(services, org) == 0
    await steps.commit(services, finished)
    await steps.settle(services, finished)
    await steps.expire_pending(services)
    assert await services.reconcile() == 1
    assert await steps.differences(services, org) == 0
    rows = await sql.fetch(
        "SELECT coach_no FROM appointments WHERE status = 'scheduled' AND starts_at = $1", starts[40]
    )
    assert len({row["coach_no"] for row in rows}) == len(rows) == 4
    request = wish(starts[41], coach_id=given_up.appointment.coach_id)
    await services.book(request, caller(org), RateSeen())


async def _widen(sql: Any, org: int) -> None:
    """Give the organization 34 coaches more, in Paris: its rows need a second word."""
    await sql.execute(
        "INSERT INTO coaches (org_id, coach_no, coach_id, name, email, timezone, score, max_daily_appointments)"
        " SELECT $1, n, 'coach-' || n + 1, 'Coach', 'coach' || n + 1 || '@example.com', 'Europe/Paris', 500000, 3"
        " FROM generate_series(6, 39) AS n",
        org,
    )
    await sql.execute(
        "INSERT INTO weekly_windows SELECT $1, n, d, 540, 1020 FROM generate_series(6, 39) n, generate_series(0, 4) d",
        org,
    )
    await sql.execute("INSERT INTO calendar_coaches SELECT $1, 1, n FROM generate_series(6, 39) AS n", org)
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")


async def test_who_has_the_narrow_roster_compares_and_derives_days_that_are_wide(
    services: Services, neighbour: Services, org: int, sql: Any
) -> None:
    narrow = await services.rosters.get(org)
    await _widen(sql, org)
    await neighbour.rosters.get(org)
    start = (await free_starts(neighbour, org))[0]
    await neighbour.book(wish(start, coach_id="coach-36"), caller(org), RateSeen())
    await neighbour.book(wish(start, person=1), caller(org), RateSeen())  # coaches of both words earn by it
    await neighbour.gate.drain()
    day = day_of(start)
    services.rosters._kept[org] = narrow
    seen, differing = await services.deficits.compare(org)
    assert (sum(seen), differing) == (0, {})
    services.rosters._kept[org] = narrow
    with patch.object(services.keeper, "repair", wraps=services.keeper.repair) as looked_closer:
        compared = await services.keeper.check_day(org, day, write=False)
    assert (compared.outcome, compared.total) == (DeriveOutcome.COMPARED, 0)
    looked_closer.assert_called_once_with(org, [], [day], write=False)
    await services.grid.forget_days(org, range(day, day + 1))
    services.rosters._kept[org] = narrow
    await services.keeper.derive(org, [day])
    assert await steps.differences(neighbour, org) == 0


async def test_a_claim_by_an_old_roster_is_decided_by_the_new_team(
    services: Services, neighbour: Services, org: int, sql: Any
) -> None:
    start = (await free_starts(services, org))[40]
    old = await services.rosters.get(org)
    await sql.execute("DELETE FROM calendar_coaches WHERE coach_no = 2")  # coach-3, who would be first
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")
    await neighbour.rosters.get(org)
    refused = services.metrics.claims.labels(ClaimOutcome.STALE.value)
    services.metrics.later.write()
    before = refused._value.get()
    booked = await services.book(wish(start), caller(org), RateSeen())
    assert orjson.loads(booked.body)["coach_id"] == "coach-1"
    services.metrics.later.write()
    assert refused._value.get() == before + 1
    assert (await services.rosters.get(org)).version == old.version + 1
    assert await steps.differences(services, org) == 0


class MovedClock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        """That instant."""
        return self.time


async def test_each_midnight_brings_the_grid_one_day_more(settings: Settings) -> None:
    clock = MovedClock()
    async with open_services(settings, clock=clock) as services:
        org = await services.roster_store.organization("demo")
        assert org is not None
        await services.keeper.fill(org)
        for _ in range(2):
            last = grid_days(await services.rosters.get(org), day_of(clock.now())).stop
            assert await services.grid.missing_days(org, range(last, last + 2)) == [last, last + 1]
            clock.time += timedelta(days=1)
            assert [await services.keeper.fill(org) for _ in range(2)] == [1, 0]
            assert await services.grid.missing_days(org, range(last, last + 2)) == [last + 1]


async def test_two_processes_that_derive_one_day_do_not_take_it_from_each_other(services: Services, org: int) -> None:
    roster = await services.rosters.get(org)
    day = day_of(services.clock.now()) + 3
    await services.grid.forget_days(org, range(day, day + 1))
    first = await services.grid.mark_day(org, day)
    await services.grid.mark_day(org, day)
    outcome = await services.grid.derive_day(
        roster,
        day,
        first,
        open_plane=bytes(288 * roster.width),
        occupied=bytes(288 * roster.width),
        counts=[0] * (roster.width * 8),
        known=[],
    )
    assert outcome is DeriveOutcome.DERIVED
