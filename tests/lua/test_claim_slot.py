"""One call admits a batch: it counts each request, begins its key and takes its slot, or says why not."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec.structs import replace

from service.claims.messages import Admission, SlotClaim
from service.claims.scripts import ClaimOutcome
from service.domain.assignment import Strategy
from service.errors import ItemBroken
from tests.lua.world import DAY, EPOCH, ORG, World, at, coach, roster_of

NOON = 144


@pytest.mark.outcome("claim_slot", "claimed")
async def test_the_first_pick_of_an_idle_team_is_its_best_coach(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    reply = await world.claim(wish)
    assert (reply.outcome, reply.first) == (ClaimOutcome.CLAIMED, 0)
    pending = (await world.grid.pending())[wish.token]
    assert (pending.kind, pending.column, pending.start_cell, pending.cells) == (
        "claim",
        0,
        at(NOON).start,
        6,
    )
    assert pending.local_day == DAY
    now_ms = await world.grid.now_ms()
    assert now_ms < pending.deadline_ms <= now_ms + 10_000
    counts = await world.grid.read_counts(ORG, DAY, 3)
    assert counts == [1, 0, 0]
    assert sum(await world.grid.deficits(ORG, 3)) == 0


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_batch_gives_a_time_to_as_many_as_are_free_and_no_more(world: World) -> None:
    await world.ready()
    wishes = [world.wish(at(cell)) for cell in (NOON, NOON + 3, NOON, NOON)]
    replies = await world.scripts.claim_slot(*_call(world, wishes))
    assert [r.outcome.value for r in replies] == ["claimed", "claimed", "claimed", "taken"]
    assert {r.first for r in replies[:3]} == {0, 1, 2}
    assert replies[3].first == await world.revision()
    assert set(await world.grid.pending()) == {wish.token for wish in wishes[:3]}, "each can be freed again"


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_neighbours_keep_the_sum_of_their_buffers_apart(world: World) -> None:
    await world.publish(roster_of([coach(0)]))
    await world.derive()
    await world.claim(world.wish(at(NOON, after=2)))
    outcomes = [(await world.claim(world.wish(at(NOON + 6 + gap, before=1)))).outcome.value for gap in (1, 2, 3)]
    assert outcomes == ["taken", "taken", "claimed"]


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_buffer_may_lie_outside_working_hours_but_the_appointment_may_not(world: World) -> None:
    hours = ((1 << 12) - 1) << (288 - NOON - 12)
    await world.publish(roster_of([coach(0)]))
    await world.derive(open_cells={0: hours})
    assert (await world.claim(world.wish(at(NOON - 1)))).outcome is ClaimOutcome.TAKEN
    assert (await world.claim(world.wish(at(NOON + 7)))).outcome is ClaimOutcome.TAKEN
    assert (await world.claim(world.wish(at(NOON, 12, before=3, after=3)))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_slot_across_midnight_takes_cells_of_both_days(world: World) -> None:
    await world.ready()
    only = world.wish(at(285), strategy=Strategy.REQUESTED, column=1)
    assert (await world.claim(only)).first == 1
    for other in (at(282), at(0, day=DAY + 1)):
        again = world.wish(other, strategy=Strategy.REQUESTED, column=1)
        assert (await world.claim(again)).outcome is ClaimOutcome.TAKEN
    after = world.wish(at(3, day=DAY + 1), strategy=Strategy.REQUESTED, column=1)
    assert (await world.claim(after)).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_coach_at_its_daily_limit_is_not_offered_that_day(world: World) -> None:
    await world.publish(roster_of([coach(0, limit=2)]))
    await world.derive()
    await world.derive(DAY + 1)
    outcomes = [(await world.claim(world.wish(at(cell)))).outcome.value for cell in (100, 110, 120)]
    assert outcomes == ["claimed", "claimed", "taken"]
    assert (await world.claim(world.wish(at(100, day=DAY + 1)))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_of_many_coaches_each_is_held_to_its_own_limit(world: World) -> None:
    await world.publish(roster_of([coach(column, limit=1 if column == 35 else 3) for column in range(40)]))
    await world.derive()
    wishes = [(cell, column) for cell in (100, 110) for column in (3, 35)]
    replies = [
        await world.claim(world.wish(at(cell), strategy=Strategy.REQUESTED, column=column)) for cell, column in wishes
    ]
    assert [reply.outcome.value for reply in replies] == ["claimed", "claimed", "claimed", "taken"]


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_each_zone_counts_on_its_own_date(world: World) -> None:
    coaches = [coach(0, zone="Asia/Tokyo", limit=1), coach(1, zone="UTC", limit=1)]
    await world.publish(roster_of(coaches))
    await world.derive()
    await world.derive(DAY + 1)
    zones = ((0, DAY + 1), (1, DAY))  # late in the day it is tomorrow in Tokyo
    assert (await world.claim(world.wish(at(200), zones=zones))).first == 0
    assert await world.grid.read_counts(ORG, DAY + 1, 2) == [1, 0]
    # Tokyo's coach is full tomorrow, not today: in the morning both dates are today's.
    morning = world.wish(at(50), zones=((0, DAY), (1, DAY)), strategy=Strategy.REQUESTED, column=0)
    assert (await world.claim(morning)).first == 0
    evening = world.wish(at(220), zones=zones, strategy=Strategy.REQUESTED, column=0)
    assert (await world.claim(evening)).outcome is ClaimOutcome.TAKEN


@pytest.mark.outcome("claim_slot", "taken")
async def test_a_zone_whose_grid_has_no_such_start_is_not_asked(world: World) -> None:
    await world.publish(roster_of([coach(0, zone="Asia/Kathmandu"), coach(1, zone="UTC")], (0,)))
    await world.derive()
    assert (await world.claim(world.wish(at(NOON), zones=((1, DAY),)))).outcome is ClaimOutcome.TAKEN


@pytest.mark.outcome("claim_slot", "unknown_org", "admitted")
async def test_a_roster_that_is_not_there_is_asked_for(world: World) -> None:
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.UNKNOWN_ORG
    assert (await world.gate.admit(Admission(ORG))).outcome is ClaimOutcome.UNKNOWN_ORG
    await world.publish()
    reply = await world.gate.admit(Admission(ORG))
    assert (reply.outcome, reply.first) == (ClaimOutcome.ADMITTED, 1)
    await world.redis.delete(world.keys.roster(ORG))
    await world.publish()
    again = await world.gate.admit(Admission(ORG))
    assert again.second > reply.second, "a revision seen before Redis was emptied comes again"


@pytest.mark.outcome("claim_slot", "stale")
async def test_a_claim_by_another_roster_is_refused_and_changes_nothing(world: World) -> None:
    await world.ready()
    before = await world.snapshot()
    for change in ({"version": 2}, {"width": 8}):
        reply = await world.claim(world.wish(at(NOON), idempotency_key="key", **change))
        assert (reply.outcome, reply.first) == (ClaimOutcome.STALE, 1)
    assert await world.snapshot() == before


@pytest.mark.outcome("claim_slot", "unknown_day", "claimed")
@pytest.mark.parametrize("plane", ["open", "occupied", "full"])
async def test_a_missing_day_is_unknown_and_not_full(world: World, plane: str) -> None:
    await world.ready()
    await world.redis.delete(getattr(world.keys, plane)(ORG, DAY))
    before = await world.snapshot()
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.UNKNOWN_DAY
    assert await world.snapshot() == before
    await world.derive()
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("claim_slot", "claimed")
async def test_the_best_scored_is_chosen_whatever_is_owed_when_score_decides(world: World) -> None:
    await world.publish(deficits=[-900_000, 900_000, 0, *[0] * 29])
    await world.derive()
    reply = await world.claim(world.wish(at(NOON), strategy=Strategy.SCORE))
    assert reply.first == 0
    assert await world.grid.deficits(ORG, 3) == [-900_000, 900_000, 0]
    assert (await world.claim(world.wish(at(200)))).first == 1


@pytest.mark.outcome("claim_slot", "claimed")
@pytest.mark.parametrize(("scores", "winner"), [((7, 8, 9, 9), 2), ((9, 9, 8, 7), 0), ((7, 9, 9, 8), 1)])
async def test_who_is_owed_alike_is_chosen_by_score_and_then_by_column(
    world: World, scores: tuple[int, ...], winner: int
) -> None:
    coaches = [coach(column, score=score * 100_000) for column, score in enumerate(scores)]
    earned = [1_000_000 * score // sum(scores) for score in scores]
    await world.publish(roster_of(coaches), [max(earned) - share for share in earned])
    await world.derive()
    assert (await world.claim(world.wish(at(NOON)))).first == winner


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_requested_coach_or_nobody(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON), strategy=Strategy.REQUESTED, column=2)
    assert (await world.claim(wish)).first == 2
    again = replace(wish, token="another")
    assert (await world.claim(again)).outcome is ClaimOutcome.TAKEN
    assert await world.grid.deficits(ORG, 3) == [0, 0, 0]


@pytest.mark.outcome("claim_slot", "broken", "claimed")
async def test_one_bad_item_fails_alone(world: World) -> None:
    await world.ready()
    keys, ttl, items, epoch = _call(world, [world.wish(at(NOON)), world.wish(at(NOON))])
    claim = items[0][2]
    claim[6] = "no segments"
    bad, good = await world.scripts.claim_slot(keys, ttl, items, epoch)
    assert bad.outcome is ClaimOutcome.BROKEN
    assert b"segment" in bad.first
    assert (good.outcome, good.first) == (ClaimOutcome.CLAIMED, 0)
    assert len(await world.grid.pending()) == 1


@pytest.mark.outcome("claim_slot", "broken")
async def test_a_claim_that_breaks_amid_its_writes_is_noted(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.redis.delete(world.keys.counts(ORG, DAY))
    await cast("Any", world.redis.rpush(world.keys.counts(ORG, DAY), "no counts"))
    before = await world.redis.get(world.keys.occupied(ORG, DAY))
    with pytest.raises(ItemBroken):
        await world.claim(wish)
    assert await world.redis.get(world.keys.occupied(ORG, DAY)) != before
    assert list(await world.grid.pending()) == [wish.token]


async def test_what_is_noted_of_a_claim_is_what_a_reconciler_needs(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON, before=1, after=2), idempotency_key="Schlüssel")
    reply = await world.claim(wish)
    entry = (await world.grid.pending())[wish.token]
    assert (entry.org, entry.appointment, entry.width) == (ORG, wish.token, world.roster.width)
    assert (entry.start_cell, entry.cells, entry.idempotency_key) == (at(NOON).start - 1, 9, "Schlüssel")
    assert bytes(entry.considered).endswith(reply.second)


def _call(world: World, wishes: list[SlotClaim]) -> tuple[list[str], int, list[Any], int]:
    """The script's own arguments for a batch of claims."""
    names = [world.keys.pending, world.keys.epoch]

    def name(key: str) -> int:
        if key not in names:
            names.append(key)
        return names.index(key) + 1

    packed = [world.gate._pack_admission(world.keys, cast("Any", name), Admission(ORG, claim=w), 1) for w in wishes]
    return names, 10_000, packed, EPOCH
