"""Days are made of what Postgres says and what is pending; whoever looked before a change must look again."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from service.claims.grid import ColumnState
from service.claims.messages import Settlement
from service.claims.scripts import ClaimOutcome, DeriveOutcome, Differences, PublishOutcome
from service.domain.assignment import Strategy
from service.domain.grid import CELLS_PER_DAY
from service.domain.plane import cells_mask, column_cells
from tests.lua.world import DAY, OPEN_ALL_DAY, ORG, World, at, coach, identity, roster_of

NOON = 144
MASK = cells_mask(0, NOON, NOON + 6)
NOTHING = ColumnState(open=OPEN_ALL_DAY, occupied=0, count=0, known=())


@pytest.mark.outcome("publish_roster", "published", "present", "older")
async def test_a_newer_roster_replaces_and_an_older_one_does_not(world: World) -> None:
    coaches = [coach(0), coach(1)]
    assert await world.publish(roster_of(coaches, (0, 1), (1,), version=3), [5, -5]) is PublishOutcome.PUBLISHED
    assert await world.publish() is PublishOutcome.PRESENT
    before = await world.snapshot()
    assert await world.publish(roster_of(coaches, (0,), version=2)) is PublishOutcome.OLDER
    assert await world.snapshot() == before
    # A calendar that is gone is gone from the roster too; what coaches are owed stays.
    assert await world.publish(roster_of(coaches, (0,), version=4), [0, 0]) is PublishOutcome.PUBLISHED
    assert b"calendar:2" not in (await world.snapshot())[world.keys.roster(ORG)]
    assert await world.grid.deficits(ORG, 2) == [5, -5]


@pytest.mark.outcome("publish_roster", "published")
async def test_an_organization_may_have_more_calendars_than_lua_hands_over_at_once(world: World) -> None:
    coaches = [coach(0), coach(1)]
    assert await world.publish(roster_of(coaches, *[(n % 2,) for n in range(5_000)])) is PublishOutcome.PUBLISHED
    kept = (await world.snapshot())[world.keys.roster(ORG)]
    assert {f"calendar:{n}".encode() for n in range(1, 5_001)} < set(kept)
    assert kept[b"version"] == b"1"
    await world.derive()
    assert (await world.claim(world.wish(at(NOON), calendar_number=5_000))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("publish_roster", "published")
@pytest.mark.parametrize("lost", ["scores", "limits", "deficits"])
async def test_a_roster_that_lost_a_part_is_published_again(world: World, lost: str) -> None:
    await world.publish()
    before = await world.snapshot()
    await world.redis.delete(getattr(world.keys, lost)(ORG))
    assert await world.publish(deficits=[0] * 32) is PublishOutcome.PUBLISHED
    assert set(await world.snapshot()) == set(before)


@pytest.mark.outcome("publish_roster", "published")
async def test_a_roster_after_redis_was_emptied_is_further_than_any_before(world: World) -> None:
    await world.publish()
    seen = await world.revision()
    await world.emptied()
    await world.publish()
    assert await world.revision() > seen


@pytest.mark.outcome("derive_day", "derived", "present")
async def test_a_day_is_what_postgres_says(world: World) -> None:
    await world.publish()
    hours, revision = {0: OPEN_ALL_DAY, 1: MASK, 2: 0}, await world.revision()
    assert await world.derive(open_cells=hours, occupied={0: MASK}, counts=[1, 2, 0]) is DeriveOutcome.DERIVED
    read = await world.grid.read(ORG, range(DAY, DAY + 1), [DAY])
    assert read.days[0] is not None
    opened, occupied = read.days[0]
    assert [column_cells(opened, c, 4) for c in range(3)] == [OPEN_ALL_DAY, MASK, 0]
    assert [column_cells(occupied, c, 4) for c in range(3)] == [MASK, 0, 0]
    full = int.from_bytes(read.full[DAY] or b"", "big")
    assert [full >> (31 - column) & 1 for column in range(3)] == [0, 1, 0]
    for key in (world.keys.open, world.keys.occupied, world.keys.full, world.keys.counts):
        assert await world.redis.pexpiretime(key(ORG, DAY)) == (DAY + 3) * 86_400_000
    # Whoever keeps an answer by the revision it was read in looks again.
    assert await world.revision() == revision + 1
    assert await world.derive(open_cells={}) is DeriveOutcome.PRESENT
    assert await world.revision() == revision + 1
    assert await world.grid.read(ORG, range(DAY, DAY + 1), [DAY]) == read


@pytest.mark.outcome("derive_day", "derived")
async def test_a_day_derived_while_claims_are_pending_keeps_them(world: World) -> None:
    await world.ready()
    claimed, committed = world.wish(at(285, before=1)), world.wish(at(NOON))
    column = (await world.claim(claimed)).first
    other = (await world.claim(committed)).first
    before = await world.snapshot()
    for day in (DAY, DAY + 1):
        await world.grid.forget_days(ORG, range(day, day + 1))
        # Postgres knows one of the two already; it must not count twice.
        known, counts = [identity(committed, other)], [1 if c == other else 0 for c in range(3)]
        mine = {other: MASK} if day == DAY else {}
        await world.derive(day, occupied=mine, counts=counts if day == DAY else (), known=known)
    assert await world.snapshot() == before
    again = await world.grid.read_counts(ORG, DAY, 3)
    assert again is not None
    assert again[column] == again[other] == 1


@pytest.mark.outcome("derive_day", "derived")
@pytest.mark.parametrize("lost", ["open", "occupied", "full", "counts"])
async def test_a_day_that_lost_a_part_is_derived_again(world: World, lost: str) -> None:
    await world.ready()
    before = await world.snapshot()
    await world.redis.delete(getattr(world.keys, lost)(ORG, DAY))
    assert await world.derive() is DeriveOutcome.DERIVED
    assert await world.snapshot() == before


@pytest.mark.outcome("derive_day", "derived")
@pytest.mark.outcome("repair_coach_day", "repaired")
async def test_a_pending_claim_counts_on_its_coachs_own_date(world: World) -> None:
    """East of Greenwich that is the next one: there is its count, and on the day before are its cells."""
    await world.ready()
    assert (await world.claim(world.wish(at(NOON), zones=((None, DAY + 1),)))).first == 0
    before = await world.snapshot()
    for day in (DAY, DAY + 1):
        nonce = await world.grid.mark_coach_day(ORG, day, 0)
        found = await world.grid.repair_coach_day(world.roster, day, 0, nonce, NOTHING, write=True)
        assert (found.outcome, found.total) == (DeriveOutcome.REPAIRED, 0)
        await world.grid.forget_days(ORG, range(day, day + 1))
        assert await world.derive(day) is DeriveOutcome.DERIVED
    assert await world.snapshot() == before


@pytest.mark.outcome("derive_day", "derived")
@pytest.mark.outcome("repair_coach_day", "repaired")
async def test_what_is_pending_of_another_organization_takes_nothing(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.gate.note_release(ORG + 1, wish.token, wish.token, 0, wish.placement, DAY, world.roster.width, b"")
    before = await world.snapshot()
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0))
    assert (found.outcome, found.total) == (DeriveOutcome.REPAIRED, 0)
    await world.grid.forget_days(ORG, range(DAY, DAY + 1))
    assert await world.derive() is DeriveOutcome.DERIVED
    assert await world.snapshot() == before


@pytest.mark.outcome("derive_day", "changed", "derived")
@pytest.mark.parametrize("meanwhile", ["settled", "released", "repaired", "flushed", "derived by another"])
async def test_a_derivation_that_looked_too_early_looks_again(world: World, meanwhile: str) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    await world.grid.forget_days(ORG, range(DAY, DAY + 1))
    nonce = await world.grid.mark_day(ORG, DAY)
    match meanwhile:
        case "settled":
            await world.gate.settle(Settlement(ORG, wish.token, None, ()))
        case "released":
            await world.release(wish)
        case "repaired":
            await world.grid.mark_coach_day(ORG, DAY, 2)
        case "flushed":
            await world.emptied()
            await world.publish()
        case _:
            assert await world.derive() is DeriveOutcome.DERIVED
    assert await world.derive(nonce=nonce) is DeriveOutcome.CHANGED
    again = DeriveOutcome.PRESENT if meanwhile == "derived by another" else DeriveOutcome.DERIVED
    assert await world.derive() is again


@pytest.mark.outcome("derive_day", "derived")
async def test_what_happens_on_other_days_does_not_disturb_a_derivation(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON, day=DAY - 1))
    await world.claim(wish)
    await world.grid.forget_days(ORG, range(DAY, DAY + 1))
    nonce = await world.grid.mark_day(ORG, DAY)
    await world.gate.settle(Settlement(ORG, wish.token, None, ()))
    assert await world.derive(nonce=nonce) is DeriveOutcome.DERIVED


@pytest.mark.outcome("derive_day", "stale")
@pytest.mark.outcome("repair_coach_day", "stale")
async def test_neither_deriving_nor_repairing_works_by_an_old_roster(world: World) -> None:
    assert await world.derive() is DeriveOutcome.STALE
    await world.ready()
    old, new = world.roster, roster_of(list(world.roster.coaches), version=2)
    await world.publish(new)
    before = await world.snapshot()
    for other in (old, dataclasses.replace(new, width=8)):
        world.roster = other
        nonce = await world.grid.mark_coach_day(ORG, DAY, 0)
        assert (await _repair(world, nonce)).outcome is DeriveOutcome.STALE
        assert await world.derive() is DeriveOutcome.STALE
    after = await world.snapshot()
    after.pop(world.keys.repairs)
    assert after == before


@pytest.mark.outcome("repair_coach_day", "compared", "repaired")
async def test_a_column_is_compared_and_then_made_what_postgres_says(world: World) -> None:
    await world.publish()
    await world.derive(open_cells={0: MASK, 1: OPEN_ALL_DAY}, occupied={0: MASK, 1: MASK}, counts=[2, 1])
    before = await world.snapshot()
    state = ColumnState(open=OPEN_ALL_DAY, occupied=MASK >> 6, count=1, known=())
    expected = (CELLS_PER_DAY - 6, 12, 1)
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0), state, write=False)
    assert found == Differences(DeriveOutcome.COMPARED, *expected, await world.revision())
    assert await world.snapshot() == before
    revision = await world.revision()
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0), state)
    assert found == Differences(DeriveOutcome.REPAIRED, *expected, revision + 1)
    assert await world.revision() == revision + 1
    planes = (await world.grid.read(ORG, range(DAY, DAY + 1), [DAY])).days[0]
    assert planes is not None
    assert [column_cells(planes[0], c, 4) for c in (0, 1)] == [OPEN_ALL_DAY, OPEN_ALL_DAY]
    assert [column_cells(planes[1], c, 4) for c in (0, 1)] == [MASK >> 6, MASK]
    assert await world.grid.read_counts(ORG, DAY, 2) == [1, 1]
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0), state)
    assert (found.outcome, found.total) == (DeriveOutcome.REPAIRED, 0)
    assert await world.revision() == revision + 1


@pytest.mark.outcome("repair_coach_day", "repaired")
async def test_a_repair_keeps_what_is_pending_and_does_not_count_it_twice(world: World) -> None:
    await world.ready()
    claimed, committed = world.wish(at(NOON)), world.wish(at(200))
    for wish in (claimed, committed):
        assert (await world.claim(replace(wish, strategy=Strategy.REQUESTED, column=0))).first == 0
    before = await world.snapshot()
    state = ColumnState(
        open=OPEN_ALL_DAY,
        occupied=cells_mask(0, 200, 206),
        count=1,
        known=(identity(committed, 0),),
    )
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0), state)
    assert (found.outcome, found.total) == (DeriveOutcome.REPAIRED, 0)
    assert await world.snapshot() == before


@pytest.mark.outcome("repair_coach_day", "changed", "repaired")
@pytest.mark.parametrize("meanwhile", ["settled", "released", "repaired by another"])
async def test_a_repair_that_looked_too_early_looks_again(world: World, meanwhile: str) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    nonce = await world.grid.mark_coach_day(ORG, DAY, 0)
    match meanwhile:
        case "settled":
            await world.gate.settle(Settlement(ORG, wish.token, None, ()))
        case "released":
            await world.release(wish)
        case _:
            other = await world.grid.mark_coach_day(ORG, DAY, 0)
            assert (await _repair(world, other)).outcome is DeriveOutcome.REPAIRED
    assert (await _repair(world, nonce)).outcome is DeriveOutcome.CHANGED
    nonce = await world.grid.mark_coach_day(ORG, DAY, 0)
    assert (await _repair(world, nonce)).outcome is DeriveOutcome.REPAIRED


@pytest.mark.outcome("derive_day", "changed")
@pytest.mark.outcome("repair_coach_day", "changed")
@pytest.mark.parametrize("settled", [True, False], ids=["settled", "released"])
async def test_the_date_a_claim_counts_on_is_looked_at_again_too(world: World, settled: bool) -> None:
    """East of Greenwich a coach's date is the next one: that day's count changes, and none of its cells."""
    await world.ready()
    wish = world.wish(at(NOON), zones=((None, DAY + 1),))
    assert (await world.claim(wish)).first == 0
    repairing, deriving = await world.grid.mark_coach_day(ORG, DAY + 1, 0), await world.grid.mark_day(ORG, DAY + 1)
    if settled:
        await world.gate.settle(Settlement(ORG, wish.token, None, ()))
    else:
        await world.release(wish)
    assert await world.derive(DAY + 1, nonce=deriving) is DeriveOutcome.CHANGED
    found = await world.grid.repair_coach_day(world.roster, DAY + 1, 0, repairing, NOTHING, write=True)
    assert found.outcome is DeriveOutcome.CHANGED


@pytest.mark.outcome("repair_coach_day", "repaired")
@pytest.mark.parametrize("wrong", ["open", "occupied", "count", "full"])
async def test_who_claims_after_a_coach_day_was_put_right_sees_it(world: World, wrong: str) -> None:
    """A claim of before is known by its revision, and fenced."""
    cells = MASK if wrong in {"open", "occupied"} else 0
    state = ColumnState(
        open=OPEN_ALL_DAY & ~(cells if wrong == "open" else 0),
        occupied=cells if wrong == "occupied" else 0,
        count=0 if cells else 2,
        known=(),
    )
    await world.publish(roster_of([coach(0, limit=2)]))
    await world.derive(counts=[1 if wrong == "count" else state.count])
    if wrong == "full":
        await world.redis.setbit(world.keys.full(ORG, DAY), 0, 0)
    revision = await world.revision()
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0), state)
    assert (found.total, found.revision) == (cells.bit_count() or 1, revision + 1)
    assert await world.revision() == revision + 1
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.TAKEN


@pytest.mark.outcome("repair_coach_day", "unknown_day")
@pytest.mark.parametrize("plane", ["open", "occupied", "full"])
async def test_a_day_that_is_not_there_cannot_be_repaired(world: World, plane: str) -> None:
    await world.ready()
    await world.redis.delete(getattr(world.keys, plane)(ORG, DAY))
    before = await world.snapshot()
    found = await _repair(world, await world.grid.mark_coach_day(ORG, DAY, 0))
    assert found == Differences(DeriveOutcome.UNKNOWN_DAY, 0, 0, 0, await world.revision())
    assert await world.snapshot() == before


async def test_another_row_width_drops_the_days_and_keeps_the_claims(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    assert (await world.claim(wish)).first == 0
    await world.publish(roster_of([coach(n) for n in range(33)], version=2))
    assert await world.grid.missing_days(ORG, range(DAY - 1, DAY + 2)) == [DAY - 1, DAY, DAY + 1]
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.UNKNOWN_DAY
    await world.derive()
    planes = (await world.grid.read(ORG, range(DAY, DAY + 1), [DAY])).days[0]
    assert planes is not None
    assert column_cells(planes[1], 0, 8) == MASK
    assert await world.grid.read_counts(ORG, DAY, 2) == [1, 0]


async def _repair(world: World, nonce: str, state: ColumnState | None = None, *, write: bool = True) -> Differences:
    return await world.grid.repair_coach_day(world.roster, DAY, 0, nonce, state or NOTHING, write=write)
