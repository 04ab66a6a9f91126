"""Redis hung, killed, emptied, rolled back, full: bookings go on, and it is believed again only when it is right."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import AsyncMock, patch
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ReadOnlyError
from structlog.testing import capture_logs

from service.app import Services, open_services
from service.claims.breaker import Trip
from service.claims.connection import connect
from service.config import Settings
from service.db.commit import CommitOutcome
from service.embedded.redis import EmbeddedRedis
from service.errors import SlotUnavailable, Unavailable
from service.operations.check_health import CheckHealth
from service.operations.local_rates import RateSeen
from tests.faults.proxy import Proxy
from tests.invariants.looks import booked, cancelled, listed, overlaps
from tests.operations import steps
from tests.servers import eventually, folder_of_its_own, free_port
from tests.ungated.conftest import agreed, asked_again
from tests.wishes import caller, free_starts, wish


def trips(services: Services, why: Trip) -> float:
    """How often it stopped asking Redis, and why."""
    return services.metrics.gate_trips.labels(why.value)._value.get()


def closed_gates(services: Services) -> float:
    """Of this one process, as its gauge shows it."""
    return services.metrics.gates_closed._value.get()


async def all_agrees(services: Services) -> bool:
    """Whether grid and deficits are what Postgres says, nothing waits and nothing is pending."""
    await agreed(services)
    [found] = await services.rebuild.verify(lambda _: None)
    return found.holds and not await services.gate_store.waiting()


@pytest.fixture
async def filled(services: Services, org: int) -> Services:
    """A process whose grid is whole."""
    await services.keeper.fill(org)
    return services


async def test_hung_it_costs_one_timeout_and_then_nothing(
    filled: Services, org: int, server: EmbeddedRedis, sql: Any
) -> None:
    starts = await free_starts(filled, org)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        made = [await booked(filled, org, starts[20 + n], person=n) for n in range(10)]
        # Whatever waits for a hung server waits once; nobody behind the open breaker does.
        assert trips(filled, Trip.FAULT) == 1
        assert not filled.breaker.closed
        assert len(await listed(filled, org, "cal-1")) > 100
        await cancelled(filled, made[0])
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await asked_again(filled)
    # The claim whose reply was lost is given up by the reconciler, and its time is free again.
    assert await all_agrees(filled)
    assert await sql.fetchval("SELECT count(*) FROM appointments WHERE status = 'scheduled'") == 9
    assert (await filled.gate_store.epoch())[0] == 2, "the same server with the same grid: no new epoch"


async def test_killed_and_started_again_the_grid_is_a_new_one(
    filled: Services, org: int, server: EmbeddedRedis, sql: Any
) -> None:
    starts = await free_starts(filled, org)
    first = await booked(filled, org, starts[20])
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await eventually(lambda: not server.alive(), what="its end")
    second = await booked(filled, org, starts[20], person=1)
    assert second.coach_id != first.coach_id
    server.start()
    await asked_again(filled)
    assert (await filled.gate_store.epoch())[0] == 3
    third = await booked(filled, org, starts[20], "cal-2", person=2)
    assert third.coach_id not in {first.coach_id, second.coach_id}
    assert await overlaps(sql) == 0
    assert await all_agrees(filled)


async def test_rolled_back_it_is_not_believed(filled: Services, org: int, server: EmbeddedRedis, sql: Any) -> None:
    """An older file has the booking's time free, its day's count too low, and a claim that ended long ago."""
    await sql.execute("UPDATE coaches SET max_daily_appointments = 1 WHERE coach_id = 'coach-3'")
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")
    await filled.rosters.refresh(org, await filled.rosters.get(org))
    await filled.heal()
    free = await free_starts(filled, org)
    starts = [start for start in free if start.date() == free[60].date()]  # of one day, whatever the hour is now
    claimed = await steps.claim(filled, org, wish(starts[20], coach_id="coach-3"))
    server.stop()
    folder = server._folder
    shutil.copytree(folder, folder.parent / "older")
    server.start()
    assert len(await listed(filled, org, "cal-1")) > 100, "and so it is noticed"
    await asked_again(filled)
    assert (await filled.gate_store.epoch())[0] == 3
    assert (await steps.commit(filled, claimed)).outcome is CommitOutcome.FENCED
    await booked(filled, org, starts[20], coach_id="coach-3", person=1)
    server.stop()
    shutil.rmtree(folder)
    shutil.move(folder.parent / "older", folder)
    server.start()
    with pytest.raises(SlotUnavailable):
        await filled.book(wish(starts[24], coach_id="coach-3", person=2), caller(org), RateSeen())
    await asked_again(filled)
    with pytest.raises(SlotUnavailable):
        await filled.book(wish(starts[24], coach_id="coach-3", person=2), caller(org), RateSeen())
    assert await all_agrees(filled)


@pytest.mark.parametrize("times", [1, 4])
async def test_emptied_amid_bookings_no_claim_of_before_is_committed(
    filled: Services, settings: Settings, org: int, sql: Any, times: int
) -> None:
    await sql.execute("UPDATE coaches SET max_daily_appointments = 4")
    await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")
    async with open_services(settings) as other:
        await other.rosters.refresh(org, await other.rosters.get(org))
        starts = await free_starts(other, org)
        books = [
            asyncio.ensure_future(
                (filled, other)[n % 2].book(
                    wish(starts[40 + n % 16], ("cal-1", "cal-2", "cal-3")[n % 3], person=n), caller(org), RateSeen()
                )
            )
            for n in range(120)
        ]
        for share in range(times):
            await eventually(lambda s=share: sum(book.done() for book in books) >= 20 * s + 5, what="some answers")
            await filled.looking_redis.flushall()
        answers = await asyncio.gather(*books, return_exceptions=True)
        odd = [answer for answer in answers if isinstance(answer, Exception) and type(answer) is not SlotUnavailable]
        assert odd == []
        assert (
            await sql.fetchval(
                "SELECT max(n) FROM (SELECT count(*) AS n FROM appointments GROUP BY coach_no, local_day) AS days"
            )
            == 4
        )
        assert await overlaps(sql) == 0
        # It lists by Postgres until it has told the grid everything.
        await eventually(lambda: not filled.breaker.behind, what="the grid told")
        assert await listed(filled, org, "cal-1"), "and the last loss is noticed"
        await asked_again(filled)
        await agreed(filled)
        await filled.keeper.fill(org)
        assert await all_agrees(filled)


async def test_full_it_is_not_asked_until_it_takes_writes(filled: Services, org: int) -> None:
    health = CheckHealth(filled.database, filled.redis, filled.shards)
    assert await health() == {"postgres": "up", "redis": "up"}
    starts = await free_starts(filled, org)
    await filled.looking_redis.config_set("maxmemory", 1)
    made = [await booked(filled, org, starts[20 + n], person=n) for n in range(3)]
    assert trips(filled, Trip.REFUSED) == 1
    assert not filled.breaker.closed
    assert await health() == {"postgres": "up", "redis": "refusing"}
    await filled.looking_redis.config_set("maxmemory", 0)
    await asked_again(filled)
    assert await all_agrees(filled)
    assert len({one.appointment_id for one in made}) == 3


async def test_scripts_flushed_are_loaded_again_unnoticed(filled: Services, org: int) -> None:
    starts = await free_starts(filled, org)
    await filled.looking_redis.script_flush()
    await booked(filled, org, starts[20])
    assert filled.breaker.closed
    assert [trips(filled, why) for why in Trip] == [0, 0, 0]


async def test_a_process_starts_without_it_and_asks_it_when_it_comes(settings: Settings, server: EmbeddedRedis) -> None:
    server.stop()
    async with open_services(settings) as services:
        org = await services.roster_store.organization("demo")
        assert org is not None
        starts = await free_starts(services, org)
        await booked(services, org, starts[20])
        assert closed_gates(services) == 1
        server.start()
        await asked_again(services)
        assert closed_gates(services) == 0
        assert await all_agrees(services)


async def test_an_outage_is_told_when_it_begins_and_when_its_reason_changes(services: Services) -> None:
    gate, looks = services.keep_gate, AsyncMock(side_effect=Unavailable("away"))
    services.keeping_gate.cancel()
    services.breaker.trip(Trip.FAULT)
    with capture_logs() as lines, patch.object(gate._server, "look", looks):
        for reason in ("away", "read only"):
            looks.side_effect = Unavailable(reason)
            for _ in range(100):
                assert not await gate.look()
    said = [line["error"] for line in lines if line["event"] == "redis not asked yet"]
    assert said == ["away", "read only"]


@pytest.fixture
def two() -> Iterator[tuple[EmbeddedRedis, EmbeddedRedis]]:
    """Two servers that speak TCP."""
    binary = os.environ.get("TEST_REDIS_BIN")
    with ExitStack() as stack:
        servers: list[EmbeddedRedis] = []
        for _ in range(2):
            folder = stack.enter_context(folder_of_its_own())
            server = EmbeddedRedis(folder, binary=Path(binary) if binary else None, tcp_port=free_port())
            server.start()
            stack.callback(server.stop)
            servers.append(server)
        yield servers[0], servers[1]


async def test_a_server_that_gave_its_place_to_another_is_left(
    settings: Settings, two: tuple[EmbeddedRedis, EmbeddedRedis], sql: Any
) -> None:
    """After a failover behind one address: nobody cut the connections to the old one, which is a replica now."""
    ports = [urlsplit(server.tcp_url).port or 0 for server in two]
    proxy = Proxy(ports[0], Random(1))
    await proxy.open()
    url = f"redis://127.0.0.1:{proxy.port}"
    reading: Any = connect(url, timeout_s=60)
    try:
        async with open_services(replace(settings, redis_url=url)) as services:
            await asked_again(services)
            org = await services.roster_store.organization("demo")
            assert org is not None
            await services.keeper.fill(org)
            starts = await free_starts(services, org)
            await asyncio.gather(*(services.redis.get("x") for _ in range(10)))
            await reading.set("x", 1)
            old: Any = connect(two[0].url, timeout_s=60)
            await old.replicaof("127.0.0.1", free_port())
            await old.aclose()
            proxy.lead_to(ports[1])

            await booked(services, org, starts[20])
            await asked_again(services)
            assert (await services.gate_store.epoch())[0] >= 3
            assert await services.redis.get("x") is None, "also who only reads asks the new one"
            await asyncio.gather(*(booked(services, org, starts[24 + n], person=n) for n in range(10)))
            assert services.breaker.closed
            assert await overlaps(sql) == 0
            assert await all_agrees(services)
        with pytest.raises(ReadOnlyError):
            await reading.set("x", 1)
        assert await reading.set("x", 1)
    finally:
        await reading.aclose()
        await proxy.close()
