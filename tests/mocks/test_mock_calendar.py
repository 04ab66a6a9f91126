"""The mock calendar offers New York office hours at random, fails as often as told, and books its blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour

pytestmark = pytest.mark.asyncio

CALM = Behaviour.calm()
NEW_YORK = ZoneInfo("America/New_York")
TIMES = {"start_time": "2026-03-09T14:00:00Z", "end_time": "2026-03-09T14:30:00Z"}


def times(n: int) -> dict[str, str]:
    start = datetime(2026, 3, 9, 14, tzinfo=UTC) + timedelta(minutes=30 * n)
    return {"start_time": start.isoformat(), "end_time": (start + timedelta(minutes=30)).isoformat()}


async def test_seven_days_are_31_starts_on_each_weekday_in_new_york_hours(serve: Any, clock: Any) -> None:
    call = await serve(build_calendar(CALM, clock))
    status, body = await call("GET", "/coaches/coach-1/availability?days=7")
    assert status == 200
    assert (body["coach_id"], body["timezone"]) == ("coach-1", "America/New_York")
    assert body["generated_at"] == "2026-03-05T15:00:20Z"
    assert body["total_available"] == len(body["slots"]) == 5 * 31
    assert all(slot["available"] is True and slot["start_time"].endswith("Z") for slot in body["slots"])
    starts = [datetime.fromisoformat(slot["start_time"]).astimezone(NEW_YORK) for slot in body["slots"]]
    ends = [datetime.fromisoformat(slot["end_time"]) for slot in body["slots"]]
    assert starts == sorted(starts)
    assert {(end - start) for start, end in zip(starts, ends, strict=True)} == {timedelta(minutes=30)}
    days = {start.date() for start in starts}
    assert days == {date(2026, 3, n) for n in (5, 6, 9, 10, 11)}
    wall_clock = [f"{9 + n // 4:02d}:{n % 4 * 15:02d}" for n in range(31)]
    for day in days:
        assert [f"{start:%H:%M}" for start in starts if start.date() == day] == wall_clock


async def test_the_change_of_new_yorks_clocks_moves_the_hours_in_utc(serve: Any, clock: Any) -> None:
    call = await serve(build_calendar(CALM, clock))
    _, body = await call("GET", "/coaches/coach-1/availability?days=5")
    first_of_day = {slot["start_time"][:10]: slot["start_time"] for slot in reversed(body["slots"])}
    assert first_of_day["2026-03-06"] == "2026-03-06T14:00:00Z"
    assert first_of_day["2026-03-09"] == "2026-03-09T13:00:00Z"


async def test_today_is_the_day_in_new_york(serve: Any, clock: Any) -> None:
    clock.instant = datetime(2026, 3, 6, 2, tzinfo=UTC)
    call = await serve(build_calendar(CALM, clock))
    _, body = await call("GET", "/coaches/coach-1/availability?days=1")
    assert {slot["start_time"][:10] for slot in body["slots"]} == {"2026-03-05"}


@pytest.mark.parametrize("days", ["0", "-1", "seven", "1.5", "", "401", "²"])
async def test_days_that_are_no_number_of_days_are_400(serve: Any, days: str) -> None:
    call = await serve(build_calendar(CALM))
    status, body = await call("GET", f"/coaches/coach-1/availability?days={days}")
    assert status == 400
    assert "days" in body["error"]


async def test_about_30_percent_are_missing_drawn_anew_at_each_call(serve: Any, clock: Any, at_rate: Any) -> None:
    call = await serve(build_calendar(replace(CALM, missing_rate=0.3), clock))
    path = "/coaches/coach-1/availability?days=28"
    offers = [{s["start_time"] for s in (await call("GET", path))[1]["slots"]} for _ in range(4)]
    for offer in offers:
        assert at_rate(20 * 31 - len(offer), 20 * 31, 0.30)
    assert len({frozenset(offer) for offer in offers}) == 4


async def test_frozen_keeps_each_coachs_first_drawing(serve: Any, clock: Any, at_rate: Any) -> None:
    call = await serve(build_calendar(replace(CALM, missing_rate=0.3, frozen=True), clock))

    async def offer(coach: str, days: int) -> list[str]:
        _, body = await call("GET", f"/coaches/{coach}/availability?days={days}")
        return [slot["start_time"] for slot in body["slots"]]

    week, other = await offer("coach-1", 7), await offer("coach-2", 7)
    month = await offer("coach-1", 28)
    assert await offer("coach-1", 7) == week == month[: len(week)]
    assert other != week
    assert at_rate(20 * 31 - len(month), 20 * 31, 0.30)


async def test_one_call_in_ten_fails_and_health_never_does(serve: Any, at_rate: Any) -> None:
    call = await serve(build_calendar(replace(CALM, seed=7, failure_rate=0.10)))
    calls = [
        ("GET", "/coaches/coach-1/settings"),
        ("GET", "/coaches/coach-1/availability?days=1"),
        ("POST", "/coaches/coach-1/release-slot", {"block_id": "b"}),
    ]
    answers = await call.many([calls[n % 3] for n in range(900)])
    answers += await call.many([("POST", "/coaches/c/block-slot", times(n)) for n in range(300)])
    failed = [body for status, body in answers if status == 503]
    assert at_rate(len(failed), len(answers), 0.10)
    assert {status for status, _ in answers} == {200, 503}
    assert all(body["retry_after"] == 5 and body["error"] for body in failed)

    always = await serve(build_calendar(replace(CALM, failure_rate=1.0)))
    assert (await always("GET", "/coaches/coach-1/settings"))[0] == 503
    health = await always.many([("GET", "/health")] * 20)
    assert health == [(200, {"status": "healthy", "service": "calendar-api"})] * 20
    assert (await always("GET", "/blocks"))[0] == 200


async def test_a_block_is_booked_and_released_once(serve: Any, clock: Any) -> None:
    call = await serve(build_calendar(CALM, clock))
    status, blocked = await call("POST", "/coaches/coach-1/block-slot", TIMES)
    block_id = blocked.pop("block_id")
    assert status == 200
    assert block_id
    assert blocked == {
        "success": True,
        "coach_id": "coach-1",
        **TIMES,
        "blocked_at": "2026-03-05T15:00:20Z",
    }
    _, books = await call("GET", "/blocks")
    assert (books["blocked"], books["released"]) == (1, 0)
    assert books["blocks"][0]["block_id"] == block_id
    assert books["blocks"][0]["released_at"] is None

    released = await call("POST", "/coaches/coach-1/release-slot", {"block_id": block_id})
    clock.move(minutes=1)
    again = await call("POST", "/coaches/coach-1/release-slot", {"block_id": block_id})
    assert released == again
    assert released == (
        200,
        {
            "success": True,
            "coach_id": "coach-1",
            "block_id": block_id,
            "released_at": "2026-03-05T15:00:20Z",
        },
    )
    _, books = await call("GET", "/blocks")
    assert (books["blocked"], books["released"], books["unknown_releases"]) == (0, 1, [])


async def test_a_time_already_blocked_is_409_until_released(serve: Any) -> None:
    call = await serve(build_calendar(CALM))
    same_instants = {"start_time": "2026-03-09T10:00:00-04:00", "end_time": "2026-03-09T16:30:00+02:00"}
    _, blocked = await call("POST", "/coaches/coach-1/block-slot", TIMES)
    status, refusal = await call("POST", "/coaches/coach-1/block-slot", same_instants)
    assert status == 409
    assert refusal["error"] == "Slot already blocked"
    assert (await call("POST", "/coaches/coach-2/block-slot", TIMES))[0] == 200
    await call("POST", "/coaches/coach-1/release-slot", {"block_id": blocked["block_id"]})
    assert (await call("POST", "/coaches/coach-1/block-slot", TIMES))[0] == 200
    _, books = await call("GET", "/blocks")
    assert (books["blocked"], books["released"], books["conflicts"]) == (2, 1, 1)


async def test_of_many_at_once_for_one_time_one_block_wins(serve: Any) -> None:
    call = await serve(build_calendar(replace(CALM, delay_scale=0.1)))
    answers = await call.many([("POST", "/coaches/coach-1/block-slot", TIMES)] * 20)
    assert Counter(status for status, _ in answers) == {200: 1, 409: 19}


async def test_five_percent_of_blocks_are_409_by_chance(serve: Any, at_rate: Any) -> None:
    call = await serve(build_calendar(replace(CALM, seed=5, conflict_rate=0.05)))
    answers = await call.many([("POST", "/coaches/coach-1/block-slot", times(n)) for n in range(1000)])
    refused = [body for status, body in answers if status == 409]
    assert at_rate(len(refused), 1000, 0.05)
    _, books = await call("GET", "/blocks")
    assert books["blocked"] == 1000 - len(refused)
    assert books["conflicts"] == len(refused)


async def test_releasing_a_block_nobody_remembers_succeeds_and_shows(serve: Any) -> None:
    call = await serve(build_calendar(CALM))
    _, blocked = await call("POST", "/coaches/coach-1/block-slot", TIMES)
    assert (await call("POST", "/coaches/coach-1/release-slot", {"block_id": "lost"}))[0] == 200
    another = await call("POST", "/coaches/coach-2/release-slot", {"block_id": blocked["block_id"]})
    assert another[0] == 200
    _, books = await call("GET", "/blocks")
    assert books["unknown_releases"] == ["lost", blocked["block_id"]]
    assert books["blocked"] == 1


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("block-slot", b"{not json"),
        ("block-slot", b""),
        ("block-slot", b"[]"),
        ("block-slot", b"\xff\xfe"),
        ("block-slot", b'{"start_time":"2026-03-09T14:00:00Z"}'),
        ("block-slot", b'{"start_time":"2026-03-09T14:00:00","end_time":"2026-03-09T14:30:00"}'),
        ("block-slot", b'{"start_time":"2026-03-09T14:00:00Z","end_time":"2026-03-09T14:00:00Z"}'),
        ("block-slot", b'{"start_time":"tomorrow","end_time":"later"}'),
        ("release-slot", b"{}"),
        ("release-slot", b'{"block_id":""}'),
        ("release-slot", b'{"block_id":7}'),
    ],
)
async def test_a_malformed_body_is_400(serve: Any, path: str, raw: bytes) -> None:
    call = await serve(build_calendar(CALM))
    status, body = await call("POST", f"/coaches/coach-1/{path}", data=raw)
    assert status == 400
    assert body["error"]
    _, books = await call("GET", "/blocks")
    assert books["blocks"] == []
    assert books["unknown_releases"] == []


async def test_settings_are_the_sample_rules_of_every_coach(serve: Any) -> None:
    call = await serve(build_calendar(replace(CALM, blocked_dates=("2026-12-25",))))
    status, body = await call("GET", "/coaches/coach-3/settings")
    assert status == 200
    assert body["working_hours"] == {"start": "09:00", "end": "17:00", "timezone": "America/New_York"}
    assert body["availability_rules"] == {
        "min_notice_hours": 2,
        "max_advance_days": 30,
        "buffer_minutes": 5,
    }
    assert body["blocked_dates"] == ["2026-12-25"]
