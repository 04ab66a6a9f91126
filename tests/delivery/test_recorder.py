"""What came of attempts is written down together, and by itself only where nothing else is under way."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from msgspec.structs import replace

from service.db.deliveries import DeliveryRecord
from service.delivery import recorder as recording
from service.delivery.recorder import DeliveryRecorder
from service.delivery.stream import Stream
from service.delivery.under_way import UnderWay
from service.domain.event import EventRef
from service.mocks.server import serving
from tests.delivery.bench import Bench, Recorder
from tests.servers import eventually


def _record(bench: Bench, appointment: dict[str, Any], destination: str) -> DeliveryRecord:
    return DeliveryRecord(
        ref=EventRef(bench.org, appointment["appointment_id"], 1),
        destination=destination,
        state="delivered",
        attempts=1,
        status=200,
        error=None,
        reference=None,
    )


async def test_a_record_waits_for_the_attempts_under_way_of_any_destination_and_for_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "GATHERING_S", 3600.0)
    store = bench.services.deliveries
    (appointment,) = await bench.book(1)
    with patch.object(store, "record", wraps=store.record) as record, ExitStack() as others:
        recorder = DeliveryRecorder(store, bench.services.chance)
        others.enter_context(recorder.attempt())
        first = asyncio.ensure_future(recorder.record(_record(bench, appointment, "crm")))
        await asyncio.sleep(0.05)
        assert not first.done()
        others.close()
        await asyncio.gather(first, recorder.record(_record(bench, appointment, "calendar-blocks")))
        assert record.call_count == 1
        await recorder.record(_record(bench, appointment, "notifications"))
        assert record.call_count == 2
    found = [await bench.deliveries(name) for name in ("crm", "calendar-blocks", "notifications")]
    assert [[row["state"] for row in rows] for rows in found] == [["delivered"]] * 3


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
async def test_of_two_attempts_at_one_delivery_written_down_together_the_delivered_one_counts(
    bench: Bench, order: tuple[int, ...]
) -> None:
    """Redis was emptied during an attempt, and the sweeper enqueued its event anew; or a replay was asked for in it."""
    one, other = await bench.book(2)
    delivered = replace(_record(bench, one, "crm"), reference="crm-7")
    failed = replace(delivered, state="retrying", status=503, error="HTTP 503", reference=None)
    old = replace(_record(bench, other, "crm"), state="dead", attempts=12, reference="crm-8")
    replayed = replace(old, state="retrying", replays=1, attempts=2, reference=None)
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts, replays)"
        " VALUES ($1, $2, 1, 'crm', 'pending', 0, 1)",
        bench.org,
        UUID(other["appointment_id"]),
    )
    records = [delivered, failed, old, replayed]
    await bench.services.deliveries.record([records[place] for place in order])
    rows = {str(row["appointment_id"]): row for row in await bench.deliveries("crm")}
    told, again = rows[one["appointment_id"]], rows[other["appointment_id"]]
    assert (told["state"], told["reference"], told["last_error"]) == ("delivered", "crm-7", None)
    assert (again["state"], again["attempts"], again["reference"]) == ("retrying", 2, "crm-8")


async def test_the_attempts_of_a_crowd_share_commits_and_calls(bench: Bench) -> None:
    """Half are to be tried again: they are put off together, too."""
    asked: Counter[str] = Counter()

    def answer(_path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        asked[body["appointment_id"]] += 1
        again = asked[body["appointment_id"]] == 1 and len(asked) % 2
        return (409, {"error": "not now"}) if again else (200, {"crm_id": "c"})

    recorder = Recorder(answer)
    store, scripts = bench.services.deliveries, bench.services.scripts
    await bench.book(60)
    with (
        patch.object(store, "record", wraps=store.record) as record,
        patch.object(scripts, "finish_entry", wraps=scripts.finish_entry) as finish,
        patch.object(scripts, "retry_later", wraps=scripts.retry_later) as later,
    ):
        async with serving(recorder.app) as crm, bench.worker(crm=crm):

            async def delivered() -> bool:
                return await bench.left("crm") == (0, 0, 0) and len(asked) == 60

            await eventually(delivered, what="everything delivered")
    rows = await bench.deliveries("crm")
    assert Counter(row["state"] for row in rows) == {"delivered": 60}
    assert sum(row["attempts"] for row in rows) == 90
    put_off = [call for call in later.call_args_list if call.args[0] == bench.stream("crm").key]
    assert sum(len(call.args[3]) for call in put_off) == 30
    # Each by itself would be 30 calls to put off, 60 to finish, and 90 commits besides those of other destinations.
    assert len(put_off) <= 15
    assert finish.call_count <= 60
    assert record.call_count <= 45


async def test_whoever_is_done_but_for_what_is_shared_makes_room() -> None:
    going = asyncio.Event()

    async def work() -> None:
        await going.wait()

    under_way = UnderWay("test", 2, behind=1)
    for name in ("a", "b"):
        await under_way.start(name, work())
    assert (under_way.free, await under_way.room(0.01)) == (0, 0)
    under_way.make_room("a")
    assert under_way.free == 1
    await under_way.start("c", work())
    under_way.make_room("b")
    assert (under_way.free, len(under_way)) == (0, 3), "no more than one may be behind"
    waiting = asyncio.ensure_future(under_way.room(5))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    going.set()
    assert await waiting > 0
    assert await under_way.drain(1) == 0
    assert under_way.free == 2


async def test_an_entry_taken_over_from_ourselves_while_both_wait_for_a_place_is_worked_on_once() -> None:
    going, done = asyncio.Event(), list[str]()

    async def work(name: str) -> None:
        await going.wait()
        done.append(name)

    under_way = UnderWay("test", 1)
    await under_way.start("before", work("before"))
    waiting = [asyncio.ensure_future(under_way.start("an entry", work("an entry"))) for _ in range(2)]
    await asyncio.sleep(0)
    assert under_way.holds("an entry")
    going.set()
    await asyncio.gather(*waiting)
    assert await under_way.drain(5) == 0
    assert done == ["before", "an entry"]
    assert not under_way.holds("an entry")


async def test_what_is_due_of_all_streams_is_moved_in_one_call(bench: Bench) -> None:
    streams: list[Stream] = [bench.stream(name) for name in ("crm", "calendar-blocks", "notifications")]
    for number, stream in enumerate(streams):
        await stream.add(f"{number} event")
        (entry,) = await stream.read(1, 10)
        await stream.later(entry, 60_000 if number == 1 else 0, 2)
    first, *others = streams
    moved, wait_ms = await first.move_due(others, 10)
    assert moved == 2
    assert 50_000 < wait_ms <= 60_000
    assert [await bench.left(stream.name) for stream in streams] == [(1, 0, 0), (0, 0, 1), (1, 0, 0)]
