"""Which keys stand for bookings is kept in Postgres, every one that can be kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from service.db.deliveries import KeptAnswer
from service.delivery.idempotency_log import IdempotencyLog
from service.mocks.server import serving
from tests.delivery.bench import Bench, Recorder
from tests.servers import eventually


async def test_the_key_of_a_booking_is_kept(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        (appointment,) = await bench.book(1, idempotency_key="key-1", fingerprint="ab" * 16)

        async def done() -> bool:
            return await bench.left("idempotency") == (0, 0, 0) and bool(recorder.seen)

        await eventually(done, what="an empty idempotency stream")
    (row,) = await bench.sql("SELECT * FROM idempotency_records")
    assert (row["org_id"], row["key"], row["status"]) == (bench.org, "key-1", 201)
    assert row["fingerprint"] == bytes.fromhex("ab" * 16)
    assert str(row["appointment_id"]) == appointment["appointment_id"]
    assert row["body"] is None  # the answer is the appointment's first event


async def test_a_key_that_cannot_be_kept_is_buried_and_the_others_are_kept(bench: Bench) -> None:
    stream = bench.stream("idempotency")
    log = IdempotencyLog(bench.services.answers, random.Random(1))
    good = {"org": bench.org, "fingerprint": "00" * 16, "status": 200, "appointment_id": ""}
    rows = [
        good | {"key": "good-1"},
        good | {"key": "beyond what Postgres holds", "status": 999_999},
        {"key": "no answer", "org": bench.org},
        good | {"key": "good-2"},
        good | {"key": "good-1"},
    ]
    for row in rows:
        await bench.services.redis.xadd(stream.key, row)
    await log.take(stream, await stream.read(10, 10))
    kept = await bench.sql("SELECT key FROM idempotency_records ORDER BY key")
    assert [row["key"] for row in kept] == ["good-1", "good-2"]
    assert await bench.left("idempotency") == (0, 0, 0)
    assert len(await bench.dead("idempotency")) == 2


async def test_keys_wait_for_a_server_that_writes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover leaves a standby that reads: no reason to give a good key up."""
    stream = bench.stream("idempotency")
    save, tries = bench.services.answers.save, list[int]()

    async def counted(answers: Sequence[KeptAnswer]) -> None:
        tries.append(len(answers))
        await save(answers)

    monkeypatch.setattr(bench.services.answers, "save", counted)
    for key in ("key-1", "key-2"):
        row: dict[Any, Any] = {
            "org": bench.org,
            "key": key,
            "fingerprint": "00" * 16,
            "status": 200,
            "appointment_id": "",
        }
        await bench.services.redis.xadd(stream.key, row)
    (database,) = await bench.sql("SELECT quote_ident(current_database()) AS name")
    switch = f"ALTER DATABASE {database['name']} SET default_transaction_read_only"
    writing = await asyncpg.connect(bench.services.settings.database_url)
    await writing.execute(f"{switch} = on")
    await bench.services.database._pool.expire_connections()
    taken = asyncio.ensure_future(
        IdempotencyLog(bench.services.answers, random.Random(1)).take(stream, await stream.read(10, 10))
    )
    try:
        await eventually(lambda: len(tries) >= 3, what="a few tries")
    finally:
        await writing.execute(f"{switch} = off")
        await writing.close()
    await taken
    assert set(tries) == {2}
    assert await bench.dead("idempotency") == []
    assert {row["key"] for row in await bench.sql("SELECT key FROM idempotency_records")} == {"key-1", "key-2"}


async def test_keys_that_met_a_fault_of_ours_are_not_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = bench.stream("idempotency")

    async def broken(_: Sequence[KeptAnswer]) -> None:
        raise RuntimeError("nobody expects it")

    monkeypatch.setattr(bench.services.answers, "save", broken)
    row: dict[Any, Any] = {
        "org": bench.org,
        "key": "key-1",
        "fingerprint": "00" * 16,
        "status": 200,
        "appointment_id": "",
    }
    await bench.services.redis.xadd(stream.key, row)
    with pytest.raises(RuntimeError):
        await IdempotencyLog(bench.services.answers, random.Random(1)).take(stream, await stream.read(10, 10))
    assert await bench.left("idempotency") == (1, 1, 0)
    assert await bench.dead("idempotency") == []
