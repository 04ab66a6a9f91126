"""Every committed change is heard by every destination, in order, each key effective once, whatever fails."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from service.domain.event import EventRef
from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour
from service.mocks.crm import build_crm
from service.mocks.server import serving
from tests.delivery.bench import QUICK, Bench, Recorder, answering
from tests.servers import eventually


async def test_three_hundred_events_arrive_at_a_crm_that_fails_and_hangs(bench: Bench) -> None:
    crm_behaviour = Behaviour(seed=11, failure_rate=0.30, never_answer_rate=0.05, delay_scale=0.02)
    calendar_behaviour = Behaviour(seed=12, failure_rate=0.10, conflict_rate=0.05, delay_scale=0.02)
    async with (
        serving(build_crm(crm_behaviour)) as crm,
        serving(build_calendar(calendar_behaviour)) as calendar,
    ):
        async with bench.worker(crm=crm, calendar=calendar, timeout_s=0.5):
            booked = await bench.book(150)
            for appointment in booked[:100]:
                await bench.cancel(appointment)
            for appointment in booked[100:]:
                await bench.confirm(appointment)
            await eventually(bench.nothing_left, within_s=60, what="empty streams")
        ledger = (await bench.get(f"{crm}/webhooks/ledger"))["keys"]
        blocks = await bench.get(f"{calendar}/blocks")

    expected = {f"{a['appointment_id']}.{n}" for a in booked for n in (1, 2)}
    assert set(ledger) == expected
    assert {entry["accepted"] for entry in ledger.values()} == {1}
    assert {len(entry["payload_sha256"]) for entry in ledger.values()} == {1}
    assert sum(entry["refused"] for entry in ledger.values()) > 50
    assert sum(entry["abandoned"] for entry in ledger.values()) > 0
    kinds = Counter(entry["type"] for entry in ledger.values())
    assert kinds == {"appointment-created": 150, "appointment-cancelled": 100, "appointment-updated": 50}

    told = await bench.deliveries("crm")
    assert Counter(row["state"] for row in told) == {"delivered": 300}
    assert {row["reference"] for row in told} == {entry["crm_id"] for entry in ledger.values()}
    blocked = await bench.deliveries("calendar-blocks")
    assert Counter(row["state"] for row in blocked) == {"delivered": 250}
    # Every block of a cancelled appointment was released by its id, and no other was.
    assert blocks["unknown_releases"] == []
    cancelled = {a["appointment_id"] for a in booked[:100]}
    known = {row["reference"]: str(row["appointment_id"]) for row in blocked if row["reference"]}
    assert not cancelled & set(known.values())
    assert set(known) == {block["block_id"] for block in blocks["blocks"] if block["released_at"] is None}
    assert await bench.dead("crm") == []
    assert await bench.dead("calendar-blocks") == []


async def test_a_destination_hears_of_one_appointment_in_order(bench: Bench) -> None:
    heard: dict[str, list[str]] = defaultdict(list)
    refusals: Counter[str] = Counter()

    def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        appointment = body["appointment_id"]
        if path.endswith("created") and refusals[appointment] < 3:
            refusals[appointment] += 1
            return 409, {"error": "not now"}
        heard[appointment].append(path.rsplit("-", 1)[1])
        return 200, {"crm_id": "c"}

    recorder = Recorder(answer)
    async with serving(recorder.app) as crm:
        booked = await bench.book(10)
        for appointment in booked:
            await bench.confirm(appointment)
            await bench.cancel(appointment, "changed my mind")
        async with bench.worker(crm=crm):
            await eventually(lambda: sum(map(len, heard.values())) == 30, what="thirty webhooks")
    assert set(refusals.values()) == {3}
    assert list(heard.values()) == [["created", "updated", "cancelled"]] * 10
    attempts = {row["sequence"]: row["attempts"] for row in await bench.deliveries("crm")}
    # Waiting for one's turn is no attempt.
    assert attempts == {1: 4, 2: 1, 3: 1}


async def test_the_crm_is_told_exactly_what_it_expects(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"success": True, "crm_id": "crm-7"}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        (appointment,) = await bench.book(1, timezone="America/New_York")
        await bench.cancel(appointment, "ill")
        await eventually(lambda: len(recorder.seen) == 2, what="two webhooks")
    (path, headers, body), (other_path, other_headers, other_body) = recorder.seen
    assert path == "/webhooks/appointment-created"
    start, end = body.pop("start_time"), body.pop("end_time")
    assert start.endswith("Z")
    assert end.endswith("Z")
    assert not appointment["start_time"].endswith("Z")
    assert body == {
        "appointment_id": appointment["appointment_id"],
        "coach_id": appointment["coach_id"],
        "client_id": appointment["contact_id"],
    }
    assert headers["X-Idempotency-Key"] == f"{appointment['appointment_id']}.1"
    assert headers["X-Correlation-ID"] == "corr-1"
    assert other_path == "/webhooks/appointment-cancelled"
    assert other_body == {"appointment_id": appointment["appointment_id"], "reason": "ill"}
    assert other_headers["X-Idempotency-Key"] == f"{appointment['appointment_id']}.2"
    assert other_headers["X-Correlation-ID"] == "corr-2"


async def test_a_destination_that_never_answers_delays_no_other(bench: Bench) -> None:
    over = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.json_response({})

    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    async with (
        serving(recorder.app) as crm,
        serving(answering(hang)) as calendar,
        bench.worker(crm=crm, calendar=calendar, timeout_s=60),
    ):
        # More than may be under way at once, so that all places of the hanging destination are taken.
        booked = await bench.book(80)
        await eventually(lambda: len(recorder.seen) == len(booked), what="the CRM's webhooks")
        depth, pending, _ = await bench.left("calendar-blocks")
        assert depth == 80
        assert 0 < pending < 80
        over.set()


async def test_a_call_that_hangs_holds_one_place_and_delays_no_other_event(bench: Bench) -> None:
    answered: list[str] = []
    first: list[str] = []
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        key = request.headers["X-Idempotency-Key"]
        if not first:
            first.append(key)
        if key == first[0]:
            await over.wait()
        answered.append(key)
        return web.json_response({"crm_id": "c"})

    async with serving(answering(answer)) as crm, bench.worker(crm=crm, timeout_s=60):
        await bench.book(1)
        await eventually(lambda: bool(first), what="the call that hangs")
        await bench.book(30)
        await eventually(lambda: len(answered) == 30, what="the thirty others")
        assert first[0] not in answered
        over.set()


async def test_an_event_of_a_newer_version_waits_for_a_newer_worker_and_delays_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.delivery.dispatcher._WAIT_FOR_NEWER_MS", 20)
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    newer, *known = [appointment["appointment_id"] for appointment in await bench.book(6)]
    retype = "UPDATE events SET type = $1 WHERE appointment_id = $2"
    await bench.sql(retype, "appointment.praised", UUID(newer))
    looks, load = list[int](), bench.services.deliveries.load

    async def counted(refs: Sequence[EventRef], destination: str, *more: Any) -> Any:
        found = await load(refs, destination, *more)
        looks.extend(1 for ref in refs if destination == "crm" and ref.appointment_id == UUID(newer))
        return found

    monkeypatch.setattr(bench.services.deliveries, "load", counted)
    with capture_logs() as lines:
        async with serving(recorder.app) as crm, bench.worker(crm=crm):
            await eventually(lambda: len(recorder.seen) == 5, what="the webhooks of the others")
            # More often than an event may be missing, or a delivery be tried.
            await eventually(lambda: len(looks) > QUICK.attempts, what="the entry back again and again")
            assert await bench.dead("crm") == []
            said = [one for one in lines if one["event"] == "event type not known" and one["destination"] == "crm"]
            assert [one["event_type"] for one in said] == ["appointment.praised"]
            await bench.sql(retype, "appointment.created", UUID(newer))
            await eventually(lambda: len(recorder.seen) == 6, what="the webhook of a version that knows it")
    assert {headers["X-Idempotency-Key"] for _, headers, _ in recorder.seen} == {f"{one}.1" for one in [newer, *known]}
    assert {row["attempts"] for row in await bench.deliveries("crm")} == {1}


async def test_what_was_never_committed_is_never_announced(bench: Bench) -> None:
    recorder = Recorder(lambda _path, _body: (200, {"crm_id": "c"}))
    async with serving(recorder.app) as crm, bench.worker(crm=crm):
        await bench.stream("crm").add(f"{bench.org} 0192a3b4c5d67e8f9a0b1c2d3e4f5061 1")

        async def buried() -> bool:
            return len(await bench.dead("crm")) == 1

        await eventually(buried, what="a dead letter")
    (letter,) = await bench.dead("crm")
    assert "never committed" in letter["error"]
    assert letter["attempts"] == "5", "it might have been about to be committed"
    assert letter["event"] == f"{bench.org} 0192a3b4c5d67e8f9a0b1c2d3e4f5061 1"
    assert recorder.seen == []
