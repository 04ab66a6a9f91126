"""An API process that is killed leaves no time taken for nothing and no appointment unheard of.

A lock on the table of appointments holds the commit back while the claim stands in Redis; a process stopped
by SIGSTOP never learns that its commit went through. So each crash happens exactly where it is meant to.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from tests.api.client import Client, all_at_once, booking, open_client
from tests.api.stack import Stack, log_lines, running
from tests.servers import eventually, folder_of_its_own

CLAIM_TTL_S = 2.0
ROUND_S = 0.2
# What a busy machine may add to the deadline and the round.
SLACK_S = 20.0
ONE_COMMIT = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%WITH wish AS%'"
PREPARED = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%WITH wish AS%' AND pid <> pg_backend_pid()"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fragile() -> AsyncIterator[Stack]:
    """A system that notices claims left behind within two seconds."""
    with folder_of_its_own() as folder:
        knobs = {"CLAIM_TTL_MS": round(CLAIM_TTL_S * 1000), "RECONCILE_INTERVAL_MS": round(ROUND_S * 1000)}
        async with running(folder, **knobs) as started:
            yield started


@pytest.fixture
async def client(fragile: Stack) -> AsyncIterator[Client]:
    """A client of that system."""
    async with open_client(fragile.url, await fragile.add_key("read", "write")) as opened:
        yield opened


@asynccontextmanager
async def commits_held_back(fragile: Stack) -> AsyncIterator[asyncpg.Connection]:
    """No appointment can be written; commit on the connection to let go."""
    async with fragile.database() as connection:
        await connection.execute("BEGIN; LOCK TABLE appointments IN ACCESS EXCLUSIVE MODE")
        yield connection


async def both_have_committed(fragile: Stack, client: Client) -> None:
    """Each API process has its statement prepared: from now on a commit is one message, sent before it waits."""
    starts = await client.starts("cal-1")

    async def prepared() -> bool:
        # Connections of their own, because one that is kept stays with its process; a refusal does no harm.
        async with open_client(fragile.url, client.key) as fresh:
            await all_at_once(fresh.book(booking(starts.pop())) for _ in range(8))
        return await fragile.value(PREPARED) == len(fragile.pids("api-process"))

    await eventually(prepared, what="both API processes committing")
    await eventually(lambda: nothing_pending(fragile), what="everything being settled")


async def claimed_and_waiting(fragile: Stack, client: Client, wish: dict[str, Any], key: str) -> asyncio.Task[Any]:
    """A booking under way, whose claim stands in Redis and whose commit waits for the lock."""
    request = asyncio.ensure_future(client.book(wish, key=key))

    async def waiting() -> bool:
        assert not request.done(), request.result()
        return await fragile.pending() == 1 and len(await fragile.rows(ONE_COMMIT)) == 1

    await eventually(waiting, what="a commit that waits")
    return request


async def lost(request: asyncio.Task[Any]) -> None:
    """The client's connection broke."""
    with suppress(aiohttp.ClientError, ConnectionError):
        answer = await request
        raise AssertionError(f"answered {answer.status}")


async def nothing_pending(fragile: Stack) -> bool:
    return await fragile.pending() == 0


async def came_back(fragile: Stack, client: Client, before: list[int]) -> bool:
    now = fragile.pids("api-process")
    if len(now) != len(before) or set(now) & set(before):
        return False
    try:
        return (await client.with_key(None)("GET", "/readyz")).status == 200
    except aiohttp.ClientError:
        return False


async def offered(client: Client, slot: dict[str, str]) -> bool:
    return slot in await client.slots(calendar_id="cal-3", days=30, coach_id=slot["coach_id"])


async def heard(fragile: Stack, appointment_id: str, destination: str) -> bool:
    return await fragile.value(
        "SELECT count(*) FROM deliveries WHERE appointment_id = $1::uuid AND sequence = 1 AND destination = $2"
        " AND state = 'delivered'",
        uuid.UUID(appointment_id),
        destination,
    )


async def test_killed_between_claim_and_commit_the_time_is_free_again(fragile: Stack, client: Client) -> None:
    before, workers = fragile.pids("api-process"), fragile.pids("service.cli worker")
    assert len(before) == 2
    await both_have_committed(fragile, client)
    slot = (await client.slots(calendar_id="cal-3", days=30))[5]
    wish, key = booking(slot["start_time"], "cal-3", coach_id=slot["coach_id"]), uuid.uuid4().hex
    async with commits_held_back(fragile) as lock:
        request = await claimed_and_waiting(fragile, client, wish, key)
        assert not await offered(client, slot)
        # Nothing that hides time waits for deliveries to be done.
        fragile.kill(*workers, number=signal.SIGSTOP)
        fragile.kill(*before)
        killed = time.monotonic()
        # The statement of the dead process must not come through after all.
        for row in await fragile.rows(ONE_COMMIT):
            await lock.fetch("SELECT pg_terminate_backend($1)", row["pid"])
        await lock.execute("COMMIT")
    await lost(request)
    await eventually(lambda: nothing_pending(fragile), what="the end of the claim")
    assert time.monotonic() - killed < CLAIM_TTL_S + ROUND_S + SLACK_S
    fragile.kill(*workers, number=signal.SIGCONT)

    await eventually(lambda: came_back(fragile, client, before), within_s=60, what="new API processes")
    assert await offered(client, slot)
    statuses = await fragile.rows(
        "SELECT a.status::text FROM appointments AS a JOIN coaches AS c USING (org_id, coach_no)"
        " WHERE a.starts_at = $1::text::timestamptz AND c.coach_id = $2",
        slot["start_time"],
        slot["coach_id"],
    )
    assert [row["status"] for row in statuses] == ["void"]
    # The key is free too: the same request makes the appointment now.
    again = await client.book(wish, key=key)
    assert (again.status, "Idempotent-Replayed" in again.headers) == (201, False)
    assert again.json["coach_id"] == slot["coach_id"]
    await fragile.verify()


async def test_killed_before_the_commit_came_through_the_appointment_is_heard_of(
    fragile: Stack, client: Client
) -> None:
    """The statement outlives its process: then there is an appointment, and whoever must hear of it does."""
    await killed_after_the_claim(fragile, client, stopped_first=False)


async def test_killed_between_commit_and_settle_the_appointment_is_heard_of(fragile: Stack, client: Client) -> None:
    await killed_after_the_claim(fragile, client, stopped_first=True)


async def killed_after_the_claim(fragile: Stack, client: Client, *, stopped_first: bool) -> None:
    before = fragile.pids("api-process")
    await both_have_committed(fragile, client)
    slot = (await client.slots(calendar_id="cal-3", days=30))[9]
    wish, key = booking(slot["start_time"], "cal-3", coach_id=slot["coach_id"]), uuid.uuid4().hex
    row = "SELECT appointment_id::text FROM appointments WHERE idempotency_key = $1 AND status = 'scheduled'"
    async with commits_held_back(fragile) as lock:
        request = await claimed_and_waiting(fragile, client, wish, key)
        fragile.kill(*before, number=signal.SIGSTOP if stopped_first else signal.SIGKILL)
        await lock.execute("COMMIT")

    async def committed() -> bool:
        return await fragile.value(row, key) is not None

    await eventually(committed, what="the row")
    if stopped_first:
        assert await fragile.pending() == 1
        fragile.kill(*before)
    killed = time.monotonic()
    await lost(request)
    await eventually(lambda: nothing_pending(fragile), what="the claim being settled")
    assert time.monotonic() - killed < CLAIM_TTL_S + ROUND_S + SLACK_S
    made = await fragile.value(row, key)
    for destination in ("crm", "calendar-blocks"):
        await eventually(lambda name=destination: heard(fragile, made, name), what=f"{destination} hearing of it")
    told = (
        await Client(client._session, f"http://127.0.0.1:{fragile.ports['CRM_PORT']}", None)("GET", "/webhooks/ledger")
    ).json["keys"]
    assert told[f"{made}.1"]["accepted"] == 1

    await eventually(lambda: came_back(fragile, client, before), within_s=60, what="new API processes")
    assert not await offered(client, slot)
    again = await client.book(wish, key=key)
    assert (again.status, again.json["appointment_id"]) == (201, made)
    assert again.headers["Idempotent-Replayed"] == "true"
    await fragile.verify()


async def test_a_worker_that_is_killed_is_replaced_and_loses_no_event(fragile: Stack, client: Client) -> None:
    starts = await client.starts()
    (worker,) = fragile.pids("cli worker")
    fragile.kill(worker)
    made = [(await client.book(booking(start))).json["appointment_id"] for start in starts[40:50]]
    await eventually(lambda: fragile.pids("cli worker") not in ([], [worker]), within_s=60, what="a new worker")
    for appointment in made:
        await eventually(lambda name=appointment: heard(fragile, name, "crm"), within_s=60, what="the CRM hearing")
    died = [line for line in log_lines(fragile.log()) if line["event"] == "child_died"]
    assert worker in [line["pid"] for line in died]
