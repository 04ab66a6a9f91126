"""The external calendar is blocked where we have appointments, and freed by the id it gave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from service.db.deliveries import DueEvent
from service.db.delivery_log import DeliveryLog
from service.delivery.destinations import CalendarDestination, Outcome
from service.domain.event import Event, EventRef, EventType
from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour
from service.mocks.server import serving
from service.outside.calendar_api import CalendarApi
from tests.delivery.bench import Bench, Recorder
from tests.servers import eventually


async def test_a_booking_blocks_and_a_cancellation_releases_that_very_block(bench: Bench) -> None:
    async with serving(build_calendar(Behaviour.calm())) as calendar, bench.worker(calendar=calendar):
        kept, cancelled = await bench.book(2)
        await eventually(_blocked(bench, calendar, 2), what="two blocks")
        await bench.cancel(cancelled)
        await eventually(_blocked(bench, calendar, 1), what="one block less")
        books = await bench.get(f"{calendar}/blocks")
    rows = {(str(row["appointment_id"]), row["sequence"]): row for row in await bench.deliveries("calendar-blocks")}
    by_id = {block["block_id"]: block for block in books["blocks"]}
    (freed,) = (block for block in books["blocks"] if block["released_at"] is not None)
    assert rows[cancelled["appointment_id"], 1]["reference"] in {freed["block_id"], None}
    assert freed["coach_id"] == cancelled["coach_id"]
    assert datetime.fromisoformat(freed["start_time"]) == datetime.fromisoformat(cancelled["start_time"])
    assert by_id[rows[kept["appointment_id"], 1]["reference"]]["released_at"] is None
    assert books["unknown_releases"] == []


async def test_a_time_blocked_already_counts_as_delivered_and_nothing_is_released(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (409, {"error": "Slot already blocked"}))
    async with serving(recorder.app) as calendar, bench.worker(calendar=calendar):
        (appointment,) = await bench.book(1)
        await bench.cancel(appointment)

        async def told() -> bool:
            return len(await bench.deliveries("calendar-blocks")) == 2

        await eventually(told, what="two deliveries")
    rows = await bench.deliveries("calendar-blocks")
    ends = [(row["state"], row["reference"], row["attempts"]) for row in rows]
    assert ends == [("delivered", None, 3), ("delivered", None, 1)]
    assert recorder.paths == [f"/coaches/{appointment['coach_id']}/block-slot"] * 3


async def test_a_moved_appointment_is_released_under_its_old_coach_and_blocked_under_the_new(
    bench: Bench,
) -> None:
    answers: dict[str, Any] = {
        "release-slot": (503, {"error": "not now"}),
        "block-slot": (200, {"block_id": "b2"}),
    }
    recorder = Recorder(lambda path, _body: answers[path.rsplit("/", 1)[1]])
    due = DueEvent(
        event=Event(
            ref=EventRef(1, UUID(int=7), 2),
            type=EventType.REASSIGNED,
            occurred_at=datetime.now(UTC),
            actor="tests",
            correlation_id="corr-9",
            reason=None,
            data=orjson.dumps(
                {
                    "appointment_id": str(UUID(int=7)),
                    "coach_id": "coach-2",
                    "contact_id": str(UUID(int=8)),
                    "start_time": "2026-03-10T10:00:00-04:00",
                    "end_time": "2026-03-10T10:30:00-04:00",
                    "status": "scheduled",
                }
            ),
        ),
        delivered=False,
        must_wait=False,
        earlier_reference="b1",
        earlier_coach_id="coach 1",
    )
    async with serving(recorder.app) as url:
        destination = CalendarDestination(
            CalendarApi(url, bench.session, 2.0),
            bench.services.deliveries,
            bench.services.roster_store,
            attempts=12,
            chance=bench.services.chance,
        )
        failed = await destination.tell(due)
        assert (failed.outcome, failed.unwell) == (Outcome.FAILED, True)
        # Nothing is blocked anew while the old time could not be released.
        assert recorder.paths == ["/coaches/coach 1/release-slot"]
        answers["release-slot"] = (200, {"success": True})
        told = await destination.tell(due)
    assert (told.outcome, told.reference) == (Outcome.DELIVERED, "b2")
    assert [(path, body) for path, _, body in recorder.seen[1:]] == [
        ("/coaches/coach 1/release-slot", {"block_id": "b1"}),
        (
            "/coaches/coach-2/block-slot",
            {"start_time": "2026-03-10T14:00:00Z", "end_time": "2026-03-10T14:30:00Z"},
        ),
    ]
    assert recorder.seen[1][1]["X-Correlation-ID"] == "corr-9"


def _blocked(bench: Bench, calendar: str, count: int) -> Any:
    async def ask() -> bool:
        return (await bench.get(f"{calendar}/blocks"))["blocked"] == count

    return ask


async def test_a_replay_of_what_was_cancelled_since_blocks_nothing(bench: Bench) -> None:
    refusing = Recorder(lambda _path, _body: (400, {"error": "no"}))
    async with serving(refusing.app) as calendar, bench.worker(calendar=calendar):
        (appointment,) = await bench.book(1)
        await eventually(_states(bench, "dead"), what="a dead delivery")
        await bench.cancel(appointment)
        await eventually(_states(bench, "dead", "delivered"), what="nothing to release")
    log = DeliveryLog(bench.services.database)
    assert await log.replay_dead(bench.org, "calendar-blocks", ["appointment.created"]) == 1
    async with serving(build_calendar(Behaviour.calm())) as calendar, bench.worker(calendar=calendar):
        await eventually(_states(bench, "delivered", "delivered"), what="the replay's end")
        assert (await bench.get(f"{calendar}/blocks"))["blocks"] == []


async def test_a_replay_of_what_still_counts_blocks(bench: Bench) -> None:
    refusing = Recorder(lambda _path, _body: (400, {"error": "no"}))
    async with serving(refusing.app) as calendar, bench.worker(calendar=calendar):
        await bench.book(1)
        await eventually(_states(bench, "dead"), what="a dead delivery")
    log = DeliveryLog(bench.services.database)
    assert await log.replay_dead(bench.org, "calendar-blocks", ["appointment.cancelled"]) == 0
    assert await log.replay_dead(bench.org, "calendar-blocks", ["appointment.created"]) == 1
    async with serving(build_calendar(Behaviour.calm())) as calendar, bench.worker(calendar=calendar):
        await eventually(_blocked(bench, calendar, 1), what="a block")


def _states(bench: Bench, *wanted: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return [row["state"] for row in await bench.deliveries("calendar-blocks")] == list(wanted)

    return look
