"""Redis is rebuilt from Postgres while bookings go on, and a look at the two finds every planted difference."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from service.app import Services
from service.db.gate import CoachDays
from service.db.statements import statement, statements
from service.domain.assignment import Considered, unpack_considered
from service.domain.calendar import Roster
from service.domain.grid import CELLS_PER_DAY, day_of
from service.errors import SlotUnavailable, Unavailable
from service.operations.book import Booked
from service.operations.local_rates import RateSeen
from service.operations.rebuild import Findings
from service.operations.watch_grid import WatchGrid
from tests.operations import steps
from tests.wishes import caller, free_starts, wish


async def look(services: Services) -> Findings:
    return (await services.rebuild.verify(lambda _: None))[0]


async def book_some(services: Services, org: int, count: int = 12) -> None:
    starts = await free_starts(services, org)
    for number in range(count):
        await services.book(wish(starts[number], person=number), caller(org), RateSeen())


async def flip_an_occupied_bit(services: Services, org: int, day: int) -> None:
    await services.redis.setbit(services.shards.of(org).occupied(org, day), (100 * 4) * 8 + 3, 1)


async def open_a_night(services: Services, org: int, day: int) -> None:
    await services.redis.setbit(services.shards.of(org).open(org, day), (10 * 4) * 8 + 2, 1)


async def miscount_a_day(services: Services, org: int, day: int) -> None:
    await services.redis.execute_command("BITFIELD", services.shards.of(org).counts(org, day), "SET", "u16", "#1", 7)


async def fill_a_day(services: Services, org: int, day: int) -> None:
    await services.redis.setbit(services.shards.of(org).full(org, day), 4, 1)


async def owe_too_much(services: Services, org: int, day: int) -> None:
    await services.redis.execute_command("BITFIELD", services.shards.of(org).deficits(org), "SET", "i32", "#0", 1234)


Damage = Callable[[Services, int, int], Awaitable[None]]


@pytest.mark.parametrize(
    "damage", [flip_an_occupied_bit, open_a_night, miscount_a_day, fill_a_day, owe_too_much], ids=lambda d: d.__name__
)
async def test_a_planted_difference_is_found_and_put_right(services: Services, org: int, damage: Damage) -> None:
    await services.keeper.fill(org)
    await book_some(services, org)
    assert (await look(services)).holds
    await damage(services, org, day_of(services.clock.now()) + 3)
    assert not (await look(services)).holds
    assert await services.rebuild(lambda _: None) > 0
    assert (await look(services)).holds


async def test_what_was_lost_is_derived_again(services: Services, org: int) -> None:
    await services.keeper.fill(org)
    await book_some(services, org)
    before = {key: await services.redis.dump(key) for key in await services.redis.keys("*:occupied:*")}
    await steps.emptied(services)
    await services.rebuild(lambda _: None)
    found = await look(services)
    assert found.holds
    assert found.unknown_days == 0
    assert len(before) > 30
    for key in before:
        assert await services.redis.strlen(key) == CELLS_PER_DAY * 4


async def test_a_rebuild_beside_bookings_loses_none_and_lets_none_overlap(services: Services, org: int) -> None:
    await services.keeper.fill(org)
    starts = await free_starts(services, org)
    answers: list[object] = []

    async def book_on(person: int) -> None:
        for number in range(12):
            start = starts[(person * 7 + number * 5) % len(starts)]
            try:
                answers.append(await services.book(wish(start, person=100 * person + number), caller(org), RateSeen()))
            except (SlotUnavailable, Unavailable) as problem:
                answers.append(problem)

    bookings = [asyncio.ensure_future(book_on(person)) for person in range(8)]
    while not all(task.done() for task in bookings):
        await services.rebuild(lambda _: None)
    await asyncio.gather(*bookings)
    made = [answer for answer in answers if isinstance(answer, Booked)]
    assert len(made) >= 30
    assert not [answer for answer in answers if isinstance(answer, Unavailable)]
    row = await services.database.first("count_overlaps", org)
    assert row is not None
    assert row["overlaps"] == 0
    counted = await services.appointments.counted(org, 0, 50_000, None)
    assert sum(counted.by_column.values()) == sum(counted.by_day.values()) == len(made)
    assert (await look(services)).holds


async def test_overlaps_that_no_constraint_kept_out_are_found(services: Services, org: int, sql: Any) -> None:
    start = (await free_starts(services, org))[0]
    for number, minutes in enumerate((0, 60, 120, 180)):
        await services.book(
            wish(start + timedelta(minutes=minutes), coach_id="coach-1", person=number), caller(org), RateSeen()
        )
    transaction = sql.transaction()
    await transaction.start()
    try:
        await sql.execute("ALTER TABLE appointments DROP CONSTRAINT appointments_no_overlap_per_coach")
        assert (await sql.fetchrow(statement("count_overlaps"), org))["overlaps"] == 0
        # The first reaches into the second and the third.
        await sql.execute(
            "UPDATE appointments SET occupied = tstzrange($1, $1 + interval '125 minutes') WHERE starts_at = $1", start
        )
        assert (await sql.fetchrow(statement("count_overlaps"), org))["overlaps"] == 2
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("wrong", ["overlaps", "differences", "deficit_sum", "deficit_differences"])
def test_each_kind_of_disagreement_alone_is_one(wrong: str) -> None:
    found = Findings("demo", overlaps=0, differences=0, unknown_days=7, deficit_sum=0, deficit_differences=0)
    assert found.holds
    assert not replace(found, **{wrong: 1}).holds


async def test_each_difference_found_is_counted(services: Services, org: int) -> None:
    await services.keeper.fill(org)
    await flip_an_occupied_bit(services, org, day_of(services.clock.now()) + 3)
    await fill_a_day(services, org, day_of(services.clock.now()) + 4)
    assert not (await look(services)).holds
    assert services.metrics.registry.get_sample_value("booking_grid_differences_total") == 2


async def test_a_roster_whose_publisher_died_is_published_and_its_days_are_compared(
    services: Services, org: int
) -> None:
    await services.keeper.fill(org)
    async with services.database.transaction() as connection:
        await connection.execute("UPDATE organizations SET roster_version = roster_version + 1 WHERE org_id = $1", org)
        await connection.execute("DELETE FROM weekly_windows WHERE org_id = $1 AND coach_no = 2", org)
    assert await services.grid.has_roster(org) == 1
    await services.keeper.fill(org)
    assert await services.grid.has_roster(org) == 2
    assert (await look(services)).holds
    roster = await services.rosters.get(org)
    now = services.clock.now()
    free = await services.availability(roster, roster.everyone, roster.coach("coach-3"), now, now + timedelta(days=7))
    assert free.total == 0


async def test_the_watch_finds_and_repairs_a_difference_within_one_sweep(services: Services, org: int) -> None:
    await services.keeper.fill(org)
    await flip_an_occupied_bit(services, org, day_of(services.clock.now()) + 9)
    watch = WatchGrid(services.roster_store, services.rosters, services.keeper, services.deficits, services.clock)
    days = await services.rebuild.steps()
    assert sum([await watch() for _ in range(days)]) == 1
    assert (await look(services)).holds


async def test_what_is_noted_to_be_repaired_is_no_difference_to_the_watch(services: Services, org: int) -> None:
    """Busy times are committed a moment before the grid shows them: nobody is to be alarmed by that."""
    await services.keeper.fill(org)
    day = day_of(services.clock.now()) + 9
    for column in (3, 4):
        await services.redis.setbit(services.shards.of(org).occupied(org, day), (100 * 4) * 8 + column, 1)
    await services.gate_store.note(CoachDays(org, 3, day, day))
    watch = WatchGrid(services.roster_store, services.rosters, services.keeper, services.deficits, services.clock)
    assert sum([await watch() for _ in range(await services.rebuild.steps())]) == 1
    assert not (await look(services)).holds
    assert await services.heal() == 1
    assert (await look(services)).holds


async def test_one_difference_is_looked_for_by_rows_not_in_every_cell_of_every_coach(
    services: Services, org: int
) -> None:
    await services.keeper.fill(org)
    day = day_of(services.clock.now()) + 9
    await flip_an_occupied_bit(services, org, day)
    coaches = len((await services.rosters.get(org)).coaches)
    numbers = 0

    def count(_frame: object, event: str, called: Any) -> None:
        nonlocal numbers
        numbers += event == "c_call" and called.__name__ == "from_bytes"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = await services.keeper.check_day(org, day, write=True)
    finally:
        sys.setprofile(before)
    assert found.total == 1
    assert numbers < coaches * CELLS_PER_DAY / 4


async def test_very_many_appointments_are_added_up_in_turns_and_in_no_transaction(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book_some(services, org)
    roster = await services.rosters.get(org)
    owed = await services.roster_store.deficits(roster)
    assert any(owed.values())
    each_400_times = statement("considered_of_live").replace(
        "WHERE a.org_id = $1", "CROSS JOIN generate_series(1, 400)\nWHERE a.org_id = $1"
    )
    monkeypatch.setitem(statements(), "considered_of_live", each_400_times)
    in_one_turn, most, done = 0, 0, asyncio.Event()

    async def somebody_else() -> None:
        nonlocal in_one_turn
        while not done.is_set():
            in_one_turn = 0
            await asyncio.sleep(0)

    def unpack(packed: bytes) -> tuple[Considered, ...]:
        nonlocal in_one_turn, most
        in_one_turn += 1
        most = max(most, in_one_turn)
        return unpack_considered(packed)

    monkeypatch.setattr("service.db.rosters.unpack_considered", unpack)
    others = asyncio.ensure_future(somebody_else())
    with patch.object(services.database, "snapshot", side_effect=AssertionError("Postgres ends it after five seconds")):
        found = await services.roster_store.deficits(roster)
    done.set()
    await others
    assert found == {column: 400 * units for column, units in owed.items()}
    assert 0 < most < 12 * 400 / 10


@pytest.mark.parametrize(("many", "put_right"), [(4, True), (3, False)])
async def test_the_watch_adds_up_what_coaches_are_owed_unless_that_is_too_much(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch, many: int, put_right: bool
) -> None:
    monkeypatch.setattr("service.db.rosters.MANY_LIVE", many)
    await services.keeper.fill(org)
    await book_some(services, org, 4)
    await services.gate.drain()
    columns = (await services.rosters.get(org)).width * 8
    right = await services.grid.deficits(org, columns)
    assert await services.grid.set_deficits(org, {0: right[0] + 7}, right)
    watch = WatchGrid(services.roster_store, services.rosters, services.keeper, services.deficits, services.clock)
    for _ in range(await services.rebuild.steps()):
        await watch()
    assert (await services.grid.deficits(org, columns) == right) is put_right


async def test_deficits_that_a_booking_changed_meanwhile_are_not_overwritten(services: Services, org: int) -> None:
    await book_some(services, org, 3)
    columns = (await services.rosters.get(org)).width * 8
    seen = await services.grid.deficits(org, columns)
    await book_some(services, org, 1)
    after = await services.grid.deficits(org, columns)
    assert not await services.grid.set_deficits(org, {0: 5}, seen)
    assert await services.grid.deficits(org, columns) == after
    assert await services.grid.set_deficits(org, {0: 5}, after)


async def test_a_booking_committed_and_settled_after_postgres_was_read_makes_no_difference(
    services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = (await free_starts(services, org))[20]
    claimed = await steps.claim(services, org, wish(start))
    columns = (await services.rosters.get(org)).width * 8
    right = await services.grid.deficits(org, columns)
    assert any(right), "more than one could have taken it"
    read = services.roster_store.deficits
    waiting = [claimed]

    async def read_before(roster: Roster) -> dict[int, int]:
        found = await read(roster)
        while waiting:
            await steps.commit(services, waiting[0])
            await steps.settle(services, waiting.pop())
        return found

    monkeypatch.setattr(services.roster_store, "deficits", read_before)
    assert await services.deficits.repair(org) == 0
    assert await services.grid.deficits(org, columns) == right
