"""Of several processes one does what is done once a period; what was broken off is done again, by whoever comes."""

from __future__ import annotations

import pytest

from service.app import Services
from service.claims.lease import Leases
from service.operations.take_turns import TakeTurns

PERIOD_MS = 60_000


async def test_one_of_them_does_it_a_period_and_what_was_broken_off_does_not_count(services: Services) -> None:
    leases, problems = Leases(services.redis, services.shards, services.breaker), [ZeroDivisionError()]

    async def work() -> int:
        if problems:
            raise problems.pop()
        return 7

    turns = [TakeTurns(leases, "work", PERIOD_MS, work) for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        await turns[0]()
    assert [await turn() for turn in turns] == [7, 0]
    assert await TakeTurns(leases, "other work", PERIOD_MS, work)() == 7


async def test_whoever_dies_in_its_turn_holds_it_no_longer_than_a_period(services: Services) -> None:
    leases = Leases(services.redis, services.shards, services.breaker)
    assert await leases.take("work", PERIOD_MS)
    assert 0 < await services.redis.pttl(services.shards.all[0].lock("work")) <= PERIOD_MS
