"""A claim ends once: settled, it is announced and stays; released, every byte is as if it had never been."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from service.claims.gate import Gate
from service.claims.keys import Shards
from service.claims.messages import Admission, Answer, Release, Settlement
from service.claims.scripts import ClaimOutcome, ReleaseOutcome, SettleOutcome
from service.domain.assignment import Strategy
from tests.lua.world import CLAIM_TTL_MS, DAY, ORG, World, at, coach, roster_of

NOON = 144


@pytest.mark.outcome("settle_claim", "settled", "absent")
async def test_settling_drops_the_claim_and_announces_each_time(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    taken = await world.grid.read(ORG, range(DAY, DAY + 1), [DAY])
    settlement = Settlement(ORG, wish.token, f"{ORG} {wish.token} 1", ("crm", "calendar-blocks"))
    assert await world.gate.settle(settlement) is SettleOutcome.SETTLED
    assert await world.grid.pending() == {}
    assert await world.grid.read(ORG, range(DAY, DAY + 1), [DAY]) == taken
    # Repeated by the reconciler, say: nothing is pending, and what is on its way is not sent twice.
    assert await world.gate.settle(settlement) is SettleOutcome.ABSENT
    for stream in ("crm", "calendar-blocks"):
        entries = (await world.snapshot())[world.keys.stream(stream)]
        assert entries == [{b"event": f"{ORG} {wish.token} 1".encode(), b"attempt": b"1"}]
    # Off its way it is heard again: rather twice than not at all.
    await world.redis.delete(world.keys.way("crm"))
    await world.gate.settle(settlement)
    assert len((await world.snapshot())[world.keys.stream("crm")]) == 2


@pytest.mark.outcome("settle_claim", "settled")
async def test_settling_keeps_the_answer_and_writes_it_behind(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON), idempotency_key="key")
    await world.claim(wish)
    answer = Answer("key", "a" * 32, 201, wish.token, '{"ä": 1}'.encode())
    await world.gate.settle(Settlement(ORG, wish.token, None, (), answer))
    (record,) = (await world.snapshot())[world.keys.stream("idempotency")]
    assert record[b"key"] == b"key"
    assert set(record) == {b"key", b"org", b"fingerprint", b"status", b"appointment_id"}  # the answer itself is a row's
    assert (record[b"org"], record[b"status"], record[b"fingerprint"]) == (b"1", b"201", b"a" * 32)
    assert 0 < await world.redis.pttl(world.keys.answer(ORG, "key")) <= 60_000
    assert await world.redis.get(world.keys.answer(ORG, "key")) == b"d" + b"a" * 32 + answer.body


@pytest.mark.outcome("settle_claim", "absent")
async def test_settled_together_each_event_enters_a_stream_once_and_not_while_it_is_on_its_way(world: World) -> None:
    await world.ready()
    crm, blocks = ([world.keys.stream(name), world.keys.way(name)] for name in ("crm", "calendar-blocks"))
    await world.scripts.enqueue(crm[0], crm[1], [("1 on-its-way 1", 3)])
    keys = [world.keys.pending, world.keys.repairs, *crm, *blocks]
    both = [[3, 4], [5, 6]]
    events = ["1 new 1", "1 on-its-way 1", "1 new 1", "1 newer 1"]
    await world.scripts.settle_claim(keys, 1000, [[False, event, both, False] for event in events])
    entered = await world.snapshot()
    assert [entry[b"event"] for entry in entered[crm[0]]] == [b"1 on-its-way 1", b"1 new 1", b"1 newer 1"]
    assert [entry[b"event"] for entry in entered[blocks[0]]] == [b"1 new 1", b"1 on-its-way 1", b"1 newer 1"]
    assert await world.redis.smembers(crm[1]) == {b"1 new 1", b"1 on-its-way 1", b"1 newer 1"}


@pytest.mark.outcome("settle_claim", "broken", "settled")
async def test_who_cannot_be_announced_is_told_so_and_the_others_are_announced(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    crm, blocks = ([world.keys.stream(name), world.keys.way(name)] for name in ("crm", "calendar-blocks"))
    await world.redis.set(crm[0], "not a stream")
    keys = [world.keys.pending, world.keys.repairs, *crm, *blocks]
    items = [[False, "1 lost 1", [[3, 4]], False], [wish.token, "1 heard 1", [[5, 6]], False]]
    assert await world.scripts.settle_claim(keys, 1000, items) == [SettleOutcome.BROKEN, SettleOutcome.SETTLED]
    assert await world.redis.xlen(blocks[0]) == 1


@pytest.mark.outcome("settle_claim", "broken", "settled")
async def test_one_bad_settlement_fails_alone(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    keys = [world.keys.pending, world.keys.repairs]
    outcomes = await world.scripts.settle_claim(
        keys, 1000, [[False, "event", 7, False], [wish.token, False, [], False]]
    )
    assert outcomes == [SettleOutcome.BROKEN, SettleOutcome.SETTLED]


@pytest.mark.outcome("release_claim", "released", "absent")
async def test_releasing_restores_every_byte_once(world: World) -> None:
    await world.ready()
    await world.claim(world.wish(at(NOON)))
    before = await world.snapshot()
    wish = world.wish(at(285, before=2, after=6), idempotency_key="key")
    assert (await world.claim(wish)).outcome is ClaimOutcome.CLAIMED
    assert await world.snapshot() != before
    revision = await world.revision()
    assert await world.release(wish) is ReleaseOutcome.RELEASED
    assert await world.snapshot() == before
    assert await world.revision() > revision, "who keeps what it has read looks again"
    assert await world.release(wish) is ReleaseOutcome.ABSENT
    assert await world.snapshot() == before


@pytest.mark.outcome("release_claim", "absent")
async def test_a_late_release_frees_nothing_of_whoever_came_after(world: World) -> None:
    await world.publish(roster_of([coach(0)]))
    await world.derive()
    first, second = world.wish(at(NOON)), world.wish(at(NOON))
    await world.claim(first)
    await world.release(first)
    assert (await world.claim(second)).outcome is ClaimOutcome.CLAIMED
    before = await world.snapshot()
    assert await world.release(first) is ReleaseOutcome.ABSENT
    assert await world.snapshot() == before


@pytest.mark.outcome("release_claim", "released")
@pytest.mark.parametrize("now", ["p" + "b" * 32, "d" + "a" * 32 + '{"answer": 1}'], ids=["anothers", "answered"])
async def test_a_release_frees_its_key_only_while_that_has_its_own_mark(world: World, now: str) -> None:
    await world.ready()
    wish = world.wish(at(NOON), idempotency_key="key")
    await world.claim(wish)
    mark = world.keys.answer(ORG, "key")
    await world.redis.set(mark, now)
    assert await world.release(wish) is ReleaseOutcome.RELEASED
    assert await world.redis.get(mark) == now.encode()


@pytest.mark.outcome("release_claim", "released")
async def test_a_day_that_counts_nothing_counts_nothing_after_a_release(world: World) -> None:
    """What is below zero would be a coach that is full for ever."""
    await world.publish(roster_of([coach(0, limit=1)]))
    await world.derive()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    await world.redis.set(world.keys.counts(ORG, DAY), bytes(2 * 32), keepttl=True)
    assert await world.release(wish) is ReleaseOutcome.RELEASED
    assert await world.grid.read_counts(ORG, DAY, 1) == [0]
    assert (await world.claim(world.wish(at(200)))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("release_claim", "released")
async def test_a_release_makes_nothing_of_what_is_gone(world: World) -> None:
    """A part of a day, or of a roster, would be there for ever, and be taken for what it was a part of."""
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    kept = {world.keys.epoch, world.keys.pending}
    await world.redis.delete(*((await world.snapshot()).keys() - kept))
    assert await world.release(wish) is ReleaseOutcome.RELEASED
    assert set(await world.snapshot()) == {world.keys.epoch}


@pytest.mark.outcome("release_claim", "released")
async def test_a_full_day_is_open_again_after_a_release(world: World) -> None:
    await world.publish(roster_of([coach(0, limit=1)]))
    await world.derive()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    assert (await world.claim(world.wish(at(200)))).outcome is ClaimOutcome.TAKEN
    await world.release(wish)
    assert (await world.claim(world.wish(at(200)))).outcome is ClaimOutcome.CLAIMED


@pytest.mark.outcome("release_claim", "released")
async def test_a_release_reaches_a_day_that_was_derived_wider_since(world: World) -> None:
    """Three coaches become forty: rows grow, the pending claim is kept, and its release frees it there."""
    await world.ready()
    wish = world.wish(at(NOON), strategy=Strategy.REQUESTED, column=1)
    await world.claim(wish)
    await world.publish(roster_of([coach(n) for n in range(40)], version=2))
    for day in (DAY - 1, DAY, DAY + 1):
        await world.derive(day)
    again = world.wish(at(NOON), strategy=Strategy.REQUESTED, column=1)
    assert (await world.claim(again)).outcome is ClaimOutcome.TAKEN
    assert await world.release(wish) is ReleaseOutcome.RELEASED
    assert await world.grid.read_counts(ORG, DAY, 40) == [0] * 40
    assert (await world.claim(again)).first == 1


@pytest.mark.outcome("release_claim", "released", "broken")
async def test_one_bad_release_fails_alone(world: World) -> None:
    await world.ready()
    bad, good = world.wish(at(NOON)), world.wish(at(NOON))
    await world.claim(bad)
    await world.claim(good)
    keys = world.keys
    names = [
        keys.pending, keys.repairs, keys.roster(ORG), keys.occupied(ORG, DAY), keys.full(ORG, DAY),
        keys.counts(ORG, DAY), keys.limits(ORG), keys.deficits(ORG),
    ]  # fmt: skip
    items = [
        [bad.token, 3, "no segments", 5, 6, 7, 8, False],
        [good.token, 3, [[4, NOON, 6]], 5, 6, 7, 8, False],
    ]
    assert await world.scripts.release_claim(names, items) == [ReleaseOutcome.BROKEN, ReleaseOutcome.RELEASED]


@pytest.mark.outcome("note_release", "noted")
@pytest.mark.outcome("release_claim", "released", "absent")
async def test_a_noted_release_frees_a_settled_time_when_its_token_is_consumed(world: World) -> None:
    await world.ready()
    before = await world.snapshot()
    wish = world.wish(at(NOON))
    reply = await world.claim(wish)
    await world.gate.settle(Settlement(ORG, wish.token, None, ()))
    await world.gate.note_release(ORG, "token-2", wish.token, 0, wish.placement, DAY, world.roster.width, reply.second)
    entry = (await world.grid.pending())["token-2"]
    assert (entry.kind, entry.org, entry.appointment) == ("release", ORG, wish.token)
    assert (entry.column, entry.start_cell, entry.cells, entry.local_day) == (0, at(NOON).start, 6, DAY)
    now_ms = await world.grid.now_ms()
    assert now_ms < entry.deadline_ms <= now_ms + CLAIM_TTL_MS
    assert await world.gate.release(Release(ORG, "token-2", wish.placement, DAY)) is ReleaseOutcome.RELEASED
    assert await world.snapshot() == before
    assert await world.gate.release(Release(ORG, "token-2", wish.placement, DAY)) is ReleaseOutcome.ABSENT


@pytest.mark.outcome("settle_claim", "settled")
async def test_a_noted_release_that_is_dropped_frees_nothing(world: World) -> None:
    await world.ready()
    wish = world.wish(at(NOON))
    await world.claim(wish)
    await world.gate.settle(Settlement(ORG, wish.token, None, ()))
    before = await world.snapshot()
    await world.gate.note_release(ORG, "token-2", wish.token, 0, wish.placement, DAY, world.roster.width, b"")
    assert await world.gate.settle(Settlement(ORG, "token-2", None, ())) is SettleOutcome.SETTLED
    assert await world.snapshot() == before


@pytest.mark.outcome("note_release", "noted")
@pytest.mark.outcome("release_claim", "late", "released")
async def test_past_its_deadline_a_noted_release_is_the_reconcilers(world: World) -> None:
    await world.ready()
    before = await world.snapshot()
    wish = world.wish(at(NOON))
    reply = await world.claim(wish)
    await world.gate.settle(Settlement(ORG, wish.token, None, ()))
    entry = [0, ORG, wish.token, 0, wish.placement.occupied_start, 6, DAY, world.roster.width]
    await world.scripts.note_release(world.keys.pending, "token-2", entry, reply.second)
    noted = await world.snapshot()
    release = Release(ORG, "token-2", wish.placement, DAY)
    assert await world.gate.release(release) is ReleaseOutcome.LATE
    assert await world.snapshot() == noted
    # The reconciler has put cells and count right by then; what is left are the token and the deficits.
    assert await world.gate.release(replace(release, frees=False)) is ReleaseOutcome.RELEASED
    assert await world.grid.pending() == {}
    after = await world.snapshot()
    assert after[world.keys.deficits(ORG)] == before[world.keys.deficits(ORG)]
    for key in (world.keys.occupied, world.keys.counts):
        assert after[key(ORG, DAY)] == noted[key(ORG, DAY)]


@pytest.mark.outcome("release_claim", "released")
async def test_a_claim_is_released_by_its_own_process_also_past_its_deadline(world: World) -> None:
    """Either of the two ends it at one stroke, so none can meet what the other has begun."""
    await world.ready()
    before = await world.snapshot()
    wish = world.wish(at(NOON))
    slow = Gate(world.scripts, Shards(1), world.gate._breaker, claim_ttl_ms=0, answer_ttl_ms=60_000)
    await slow.admit(Admission(ORG, claim=wish))
    assert await world.release(wish) is ReleaseOutcome.RELEASED
    assert await world.snapshot() == before
