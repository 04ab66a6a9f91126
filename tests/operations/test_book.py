"""Booking through the operation: one claim, one row, one answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from unittest.mock import patch
from uuid import UUID

import orjson
import pytest
from msgspec.structs import replace

from service.app import Services, open_services
from service.claims import gate
from service.config import Settings
from service.errors import IdempotencyKeyReused, SlotUnavailable
from service.operations.book import Booked
from service.operations.local_rates import RateSeen
from tests.operations import steps
from tests.wishes import caller, free_starts, wish


async def test_an_idle_team_gives_its_first_booking_to_its_best_coach(services: Services, org: int) -> None:
    start = (await free_starts(services, org))[5]
    booked = await services.book(wish(start), caller(org), RateSeen())
    body = orjson.loads(booked.body)
    assert body["coach_id"] == "coach-3"
    assert body["status"] == "scheduled"


async def test_one_start_is_given_once_to_each_coach_and_then_refused(services: Services, org: int) -> None:
    start = (await free_starts(services, org))[5]
    answers = await asyncio.gather(
        *(services.book(wish(start, person=n), caller(org), RateSeen()) for n in range(100)), return_exceptions=True
    )
    assert Counter(type(a) for a in answers) == {Booked: 5, SlotUnavailable: 95}
    assert len({orjson.loads(a.body)["coach_id"] for a in answers if isinstance(a, Booked)}) == 5
    lost = next(a for a in answers if isinstance(a, SlotUnavailable))
    assert len(lost.details["alternatives"]) == 3


async def test_a_cancellation_takes_back_exactly_what_its_booking_gave(services: Services, org: int) -> None:
    starts = await free_starts(services, org)
    for number in range(3):
        await services.book(wish(starts[number], person=number), caller(org), RateSeen())
    before = await services.grid.deficits(org, 6)
    booked = await services.book(wish(starts[3], person=3), caller(org), RateSeen())
    assert await services.grid.deficits(org, 6) != before
    await services.change.cancel(org, UUID(booked.appointment_id), reason=None, actor="tests", correlation_id="corr-1")
    assert await services.grid.deficits(org, 6) == before


async def test_one_key_books_once_and_its_answer_outlives_redis(services: Services, org: int) -> None:
    start = (await free_starts(services, org))[5]
    request = wish(start, idempotency_key="one", fingerprint="a" * 32)
    answers = await asyncio.gather(*(services.book(request, caller(org), RateSeen()) for _ in range(20)))
    assert len({a.body for a in answers}) == 1
    assert sum(not a.replayed for a in answers) == 1
    with pytest.raises(IdempotencyKeyReused):
        await services.book(replace(request, stands_for=lambda: "b" * 32), caller(org), RateSeen())
    await services.redis.flushall()
    again = await services.book(request, caller(org), RateSeen())
    assert again.replayed
    assert again.body == answers[0].body


async def test_claims_gather_while_a_commit_is_under_way_and_go_when_it_is_done(
    settings: Settings, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CLAIMS_GATHER_S", 3600.0)
    async with open_services(settings) as services:
        org = await services.roster_store.organization("demo")
        assert org is not None
        starts = await free_starts(services, org)

        def book(number: int) -> asyncio.Future[Booked]:
            return asyncio.ensure_future(
                services.book(wish(starts[20 + number], person=number), caller(org), RateSeen())
            )

        await book(0)
        await services.gate.drain()
        async with steps.commits_held(sql):
            first = book(1)
            await steps.a_commit_waits(sql)
            others: list[asyncio.Future[Booked]] = []
            for number in (2, 3, 4):
                others.append(book(number))
                await asyncio.sleep(0.02)
            assert len(await services.grid.pending()) == 1
            scripts = services.gate._scripts
            watched = patch.object(scripts, "claim_slot", wraps=scripts.claim_slot)
            claim_slot = watched.start()
        await asyncio.gather(first, *others)
        watched.stop()
        assert [len(call.args[2]) for call in claim_slot.call_args_list] == [3]
