"""Before its slot a request is counted and its idempotency key looked at; refused there, it does nothing else."""

from __future__ import annotations

import asyncio

import pytest

from service.claims.messages import Admission, Answer, Rate, Settlement
from service.claims.scripts import ClaimOutcome
from service.errors import GateClosed, Unavailable
from tests.lua.world import CLAIM_TTL_MS, DAY, ORG, World, at, coach, roster_of

NOON = 144


@pytest.mark.outcome("claim_slot", "limited", "admitted")
async def test_over_the_limit_nothing_else_is_done(world: World) -> None:
    await world.ready()
    rate = Rate("key-1", 2, 60_000)
    seen = [await world.gate.admit(Admission(ORG, rate=rate))]
    await world.redis.pexpire(world.keys.rate("key-1"), 30_000)
    seen.append(await world.gate.admit(Admission(ORG, rate=rate)))
    assert [(r.outcome.value, r.rate_count) for r in seen] == [("admitted", 1), ("admitted", 2)]
    assert 0 < seen[1].rate_reset_ms <= 30_000 < seen[0].rate_reset_ms, "the window is that of its first request"
    reply = await world.gate.admit(Admission(ORG, rate=rate, claim=world.wish(at(NOON))))
    assert (reply.outcome, reply.rate_count) == (ClaimOutcome.LIMITED, 3)
    assert await world.grid.pending() == {}


@pytest.mark.outcome("claim_slot", "limited", "admitted", "claimed")
async def test_reads_of_one_moment_are_counted_one_by_one(world: World) -> None:
    await world.ready()
    few, other = Rate("key-1", 4, 60_000), Rate("key-2", 4, 60_000)
    claim = world.wish(at(NOON))
    asked = [
        Admission(ORG, rate=few),
        Admission(ORG, rate=other),
        Admission(ORG, rate=few),
        Admission(ORG, rate=few, claim=claim),
        Admission(ORG, rate=few),
        Admission(ORG, rate=few),
    ]
    seen = await asyncio.gather(*map(world.gate.admit, asked))
    assert [(r.outcome.value, r.rate_count) for r in seen] == [
        ("admitted", 1),
        ("admitted", 1),
        ("admitted", 2),
        ("claimed", 3),
        ("admitted", 4),
        ("limited", 5),
    ]
    assert await world.redis.get(world.keys.rate("key-1")) == b"5"
    before, after = await world.gate.admit(Admission(ORG)), seen[3].revision
    assert [(r.first, r.second) for r in seen if r.outcome is ClaimOutcome.ADMITTED] == [
        *[(world.roster.version, after - 1)] * 3,
        (world.roster.version, after),
    ]
    assert before.second == after
    late = await asyncio.gather(*(world.gate.admit(Admission(ORG, rate=other)) for _ in range(5)))
    assert [(r.outcome.value, r.rate_count) for r in late] == [
        ("admitted", 2),
        ("admitted", 3),
        ("admitted", 4),
        ("limited", 5),
        ("limited", 6),
    ]
    assert all(0 < r.rate_reset_ms <= 60_000 for r in late)
    assert await world.redis.get(world.keys.rate("key-2")) == b"6"
    assert (await world.gate.admit(Admission(ORG, rate=other))).outcome is ClaimOutcome.LIMITED


@pytest.mark.outcome("claim_slot", "admitted")
async def test_a_limit_of_0_counts_and_never_refuses(world: World) -> None:
    await world.publish()
    for number in range(1, 6):
        reply = await world.gate.admit(Admission(ORG, rate=Rate("free", 0, 60_000)))
        assert (reply.outcome, reply.rate_count) == (ClaimOutcome.ADMITTED, number)


@pytest.mark.outcome("claim_slot", "claimed", "in_progress", "replay", "reused")
async def test_a_key_is_in_progress_then_replays_and_refuses_another_request(world: World) -> None:
    await world.ready()
    first = world.wish(at(NOON), idempotency_key="key")
    assert (await world.claim(first)).outcome is ClaimOutcome.CLAIMED
    assert CLAIM_TTL_MS < await world.redis.pttl(world.keys.answer(ORG, "key")) <= 5 * CLAIM_TTL_MS
    again = world.wish(at(NOON), idempotency_key="key")
    assert (await world.claim(again)).outcome is ClaimOutcome.IN_PROGRESS
    answer = Answer("key", "a" * 32, 201, first.token, b'{"answer": "1"}')
    await world.gate.settle(Settlement(ORG, first.token, None, (), answer))
    replay = await world.claim(again)
    assert (replay.outcome, replay.first) == (ClaimOutcome.REPLAY, b'{"answer": "1"}')
    assert (await world.claim(again, "b" * 32)).outcome is ClaimOutcome.REUSED
    assert len(await world.grid.pending()) == 0


@pytest.mark.outcome("claim_slot", "claimed", "taken")
async def test_a_refused_request_leaves_its_key_free(world: World) -> None:
    await world.publish(roster_of([coach(0)]))
    await world.derive()
    await world.claim(world.wish(at(NOON)))
    assert (await world.claim(world.wish(at(NOON), idempotency_key="key"))).outcome is ClaimOutcome.TAKEN
    other = world.wish(at(NOON + 6), idempotency_key="key")
    assert (await world.claim(other, "b" * 32)).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("claim_slot", "broken")
async def test_a_request_that_cannot_be_evaluated_is_told_so(world: World) -> None:
    await world.ready()
    await world.redis.delete(world.keys.roster(ORG))
    await world.redis.set(world.keys.roster(ORG), "not a hash")
    with pytest.raises(Unavailable, match="could not evaluate"):
        await world.claim(world.wish(at(NOON)))


@pytest.mark.outcome("claim_slot", "suspect", "claimed")
@pytest.mark.parametrize("said", [None, "6", "8"])
async def test_in_a_grid_of_another_epoch_nothing_is_claimed_and_nobody_asks_again(
    world: World, said: str | None
) -> None:
    await world.ready()
    assert (await world.claim(world.wish(at(NOON)))).outcome is ClaimOutcome.CLAIMED
    if said is None:
        await world.redis.delete(world.keys.epoch)
    else:
        await world.redis.set(world.keys.epoch, said)
    rate = Rate("key-1", 2, 60_000)
    with pytest.raises(GateClosed, match="epoch"):
        await world.gate.admit(Admission(ORG, rate=rate, claim=world.wish(at(NOON + 6))))
    assert len(await world.redis.hgetall(world.keys.pending)) == 1
    assert await world.redis.get(world.keys.rate("key-1")) == b"1", "it counts against the limit all the same"
    with pytest.raises(GateClosed, match="not asked"):
        await world.gate.admit(Admission(ORG, rate=rate))
    assert await world.redis.get(world.keys.rate("key-1")) == b"1"


async def test_planes_of_another_epoch_are_not_believed(world: World) -> None:
    await world.ready()
    assert (await world.grid.read(ORG, range(DAY, DAY + 1), [DAY])).days[0] is not None
    await world.redis.set(world.keys.epoch, "6")
    with pytest.raises(GateClosed, match="epoch"):
        await world.grid.read(ORG, range(DAY, DAY + 1), [DAY])
    with pytest.raises(GateClosed, match="not asked"):
        await world.grid.has_roster(ORG)
