"""A move holds both its times until it is settled; then one is freed, cell for cell, and the other stays."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from service.claims.grid import ColumnState
from service.claims.messages import OwnTime, Release, Search, Settlement, Side, SlotClaim
from service.claims.scripts import ClaimOutcome, ClaimReply, DeriveOutcome, ReleaseOutcome
from service.domain.assignment import Strategy, unpack_considered
from service.domain.grid import Placement
from service.domain.plane import cells_mask
from tests.lua.world import DAY, OPEN_ALL_DAY, ORG, World, at, coach, identity, roster_of

NOON = 144


async def booked(world: World, placement: Placement, **changes: Any) -> tuple[SlotClaim, ClaimReply]:
    """A settled appointment."""
    wish = world.wish(placement, **changes)
    reply = await world.claim(wish)
    assert reply.outcome is ClaimOutcome.CLAIMED
    await world.gate.settle(Settlement(ORG, wish.token, None, ()))
    return wish, reply


def move_of(
    world: World, wish: SlotClaim, reply: ClaimReply, to: Placement, search: Search = Search.KEEP, **changes: Any
) -> SlotClaim:
    """The claim of a move of that appointment."""
    own = OwnTime(wish.token, reply.first, wish.placement, wish.zones[0][1], reply.second, search)
    return world.wish(to, own=own, **changes)


def left(move: SlotClaim, column: int) -> Release:
    """What is freed when a move was committed."""
    own = move.own
    assert own is not None
    same = column == own.column
    return Release(
        ORG,
        move.token,
        own.placement,
        own.local_day,
        side=Side.OLD,
        keeping=move.placement if same else None,
        counted=not (same and own.local_day == move.zones[0][1]),
    )


def refused(move: SlotClaim, column: int) -> Release:
    """What is freed when a move was not committed."""
    own = move.own
    assert own is not None
    same = column == own.column
    day = move.zones[0][1]
    return Release(
        ORG,
        move.token,
        move.placement,
        day,
        keeping=own.placement if same else None,
        counted=not (same and own.local_day == day),
    )


TIMES = [
    pytest.param(at(NOON), at(NOON + 3), id="onto its own time"),
    pytest.param(at(NOON, before=2, after=2), at(NOON, 12, before=1, after=6), id="longer"),
    pytest.param(at(NOON, 12, before=3, after=3), at(NOON + 3, 3), id="inside its own time"),
    pytest.param(at(NOON), at(250), id="later that day"),
    pytest.param(at(NOON), at(100, day=DAY + 1), id="another day"),
    pytest.param(at(286, before=3, after=4), at(282, before=3, after=4), id="over midnight"),
]


@pytest.mark.outcome("claim_slot", "claimed")
@pytest.mark.outcome("release_claim", "released", "absent")
@pytest.mark.parametrize(("old", "new"), TIMES)
async def test_a_committed_move_leaves_what_booking_the_new_time_would_have(
    world: World, old: Placement, new: Placement
) -> None:
    await world.ready()
    straight = await booked(world, new)
    expected = await world.snapshot()
    await world.emptied()
    await world.ready()
    wish, reply = await booked(world, old)
    move = move_of(world, wish, reply, new)
    moved = await world.claim(move)
    assert (moved.outcome, moved.first, moved.second) == (ClaimOutcome.CLAIMED, 0, b"")
    assert straight[1].first == 0
    assert await world.gate.release(left(move, 0)) is ReleaseOutcome.RELEASED
    assert await world.snapshot() == expected
    assert await world.gate.release(left(move, 0)) is ReleaseOutcome.ABSENT
    assert await world.snapshot() == expected


@pytest.mark.outcome("release_claim", "released")
@pytest.mark.parametrize(("old", "new"), TIMES)
@pytest.mark.parametrize("search", [Search.KEEP, Search.OTHERS])
async def test_a_refused_move_restores_every_byte(world: World, old: Placement, new: Placement, search: Search) -> None:
    await world.ready()
    wish, reply = await booked(world, old)
    before = await world.snapshot()
    move = move_of(world, wish, reply, new, search)
    moved = await world.claim(move)
    assert moved.outcome is ClaimOutcome.CLAIMED
    assert (moved.first == 0) is (search is Search.KEEP)
    assert await world.snapshot() != before
    assert await world.gate.release(refused(move, moved.first)) is ReleaseOutcome.RELEASED
    assert await world.snapshot() == before


@pytest.mark.outcome("release_claim", "released")
async def test_who_gets_it_instead_pays_and_who_had_it_is_paid_back(world: World) -> None:
    await world.ready()
    wish, reply = await booked(world, at(NOON))
    move = move_of(world, wish, reply, at(NOON), Search.OTHERS)
    moved = await world.claim(move)
    shares = {c.column: c.share for c in unpack_considered(moved.second)}
    assert set(shares) == {1, 2}
    assert await world.gate.release(left(move, moved.first)) is ReleaseOutcome.RELEASED
    owed = await world.grid.deficits(ORG, 3)
    assert owed == [0, *(shares[c] - (1_000_000 if c == moved.first else 0) for c in (1, 2))]
    counts = await world.grid.read_counts(ORG, DAY, 3)
    assert counts == [1 if c == moved.first else 0 for c in range(3)]


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_full_day_stands_in_nobodys_way_who_is_part_of_it(world: World) -> None:
    await world.publish(roster_of([coach(0, limit=1)]))
    for day in (DAY, DAY + 1):
        await world.derive(day)
    wish, reply = await booked(world, at(NOON))
    await booked(world, at(NOON, day=DAY + 1))
    assert (await world.claim(move_of(world, wish, reply, at(200, day=DAY + 1)))).outcome is ClaimOutcome.TAKEN
    move = move_of(world, wish, reply, at(200))
    assert (await world.claim(move)).outcome is ClaimOutcome.CLAIMED
    # Both times are held: nobody else gets the old one before the move is settled.
    assert await world.grid.read_counts(ORG, DAY, 1) == [1]
    await world.gate.release(left(move, 0))
    assert await world.grid.read_counts(ORG, DAY, 1) == [1]


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_its_own_coach_first_then_the_team_and_only_whom_was_asked_for(world: World) -> None:
    await world.ready()
    wish, reply = await booked(world, at(NOON))
    for column in (0, 1):
        await booked(world, at(200), strategy=Strategy.REQUESTED, column=column)
    moved = await world.claim(move_of(world, wish, reply, at(200)))
    assert (moved.outcome, moved.first) == (ClaimOutcome.CLAIMED, 2)
    assert len(moved.second) == 10
    wish, reply = await booked(world, at(100))
    asked = move_of(world, wish, reply, at(200), Search.ANY, strategy=Strategy.REQUESTED, column=1)
    assert (await world.claim(asked)).outcome is ClaimOutcome.TAKEN
    # Nobody else's time is taken out with one's own.
    assert (await world.claim(move_of(world, wish, reply, at(203)))).outcome is ClaimOutcome.TAKEN


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_next_to_its_own_time_its_coach_keeps_whatever_else_it_has(world: World) -> None:
    await world.publish(roster_of([coach(0)]))
    await world.derive()
    wish, reply = await booked(world, at(NOON))
    for other, towards in ((NOON - 9, NOON - 4), (NOON + 9, NOON + 4)):
        await booked(world, at(other))
        assert (await world.claim(move_of(world, wish, reply, at(towards)))).outcome is ClaimOutcome.TAKEN
    assert (await world.claim(move_of(world, wish, reply, at(NOON + 3)))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_coach_who_has_left_the_team_is_not_kept(world: World) -> None:
    await world.ready()
    wish, reply = await booked(world, at(NOON))
    assert reply.first == 0
    await world.publish(roster_of(list(world.roster.coaches), (1,), version=2))
    moved = await world.claim(move_of(world, wish, reply, at(200)))
    assert (moved.outcome, moved.first) == (ClaimOutcome.CLAIMED, 1)
    assert (await world.claim(move_of(world, wish, reply, at(200)))).outcome is ClaimOutcome.TAKEN


@pytest.mark.outcome("derive_day", "derived")
@pytest.mark.outcome("repair_coach_day", "repaired")
@pytest.mark.parametrize(("old", "new"), TIMES)
@pytest.mark.parametrize("search", [Search.KEEP, Search.OTHERS])
@pytest.mark.parametrize("committed", [False, True])
async def test_a_day_made_anew_holds_both_times_of_a_move_whatever_postgres_knows(
    world: World, old: Placement, new: Placement, search: Search, committed: bool
) -> None:
    await world.ready()
    wish, reply = await booked(world, old)
    move = move_of(world, wish, reply, new, search)
    column = (await world.claim(move)).first
    before = await world.snapshot()
    there, where = (new, column) if committed else (old, 0)
    name = identity(replace(wish, placement=there), where)
    for day in (DAY - 1, DAY, DAY + 1):
        mask = cells_mask(day, there.occupied_start, there.occupied_end)
        counts = 1 if there.start // 288 == day else 0
        nonce = await world.grid.mark_coach_day(ORG, day, where)
        known = (name,) if mask or counts else ()
        state = ColumnState(open=OPEN_ALL_DAY, occupied=mask, count=counts, known=known)
        found = await world.grid.repair_coach_day(world.roster, day, where, nonce, state, write=True)
        assert (found.outcome, found.total) == (DeriveOutcome.REPAIRED, 0)
        await world.grid.forget_days(ORG, range(day, day + 1))
        await world.derive(
            day,
            occupied={where: mask},
            counts=[counts if c == where else 0 for c in range(3)],
            known=known,
        )
    assert await world.snapshot() == before


@pytest.mark.outcome("settle_claim", "settled")
@pytest.mark.outcome("release_claim", "released")
@pytest.mark.parametrize("day", [DAY, DAY + 1])
@pytest.mark.parametrize("how", ["committed", "refused"])
async def test_a_repair_that_looked_before_a_move_ended_must_look_again(world: World, day: int, how: str) -> None:
    await world.ready()
    wish, reply = await booked(world, at(NOON))
    move = move_of(world, wish, reply, at(NOON, day=DAY + 1))
    await world.claim(move)
    nonce = await world.grid.mark_coach_day(ORG, day, 0)
    await world.gate.release(left(move, 0) if how == "committed" else refused(move, 0))
    state = ColumnState(open=OPEN_ALL_DAY, occupied=0, count=0, known=())
    found = await world.grid.repair_coach_day(world.roster, day, 0, nonce, state, write=True)
    assert found.outcome is DeriveOutcome.CHANGED
