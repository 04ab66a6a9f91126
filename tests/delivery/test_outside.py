"""Calls outward take a bounded time and say what happened; secrets stay out of what they say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.errors import Unavailable
from service.mocks.auth import build_auth
from service.mocks.chance import Behaviour
from service.mocks.server import serving
from service.outside.auth_service import AuthService, KeyFacts
from service.outside.breaker import Breaker, BreakerState
from service.outside.calendar_api import AlreadyBlocked, Blocked, CalendarApi, NotDone, Released
from service.outside.http import Attempt, attempt
from tests.delivery.bench import NOWHERE, Recorder, answering
from tests.servers import eventually

Answer = Callable[[web.Request], Any]
# For what is answered at once, however long the machine stands still.
PATIENT_S = 60.0


class MovedTime:
    """A monotonic clock that stands still until moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def replying(status: int, **more: Any) -> web.Application:
    """An application that always gives the same answer."""

    async def reply(_: web.Request) -> web.Response:
        return web.Response(status=status, **more)

    return answering(reply)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"all is well", "all is well"),
        (b'{"error":\n  "not today"}', '{"error": "not today"}'),
        (b"a\x00b\x1b[31mc\x7f  d", "a b [31mc d"),
        ("\u202egood\u00a0bye\u2028".encode() + b"\xff", "good bye \ufffd"),
    ],
)
def test_what_was_answered_is_told_in_one_line_that_prints(body: bytes, line: str) -> None:
    made = Attempt(status=500, body=body)
    assert (made.excerpt, made.why) == (line, f"HTTP 500: {line}")
    assert made.excerpt.isprintable()


# A kilobyte of it is deeper than is gone into.
DEEP = b'{"x":' + b"[" * 1015


async def test_an_answer_that_is_nested_too_deep_says_nothing(session: aiohttp.ClientSession) -> None:
    async with serving(replying(503, body=DEEP)) as url:
        made = await attempt(session, "POST", url, body={}, timeout_s=PATIENT_S)
    assert (made.status, made.retry_after_ms, made.json()) == (503, None, {})
    async with serving(replying(200, body=DEEP)) as url:
        with pytest.raises(Unavailable):
            await AuthService(url, session, PATIENT_S).validate("secret-key")
        with pytest.raises(Unavailable):
            await CalendarApi(url, session, PATIENT_S).settings("coach-1")


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession) -> None:
    visited: list[str] = []

    async def reply(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with serving(answering(reply)) as url:
        made = await attempt(session, "POST", f"{url}/here", body={}, timeout_s=PATIENT_S)
    assert visited == ["/here"]
    assert made.status == 307
    assert not made.succeeded
    assert not made.refused


async def test_proxies_of_the_environment_are_not_used(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", NOWHERE)
    async with serving(replying(204)) as url:
        assert (await attempt(session, "GET", url, timeout_s=PATIENT_S)).status == 204


async def test_silence_ends_at_the_timeout(session: aiohttp.ClientSession) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with serving(answering(hang)) as url:
        began = time.monotonic()
        made = await attempt(session, "GET", url, timeout_s=0.2)
    assert time.monotonic() - began >= 0.2
    assert made.status is None
    assert made.why == "no answer within 0.2 s"
    assert made.unwell
    assert made.duration_s >= 0.2


async def test_an_endless_answer_is_cut_off(session: aiohttp.ClientSession) -> None:
    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=int(request.path[1:]))
        await response.prepare(request)
        while True:
            await response.write(b"x" * 4096)

    async with serving(answering(pour)) as url:
        refused = await attempt(session, "GET", f"{url}/400", timeout_s=PATIENT_S, most_bytes=10_000)
        answered = await attempt(session, "GET", f"{url}/200", timeout_s=PATIENT_S, most_bytes=10_000)
    assert (refused.status, len(refused.body)) == (400, 10_000)
    assert len(refused.why) < 1100
    assert answered.status is None
    assert answered.why == "the answer is longer than 10000 bytes"


@pytest.mark.parametrize("status", [200, 410])
async def test_an_answer_that_breaks_off_counts_where_nobody_reads_it(
    session: aiohttp.ClientSession, status: int
) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"thank you")
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(answering(break_off)) as url:
        unread = await attempt(session, "POST", url, timeout_s=PATIENT_S, cut=True)
        read = await attempt(session, "POST", url, timeout_s=PATIENT_S)
    assert (unread.status, unread.body) == (status, b"thank you")
    assert (read.status, read.why) == (None, "no connection: ClientPayloadError")


async def test_an_answer_without_an_end_counts_where_nobody_reads_it(session: aiohttp.ClientSession) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"thank you")
        await asyncio.sleep(60)
        return response

    async def begun() -> bool:  # where the machine stands still for longer, not even that has come in time
        nonlocal unread
        unread = await attempt(session, "POST", url, timeout_s=0.2, cut=True)
        return bool(unread.body)

    unread = Attempt(status=None)
    async with serving(answering(stall)) as url:
        await eventually(begun, what="the beginning of an answer")
        read = await attempt(session, "POST", url, timeout_s=0.2)
    assert (unread.status, unread.body) == (200, b"thank you")
    assert (read.status, read.why) == (None, "no answer within 0.2 s")


async def test_nobody_listening_names_no_url(session: aiohttp.ClientSession) -> None:
    made = await attempt(session, "GET", f"{NOWHERE}/?token=secret", timeout_s=PATIENT_S)
    assert made.status is None
    assert made.why == "no connection: ClientConnectorError"


@pytest.mark.parametrize(
    ("status", "refused", "unwell"),
    [
        (400, True, False),
        (404, True, False),
        (408, False, False),
        (409, False, False),
        (422, True, False),
        (425, False, False),
        (429, False, True),
        (500, False, True),
        (503, False, True),
    ],
)
async def test_which_answers_are_final_and_which_mean_trouble(
    session: aiohttp.ClientSession, status: int, refused: bool, unwell: bool
) -> None:
    async with serving(replying(status)) as url:
        made = await attempt(session, "GET", url, timeout_s=PATIENT_S)
    assert (made.succeeded, made.refused, made.unwell) == (False, refused, unwell)


@pytest.mark.parametrize(
    ("more", "low", "high"),
    [
        ({"headers": {"Retry-After": "7"}}, 7000, 7000),
        ({"headers": {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(days=1))}}, 43_200_000, 86_400_000),
        ({"headers": {"Retry-After": format_datetime(datetime(2020, 1, 1, tzinfo=UTC))}}, 0, 0),
        ({"text": '{"error": "x", "retry_after": 2.5}'}, 2500, 2500),
        ({"headers": {"Retry-After": "3"}, "text": '{"retry_after": 9}'}, 3000, 3000),
        ({"text": "busy"}, None, None),
        ({"text": '{"retry_after": -1}'}, None, None),
        ({"headers": {"Retry-After": "soon"}}, None, None),
        ({"headers": {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}}, None, None),
    ],
)
async def test_the_wait_asked_for_is_read_from_header_or_body(
    session: aiohttp.ClientSession, more: dict[str, Any], low: int | None, high: int | None
) -> None:
    async with serving(replying(503, **more)) as url:
        made = await attempt(session, "GET", url, timeout_s=PATIENT_S)
    if low is None or high is None:
        assert made.retry_after_ms is None
    else:
        assert made.retry_after_ms is not None
        assert low <= made.retry_after_ms <= high


def test_a_breaker_opens_after_failures_in_a_row_and_closes_after_a_good_probe() -> None:
    clock = MovedTime()
    breaker = Breaker(failures=3, pause_s=5, monotonic=clock)
    for unwell in (True, True, False, True, True):
        assert breaker.admits()
        breaker.learn(unwell=unwell)
    assert breaker.state is BreakerState.CLOSED
    breaker.failed()
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits()
    clock.now += 4
    assert breaker.wait_s == 1
    clock.now += 1
    assert breaker.state is BreakerState.HALF_OPEN
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert breaker.state is BreakerState.OPEN
    clock.now += 5
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert all(breaker.admits() for _ in range(3))


def test_a_probe_that_never_reported_does_not_close_the_service_off_for_ever() -> None:
    clock = MovedTime()
    breaker = Breaker(failures=1, pause_s=5, monotonic=clock)
    breaker.failed()
    clock.now += 5
    assert breaker.admits()
    clock.now += 4.9
    assert not breaker.admits()
    clock.now += 0.2
    assert breaker.admits()


def test_a_probe_that_was_not_made_leaves_its_turn_to_the_next() -> None:
    clock = MovedTime()
    breaker = Breaker(failures=1, pause_s=5, monotonic=clock)
    breaker.not_made()
    assert breaker.state is BreakerState.CLOSED
    breaker.failed()
    breaker.not_made()
    assert breaker.state is BreakerState.OPEN, "a call from before it opened was no probe"
    clock.now += 5
    assert breaker.admits()
    breaker.not_made()
    assert [breaker.admits() for _ in range(2)] == [True, False]
    breaker.failed()
    assert breaker.state is BreakerState.OPEN


async def test_the_auth_service_says_what_a_key_may_do(session: aiohttp.ClientSession) -> None:
    async with serving(build_auth(Behaviour.calm())) as url:
        auth = AuthService(url, session, PATIENT_S)
        assert await auth.validate("prod-key-789") == KeyFacts(
            key_type="production", scopes=frozenset({"read", "write", "admin"}), rate_limit=1000
        )
        assert await auth.validate("test-key-123") == KeyFacts(
            key_type="test", scopes=frozenset({"read", "write"}), rate_limit=100
        )
        assert await auth.validate("nobody's key") is None


@pytest.mark.parametrize(
    ("status", "body", "calls"),
    [
        (500, "{}", 2),
        (503, '{"retry_after": 50}', 1),
        (429, '{"valid": false, "retry_after": 40}', 1),
        (404, "{}", 1),
        (200, "hello", 1),
        (200, '{"valid": "yes"}', 1),
        (200, '{"valid": true, "rate_limit": {"limit": -1}}', 1),
        (200, '{"valid": true, "rate_limit": {"limit": 0}}', 1),
        (200, '{"valid": true, "rate_limit": {"limit": 3000000000}}', 1),
        (500, "cannot look up secret-key", 2),
    ],
)
async def test_an_auth_service_that_gives_no_answer_is_unavailable_and_the_key_is_not_told(
    session: aiohttp.ClientSession, status: int, body: str, calls: int
) -> None:
    seen: list[bytes] = []

    async def reply(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return web.Response(status=status, text=body)

    began = time.monotonic()
    async with serving(answering(reply)) as url:
        with pytest.raises(Unavailable) as caught:
            await AuthService(url, session, PATIENT_S).validate("secret-key")
    assert time.monotonic() - began < 40  # no pause that was asked for is kept
    assert len(seen) == calls
    shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.message}"
    assert "secret-key" not in shown


async def test_an_auth_service_that_is_away_is_unavailable_soon(session: aiohttp.ClientSession) -> None:
    with pytest.raises(Unavailable):
        await AuthService(NOWHERE, session, PATIENT_S).validate("secret-key")


async def test_blocking_says_whether_the_time_was_blocked_before(session: aiohttp.ClientSession) -> None:
    start = datetime(2026, 3, 2, 15, tzinfo=UTC)
    answers = [(200, {"block_id": "b1"}), (409, {"error": "Slot already blocked"}), (503, {}), (200, {})]
    recorder = Recorder(lambda _path, _body: answers.pop(0))
    async with serving(recorder.app) as url:
        calendar = CalendarApi(url, session, PATIENT_S)
        results = [
            await calendar.block("a/b c", start, start + timedelta(minutes=30), correlation_id="c") for _ in range(4)
        ]
    kinds = [type(result) for result in results]
    assert kinds == [Blocked, AlreadyBlocked, NotDone, Blocked]
    assert [result.block_id for result in results if isinstance(result, Blocked)] == ["b1", None]
    assert recorder.seen[0][2] == {"start_time": "2026-03-02T15:00:00Z", "end_time": "2026-03-02T15:30:00Z"}
    assert len(recorder.seen) == 4


async def test_a_block_the_calendar_does_not_know_any_more_is_released(session: aiohttp.ClientSession) -> None:
    answers = [(200, {"success": True}), (404, {}), (409, {}), (503, {})]
    recorder = Recorder(lambda _path, _body: answers.pop(0))
    async with serving(recorder.app) as url:
        calendar = CalendarApi(url, session, PATIENT_S)
        results = [await calendar.release("coach-1", "b1", correlation_id="c") for _ in range(4)]
    assert [type(result) for result in results] == [Released, Released, Released, NotDone]


async def test_a_question_is_asked_again_and_an_unknown_coach_is_no_error(session: aiohttp.ClientSession) -> None:
    slot = {"start_time": "2026-03-02T10:00:00-05:00", "end_time": "2026-03-02T10:30:00-05:00"}
    answers: list[tuple[int, dict[str, Any]]] = [
        (503, {"retry_after": 0}),
        (500, {}),
        (200, {"timezone": "America/New_York", "slots": [slot]}),
        (404, {}),
        (200, {"blocked_dates": ["2026-12-25"], "working_hours": {}}),
        (200, {"slots": [{"start_time": "no time", "end_time": "none"}]}),
    ]
    recorder = Recorder(lambda _path, _body: answers.pop(0))
    async with serving(recorder.app) as url:
        calendar = CalendarApi(url, session, PATIENT_S)
        found = await calendar.availability("coach-1", 7)
        assert found is not None
        assert [s.start_time for s in found.slots] == [datetime(2026, 3, 2, 15, tzinfo=UTC)]
        assert await calendar.settings("coach-1") is None
        settings = await calendar.settings("coach-1")
        assert settings is not None
        assert [str(day) for day in settings.blocked_dates] == ["2026-12-25"]
        with pytest.raises(Unavailable, match="not what we expect"):
            await calendar.availability("coach-1", 7)
    assert answers == []


async def test_a_calendar_that_keeps_failing_is_unavailable_after_a_few_tries(
    session: aiohttp.ClientSession,
) -> None:
    recorder = Recorder(lambda _path, _body: (503, {"error": "down", "retry_after": 0}))
    async with serving(recorder.app) as url:
        with pytest.raises(Unavailable, match="HTTP 503"):
            await CalendarApi(url, session, PATIENT_S).settings("coach-1")
    assert len(recorder.seen) == 4
