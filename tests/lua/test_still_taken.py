"""What was taken is taken until something is freed: then, and only then, a look is as good as a claim."""

from __future__ import annotations

import dataclasses
import random

import pytest
from msgspec.structs import replace

from service.claims.breaker import GateBreaker
from service.claims.gate import Gate
from service.claims.grid import ColumnState
from service.claims.keys import Shards
from service.claims.messages import Answer, OwnTime, Rate, Refused, Release, Search, Settlement, Side, SlotClaim
from service.claims.scripts import ClaimOutcome, ClaimReply, StillTakenOutcome, StillTakenReply
from service.domain.assignment import Strategy
from service.domain.grid import CELLS_PER_DAY
from service.domain.plane import cells_mask
from service.errors import GateClosed
from tests.lua.world import CLAIM_TTL_MS, DAY, EPOCH, OPEN_ALL_DAY, ORG, World, at, coach, roster_of

NOON = 144
TAKEN, FREED, LIMITED = StillTakenOutcome.TAKEN, StillTakenOutcome.FREED, StillTakenOutcome.LIMITED


async def alone(world: World) -> SlotClaim:
    """One coach, whose noon is claimed; the claim."""
    await world.publish(roster_of([coach(0)]))
    await world.derive()
    claimed = world.wish(at(NOON))
    assert (await world.claim(claimed)).outcome is ClaimOutcome.CLAIMED
    return claimed


async def told(world: World, wish: SlotClaim | None = None) -> Refused:
    """A refusal of noon, or of another wish, as a process remembers it."""
    reply = await world.claim(wish or world.wish(at(NOON)))
    assert reply.outcome is ClaimOutcome.TAKEN
    return refused(world, reply)


def refused(world: World, reply: ClaimReply) -> Refused:
    """What is remembered of a refusal."""
    return Refused(ORG, world.roster.version, reply.epoch, reply.second, None, None)


async def look(world: World, *wanted: Refused) -> list[StillTakenReply]:
    """What the gate says of refusals that are asked for together."""
    return await world.gate.still_taken(world.keys, wanted)


async def outcomes(world: World, *wanted: Refused) -> list[StillTakenOutcome]:
    """The outcomes of `look`."""
    return [reply.outcome for reply in await look(world, *wanted)]


@pytest.mark.outcome("still_taken", "taken", "freed")
async def test_a_refusal_holds_whatever_is_claimed_and_until_something_is_freed(world: World) -> None:
    claimed = await alone(world)
    remembered = await told(world)
    other = world.wish(at(NOON + 12))
    assert (await world.claim(other)).outcome is ClaimOutcome.CLAIMED
    await world.gate.settle(Settlement(ORG, other.token, None, ()))
    (reply,) = await look(world, remembered)
    assert (reply.outcome, reply.revision) == (TAKEN, await world.revision())
    assert (await told(world)).freed == remembered.freed, "claims free nothing"
    await world.release(claimed)
    assert await outcomes(world, remembered) == [FREED]
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.CLAIMED
    again = await told(world)
    assert again.freed > remembered.freed
    assert await outcomes(world, again, remembered, again) == [TAKEN, FREED, TAKEN]


@pytest.mark.outcome("still_taken", "freed")
async def test_what_may_have_freed_time_frees_every_refusal(world: World) -> None:
    await alone(world)
    free_again = ColumnState(open=OPEN_ALL_DAY, occupied=0, count=0, known=())
    remembered = [await told(world)]
    nonce = await world.grid.mark_coach_day(ORG, DAY, 0)
    assert (await world.grid.repair_coach_day(world.roster, DAY, 0, nonce, free_again, write=True)).total == 0
    assert await outcomes(world, *remembered) == [TAKEN], "nothing was repaired"
    closed = ColumnState(open=0, occupied=0, count=0, known=())
    nonce = await world.grid.mark_coach_day(ORG, DAY, 0)
    assert (await world.grid.repair_coach_day(world.roster, DAY, 0, nonce, closed, write=True)).total > 0
    assert await outcomes(world, *remembered) == [FREED]
    remembered.append(await told(world))
    await world.grid.forget_days(ORG, range(DAY, DAY + 1))
    await world.derive()
    assert await outcomes(world, *remembered) == [FREED, FREED]
    remembered.append(await told(world))
    await world.publish(dataclasses.replace(world.roster, version=2))
    remembered.append(await told(world))
    assert await outcomes(world, *remembered) == [FREED, FREED, FREED, TAKEN]
    await world.redis.delete(world.keys.scores(ORG))
    await world.publish()
    assert await outcomes(world, *remembered) == [FREED, FREED, FREED, FREED], "the same version, published again"
    await world.redis.delete(world.keys.roster(ORG))
    assert await outcomes(world, *remembered) == [FREED, FREED, FREED, FREED]


@pytest.mark.outcome("still_taken", "suspect", "freed")
async def test_a_refusal_of_another_epoch_holds_no_longer_and_another_grid_is_not_believed(world: World) -> None:
    await alone(world)
    remembered = await told(world)
    assert await outcomes(world, replace(remembered, epoch=EPOCH - 1), remembered) == [FREED, TAKEN]
    await world.redis.set(world.keys.epoch, str(EPOCH + 1))
    assert await outcomes(world, remembered) == [StillTakenOutcome.SUSPECT]
    assert world.gate.epoch is None
    with pytest.raises(GateClosed):
        await look(world, remembered)


@pytest.mark.outcome("still_taken", "taken", "limited", "freed")
async def test_each_request_is_counted_once_and_those_over_the_limit_are_told_so(world: World) -> None:
    await alone(world)
    few, other = Rate("few", 4, 60_000), Rate("other", 0, 30_000)
    remembered = await told(world)
    gone = replace(remembered, freed=remembered.freed - 1)
    asked = [replace(remembered, rate=rate) for rate in (few, other, few, few, None, other)]
    asked.append(replace(gone, rate=few))
    said = [(reply.outcome, reply.rate_count) for reply in await look(world, *asked)]
    assert said == [(TAKEN, 1), (TAKEN, 1), (TAKEN, 2), (TAKEN, 3), (TAKEN, 0), (TAKEN, 2), (FREED, 4)]
    said = [(reply.outcome, reply.rate_count) for reply in await look(world, *asked[:4])]
    assert said == [(LIMITED, 5), (TAKEN, 3), (LIMITED, 6), (LIMITED, 7)]
    assert [await world.redis.get(world.keys.rate(rate.key_id)) for rate in (few, other)] == [b"7", b"3"]
    assert 30_000 < await world.redis.pttl(world.keys.rate("few")) <= 60_000
    await world.redis.pexpire(world.keys.rate("few"), 20_000)
    (reply,) = await look(world, asked[0])
    assert (reply.outcome, reply.rate_count) == (LIMITED, 8)
    assert 0 < reply.rate_reset_ms <= 20_000, "the window is that of its first request"


@pytest.mark.outcome("still_taken", "taken", "limited")
async def test_the_limit_is_met_within_requests_that_are_counted_together(world: World) -> None:
    await alone(world)
    one = replace(await told(world), rate=Rate("few", 3, 60_000))
    said = await look(world, *[one] * 5)
    assert [reply.outcome for reply in said] == [TAKEN, TAKEN, TAKEN, LIMITED, LIMITED]
    assert [reply.rate_count for reply in said] == [1, 2, 3, 4, 5]
    assert all(0 < reply.rate_reset_ms <= 60_000 for reply in said)
    assert await outcomes(world, one, one) == [LIMITED, LIMITED]


@pytest.mark.outcome("still_taken", "taken")
async def test_who_has_a_mark_is_not_refused_by_a_look(world: World) -> None:
    claimed = await alone(world)
    one = await told(world)
    assert (await world.claim(world.wish(at(NOON + 12), idempotency_key="busy"))).outcome is ClaimOutcome.CLAIMED
    answer = Answer("answered", "a" * 32, 201, claimed.token, b"{}")
    await world.gate.settle(Settlement(ORG, claimed.token, None, (), answer))
    keys = ["new", "busy", None, "answered", "newer", "busy"]
    asked = [replace(one, key=key) for key in keys]
    assert await outcomes(world, *asked) == [TAKEN, FREED, TAKEN, FREED, TAKEN, FREED]
    assert await outcomes(world, *asked[::2]) == [TAKEN, TAKEN, TAKEN]
    limited = [replace(item, rate=Rate("few", 1, 60_000)) for item in asked[:2]]
    assert await outcomes(world, *limited) == [TAKEN, LIMITED], "over the limit it is not asked for"


@pytest.mark.outcome("still_taken", "taken", "freed", "broken")
async def test_organizations_of_one_batch_know_nothing_of_each_other(world: World) -> None:
    claimed = await alone(world)
    mine = await told(world)
    await world.grid.publish(dataclasses.replace(world.roster, org=ORG + 1), [0] * 32, range(0))
    revision = int(await world.redis.hget(world.keys.roster(ORG + 1), "revision") or 0)  # type: ignore[misc]
    theirs = Refused(ORG + 1, world.roster.version, EPOCH, revision, None, None)
    assert await outcomes(world, mine, theirs, replace(mine, org=ORG + 1)) == [TAKEN, TAKEN, FREED]
    assert await outcomes(world, replace(theirs, version=world.roster.version + 1)) == [FREED]
    await world.release(claimed)
    assert await outcomes(world, mine, theirs) == [FREED, TAKEN]
    await world.redis.set(world.keys.roster(ORG), "not a hash")
    assert await outcomes(world, mine, theirs) == [StillTakenOutcome.BROKEN, TAKEN]


async def test_a_gate_that_is_closed_is_not_asked(world: World) -> None:
    await alone(world)
    remembered = await told(world)
    gate = Gate(world.scripts, Shards(1), GateBreaker(), claim_ttl_ms=CLAIM_TTL_MS, answer_ttl_ms=60_000)
    with pytest.raises(GateClosed):
        await gate.still_taken(world.keys, [remembered])


class Clinic:
    """Three coaches of whom everybody wants something: claims, moves, releases and repairs as they come."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.held: list[tuple[SlotClaim, int, bytes]] = []
        self.remembered: dict[tuple[int, int, int], tuple[SlotClaim, Refused]] = {}

    def wish(self) -> SlotClaim:
        """One of a few wishes, so that most come again."""
        cell, number, column = self.chance.randrange(NOON, NOON + 15, 3), self.chance.choice([1, 2]), -1
        if number == 1 and self.chance.random() < 0.3:
            column = self.chance.randrange(3)
        strategy = Strategy.REQUESTED if column >= 0 else Strategy.BALANCED
        return self.world.wish(at(cell), calendar_number=number, column=column, strategy=strategy)

    async def claim(self, wish: SlotClaim) -> bool:
        """Claim, and remember what came of it; whether it was taken."""
        reply = await self.world.claim(wish)
        if reply.outcome is ClaimOutcome.TAKEN:
            if wish.own is None:
                words = (wish.placement.start, wish.calendar_number, wish.column)
                self.remembered[words] = (wish, refused(self.world, reply))
            return True
        assert reply.outcome is ClaimOutcome.CLAIMED
        self.held.append((wish, reply.first, reply.second))
        return False

    async def release(self) -> None:
        """Free what somebody holds."""
        wish, _, _ = self.held.pop(self.chance.randrange(len(self.held)))
        await self.world.release(wish)

    async def move(self) -> None:
        """Move what somebody holds, and free what it leaves where there is room."""
        place = self.chance.randrange(len(self.held))
        wish, column, considered = self.held[place]
        await self.world.gate.settle(Settlement(ORG, wish.token, None, ()))
        own = OwnTime(wish.token, column, wish.placement, DAY, considered, Search.ANY)
        moved = replace(self.wish(), own=own)
        if await self.claim(moved):
            # As if it had been cancelled: what is not pending cannot be released.
            await self.world.gate.note_release(ORG, wish.token, wish.token, column, wish.placement, DAY, 4, considered)
            return
        # From now on it is a booking like any other.
        self.held.pop(place)
        keeping = moved.placement if self.held[-1][1] == column else None
        release = Release(ORG, moved.token, own.placement, DAY, side=Side.OLD, keeping=keeping, counted=keeping is None)
        await self.world.gate.release(release)
        _, new_column, new_considered = self.held.pop()
        booked = replace(moved, own=None)
        await self.world.gate.note_release(
            ORG, booked.token, booked.token, new_column, booked.placement, DAY, 4, new_considered
        )
        self.held.append((booked, new_column, new_considered))

    async def repair(self) -> None:
        """Make a coach's day what Postgres says, where somebody has opened, closed or taken time behind Redis' back."""
        column, start = self.chance.randrange(3), DAY * CELLS_PER_DAY + NOON
        closed = cells_mask(DAY, start, start + self.chance.choice([0, 0, 3, 9, 21]))
        state = ColumnState(open=OPEN_ALL_DAY & ~closed, occupied=0, count=0, known=())
        nonce = await self.world.grid.mark_coach_day(ORG, DAY, column)
        await self.world.grid.repair_coach_day(self.world.roster, DAY, column, nonce, state, write=True)


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@pytest.mark.parametrize("seed", range(5))
async def test_a_look_never_says_taken_where_a_claim_would_take(world: World, seed: int) -> None:
    await world.publish(roster_of([coach(0, limit=2), coach(1, limit=3), coach(2, limit=2)], (0, 1, 2), (1, 2)))
    await world.derive()
    clinic = Clinic(world, seed)
    steps = {clinic.release: 1.0, clinic.move: 1.0, clinic.repair: 0.6}
    held, freed = 0, 0
    for _ in range(60):
        if clinic.chance.random() < 0.6 or not clinic.held:
            await clinic.claim(clinic.wish())
        else:
            (step,) = clinic.chance.choices(list(steps), list(steps.values()))
            await step()
        remembered = list(clinic.remembered.items())
        said = await outcomes(world, *(told for _, (_, told) in remembered)) if remembered else []
        for (words, (wish, _)), outcome in zip(remembered, said, strict=True):
            if outcome is TAKEN:
                assert (await world.claim(wish)).outcome is ClaimOutcome.TAKEN
                held += 1
            else:
                del clinic.remembered[words]
                freed += 1
    assert held > 20
    assert freed > 5
