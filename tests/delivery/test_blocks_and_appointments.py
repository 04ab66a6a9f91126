"""Every live appointment has its block in the external calendar in the end, and nothing else has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from service.db.deliveries import DeliveryRecord, DueEvent
from service.db.delivery_log import DeliveryLog
from service.delivery.destinations import CalendarDestination
from service.domain.event import EventRef
from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour
from service.mocks.server import serving
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from service.outside.calendar_api import CalendarApi
from tests.delivery.bench import Bench, Recorder
from tests.delivery.test_sweeper import sweeper
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

COACH = "coach-1"
BLOCKS = "calendar-blocks"


class Trouble:
    """What a mock calendar answers instead of its own: a status to `block` and to `release`, while it is set.

    408 is tried again, and opens no breaker.
    """

    def __init__(self, *, ends_after: int = 0, **statuses: int) -> None:
        """`ends_after` so many answers all is well again, with 0 when `statuses` is cleared."""
        self.statuses = statuses
        self._left = ends_after

    @property
    def app(self) -> web.Application:
        """The mock calendar with this trouble."""

        @web.middleware
        async def between(request: web.Request, handler: Handler) -> web.StreamResponse:
            word = request.path.rsplit("/", 1)[1].partition("-")[0]
            if word in self.statuses:
                answer = web.json_response({"error": "no"}, status=self.statuses[word])
                self._left -= 1
                if not self._left:
                    self.statuses.clear()
                return answer
            return await handler(request)

        app = build_calendar(Behaviour.calm())
        app.middlewares.append(between)
        return app


async def at(bench: Bench, start: datetime, person: int = 0) -> dict[str, Any]:
    """An appointment with the coach."""
    one = wish(start, coach_id=COACH, person=person)
    answer = await bench.services.book(one, caller(bench.org), RateSeen())
    await bench.services.gate.drain()
    return orjson.loads(answer.body)


async def move(bench: Bench, appointment: dict[str, Any], start: datetime) -> None:
    """Move an appointment of the coach."""
    await bench.services.move(
        bench.org,
        UUID(appointment["appointment_id"]),
        MoveWish(start_time=start, coach_id=COACH),
        actor="tests",
        correlation_id="corr-4",
    )
    await bench.services.gate.drain()


async def live(bench: Bench, calendar: str) -> list[datetime]:
    """The starts that are blocked."""
    blocks = (await bench.get(f"{calendar}/blocks"))["blocks"]
    return sorted(datetime.fromisoformat(one["start_time"]) for one in blocks if one["released_at"] is None)


def states(bench: Bench, *wanted: str) -> Callable[[], Awaitable[bool]]:
    """Whether the deliveries stand so, by appointment and sequence."""

    async def look() -> bool:
        return [row["state"] for row in await bench.deliveries(BLOCKS)] == list(wanted)

    return look


def blocked(bench: Bench, calendar: str, *wanted: datetime) -> Callable[[], Awaitable[bool]]:
    """Whether these starts are blocked and no others."""

    async def look() -> bool:
        return await live(bench, calendar) == sorted(wanted)

    return look


def record(ref: EventRef, **more: Any) -> DeliveryRecord:
    """What came of an attempt at a block."""
    fields: dict[str, Any] = {
        "state": "delivered",
        "attempts": 1,
        "status": None,
        "error": None,
        "reference": None,
    }
    return DeliveryRecord(ref=ref, destination=BLOCKS, **{**fields, **more})


async def test_a_409_is_asked_about_again_before_it_is_believed(bench: Bench) -> None:
    """The calendar answers it by chance too, where nothing is blocked."""
    async with serving(Trouble(block=409, ends_after=2).app) as calendar, bench.worker(calendar=calendar):
        (appointment,) = await bench.book(1)
        await eventually(states(bench, "delivered"), what="a block")
        assert await live(bench, calendar) == [datetime.fromisoformat(appointment["start_time"])]
    assert [row["attempts"] for row in await bench.deliveries(BLOCKS)] == [3]


async def test_who_books_a_time_before_its_block_is_released_has_one_in_the_end(bench: Bench) -> None:
    trouble = Trouble(release=408)
    async with serving(trouble.app) as calendar, bench.worker(calendar=calendar):
        start = (await free_starts(bench.services, bench.org))[4]
        first = await at(bench, start)
        await eventually(states(bench, "delivered"), what="a block")
        await bench.cancel(first)
        await eventually(states(bench, "delivered", "retrying"), what="a release that fails")
        second = await at(bench, start, person=1)
        await eventually(states(bench, "delivered", "retrying", "delivered"), what="the second booking told")
        trouble.statuses.clear()
        await eventually(states(bench, "delivered", "delivered", "delivered"), what="the release")
        await eventually(blocked(bench, calendar, start), what="a block of the second booking")
        await bench.cancel(second)
        await eventually(blocked(bench, calendar), what="nothing blocked")


async def test_two_appointments_that_change_places_are_both_blocked(bench: Bench) -> None:
    trouble = Trouble()
    async with serving(trouble.app) as calendar, bench.worker(calendar=calendar):
        one, two, three = (await free_starts(bench.services, bench.org))[4:12:3]
        first, second = await at(bench, one), await at(bench, two, person=1)
        await eventually(blocked(bench, calendar, one, two), what="two blocks")
        trouble.statuses["release"] = 408
        await move(bench, first, three)
        await move(bench, second, one)
        await move(bench, first, two)
        await eventually(states(bench, *["delivered", "retrying", "delivered", "retrying"]), what="releases that fail")
        trouble.statuses.clear()
        await eventually(states(bench, *["delivered"] * 5), what="all told")
        await eventually(blocked(bench, calendar, one, two), what="two blocks again")


async def test_a_move_blocks_its_new_time_though_the_old_one_is_not_released(bench: Bench) -> None:
    trouble = Trouble(release=400)
    async with serving(trouble.app) as calendar, bench.worker(calendar=calendar):
        old, new = (await free_starts(bench.services, bench.org))[4:8:3]
        moved = await at(bench, old)
        await eventually(states(bench, "delivered"), what="a block")
        await move(bench, moved, new)
        await eventually(states(bench, "delivered", "dead"), what="a dead letter")
        assert await live(bench, calendar) == [old, new]
        trouble.statuses.clear()
        # The operator has it mended and asks again.
        assert (
            await DeliveryLog(bench.services.database).replay_dead(bench.org, BLOCKS, ["appointment.rescheduled"]) == 1
        )
        await eventually(states(bench, "delivered", "delivered"), what="the replay's end")
        assert await live(bench, calendar) == [new]
        await bench.cancel(moved)
        await eventually(states(bench, "delivered", "delivered", "delivered"), what="the cancellation told")
        assert await live(bench, calendar) == []


async def test_what_is_released_is_not_released_again_when_the_block_after_it_fails(bench: Bench) -> None:
    """A calendar may well refuse to release what it has released."""
    trouble = Trouble()
    async with serving(trouble.app) as calendar, bench.worker(calendar=calendar):
        old, new = (await free_starts(bench.services, bench.org))[4:8:3]
        moved = await at(bench, old)
        await eventually(states(bench, "delivered"), what="a block")
        trouble.statuses["block"] = 408
        await move(bench, moved, new)
        await eventually(states(bench, "delivered", "retrying"), what="a block that fails")
        trouble.statuses = {"release": 400}
        await eventually(states(bench, "delivered", "delivered"), what="a block")
        assert await live(bench, calendar) == [new]


async def test_a_release_that_overtakes_the_record_of_a_409_has_the_block_made_anew(bench: Bench) -> None:
    """The 409 was said before the release, and is written down after it."""
    start = (await free_starts(bench.services, bench.org))[4]
    left = await at(bench, start)
    await bench.cancel(left)
    booked = await at(bench, start, person=1)
    gone, here = (EventRef(bench.org, UUID(one["appointment_id"]), 1) for one in (left, booked))
    store, heard = bench.services.deliveries, CalendarDestination.types
    await store.record([record(gone, reference="b1")])
    assert await store.note_release(gone, BLOCKS, "b1", 3, heard) == []
    await store.record([record(here, state="retrying", attempts=1)])
    # Its next attempt begins after the release, and is not the last.
    assert await store.note_release(gone, BLOCKS, "b1", 3, heard) == []
    await store.record([record(here, state="retrying", attempts=2)])
    assert await store.note_release(gone, BLOCKS, "b1", 3, heard) == [here.appointment_id]
    await store.record([record(here, attempts=3)])
    rows = [(row["state"], row["replays"], row["reference"]) for row in await bench.deliveries(BLOCKS)]
    assert rows == [("delivered", 0, None), ("pending", 1, None)]
    # Whoever has a block of its own needs no other.
    await store.record([record(here, reference="b2", replays=1)])
    assert await store.note_release(gone, BLOCKS, "b1", 3, heard) == []


async def test_a_replay_of_what_was_delivered_leaves_no_second_block(bench: Bench) -> None:
    """A calendar need not refuse a time it has blocked: each block is one more."""
    held: set[str] = set()

    def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path.endswith("block-slot"):
            held.add(block_id := f"b{len(recorder.seen)}")
            return 200, {"block_id": block_id}
        held.discard(body["block_id"])
        return 200, {"success": True}

    recorder = Recorder(answer)
    async with serving(recorder.app) as calendar, bench.worker(calendar=calendar):
        (appointment,) = await bench.book(1)
        await eventually(states(bench, "delivered"), what="a block")
        ref = EventRef(bench.org, UUID(appointment["appointment_id"]), 1)
        heard = await bench.services.destinations.heard(bench.org)
        assert await DeliveryLog(bench.services.database).replay(ref, BLOCKS, heard)
        await eventually(states(bench, "delivered"), what="the replay's end")
        assert len(held) == 1
        await bench.cancel(appointment)
        await eventually(states(bench, "delivered", "delivered"), what="the cancellation told")
        assert held == set()


async def test_a_block_is_known_by_its_id_whoever_recorded_the_delivery_first(bench: Bench) -> None:
    """Two workers had one entry: the second was answered 409, and wrote that down before the first wrote its block."""
    (appointment,) = await bench.book(1)
    ref = EventRef(bench.org, UUID(appointment["appointment_id"]), 1)

    await bench.services.deliveries.record([record(ref)])
    await bench.services.deliveries.record([record(ref, reference="b1")])
    (row,) = await bench.deliveries(BLOCKS)
    assert (row["state"], row["reference"], row["attempts"]) == ("delivered", "b1", 1)


async def test_a_replay_that_two_workers_make_keeps_the_id_of_its_block(bench: Bench) -> None:
    """Both saw the block of before; the slower one is told that it is gone, and that the time is blocked."""
    (appointment,) = await bench.book(1)
    ref, s = EventRef(bench.org, UUID(appointment["appointment_id"]), 1), bench.services
    await s.deliveries.record([record(ref, reference="b1")])
    await bench.sql("UPDATE deliveries SET state = 'pending', attempts = 0, replays = 1")
    answers = iter([(200, {}), (200, {"block_id": "b2"}), (404, {}), (409, {})])
    async with serving(Recorder(lambda _path, _body: next(answers)).app) as url:
        calendar = CalendarDestination(
            CalendarApi(url, bench.session, 2),
            s.deliveries,
            s.roster_store,
            attempts=12,
            chance=s.chance,
        )
        due = (await s.deliveries.load([ref], BLOCKS, calendar.types))[ref]
        assert isinstance(due, DueEvent)
        made = await calendar.tell(due)
        await s.deliveries.record([record(ref, reference=made.reference, replays=1)])
        slower = await calendar.tell(due)
        await s.deliveries.record([record(ref, state="retrying", reference=slower.reference, replays=1)])
    (row,) = await bench.deliveries(BLOCKS)
    assert (row["state"], row["reference"]) == ("delivered", "b2")


async def test_only_coaches_the_calendar_knows_are_blocked(bench: Bench) -> None:
    """A coach of another organization may have the id of one it knows; an older release enqueued its events too."""
    await bench.sql("UPDATE organizations SET name = 'another' WHERE org_id = $1", bench.org)
    (appointment,) = await bench.book(1)
    await bench.cancel(appointment)
    assert await bench.left(BLOCKS) == (0, 0, 0)
    event = f"{bench.org} {UUID(appointment['appointment_id']).hex}"
    await bench.stream(BLOCKS).add_all([(f"{event} 1", 1), (f"{event} 2", 1)])
    async with serving(build_calendar(Behaviour.calm())) as calendar, bench.worker(calendar=calendar):
        await eventually(states(bench, "delivered", "delivered"), what="two deliveries")
        assert (await bench.get(f"{calendar}/blocks"))["blocks"] == []


async def test_what_the_calendar_was_not_told_of_holds_nothing_up_that_came_later(bench: Bench) -> None:
    """It came to know the organization later. Else it is an older release that enqueued only what it changed itself."""
    await bench.sql("UPDATE organizations SET name = 'another' WHERE org_id = $1", bench.org)
    moved, cancelled = await bench.book(2)
    await sweeper(bench)()
    await bench.sql("UPDATE organizations SET name = 'demo' WHERE org_id = $1", bench.org)
    roster = await bench.services.rosters.get(bench.org)
    await bench.services.rosters.refresh(bench.org, roster)
    start = (await free_starts(bench.services, bench.org))[-1]
    await move(bench, moved, start)
    await bench.cancel(cancelled)
    async with serving(build_calendar(Behaviour.calm())) as calendar, bench.worker(calendar=calendar):
        await eventually(states(bench, "delivered", "delivered"), what="two deliveries")
        assert await live(bench, calendar) == [start]
