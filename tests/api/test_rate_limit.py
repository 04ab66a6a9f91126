"""A key's requests are counted together, whichever process they reach, and each answer says how it stands."""

from __future__ import annotations

import time
from collections import Counter

from tests.api.client import (
    RATE_HEADERS,
    Answer,
    Client,
    all_at_once,
    assert_problem,
    assert_rate_headers,
    booking,
    until_redis_is_asked,
)
from tests.api.stack import RATE_WINDOW_MS, Stack, window_is_over
from tests.servers import eventually

LIMIT = 100
PATH = "/api/availability?calendar_id=cal-3&days=1"


async def at_the_start_of_a_window(limited: Client) -> float:
    """Spend the first request of a window of the key; when it was sent."""
    sent = 0.0

    async def begun() -> bool:
        nonlocal sent
        sent = time.monotonic()
        answer = await limited("GET", PATH)
        return answer.headers["X-RateLimit-Remaining"] == str(LIMIT - 1)

    await eventually(begun, what="a new window")
    return sent


async def test_the_101st_request_of_a_window_is_refused_and_the_next_window_goes_on(api: Client, stack: Stack) -> None:
    await until_redis_is_asked(api)
    limited = api.with_key("test-key-123")
    start = (await api.starts("cal-3"))[0]
    answers, writes = list[Answer](), list[Answer]()
    began = float("-inf")
    while window_is_over(began):
        began = await at_the_start_of_a_window(limited)
        # Many connections at once, so that both processes answer.
        answers = await all_at_once(limited("GET", PATH) for _ in range(LIMIT + 9))
        writes = [await limited.book(booking(start, "cal-3")), await limited("POST", "/api/appointments", {"x": 1})]

    assert Counter(answer.status for answer in answers) == {200: LIMIT - 1, 429: 10}
    left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers if answer.status == 200]
    assert sorted(left) == list(range(LIMIT - 1))
    for answer in answers:
        assert_rate_headers(answer)
        assert answer.headers["X-RateLimit-Limit"] == str(LIMIT)
        assert 0 <= int(answer.headers["X-RateLimit-Reset"]) <= RATE_WINDOW_MS / 1000
    for answer in answers:
        if answer.status == 429:
            assert_problem(answer, 429, "RATE_LIMIT_EXCEEDED")
            assert answer.headers["X-RateLimit-Remaining"] == "0"
            assert 1 <= int(answer.headers["Retry-After"]) <= RATE_WINDOW_MS / 1000
    # Writes and refused requests are no way around it.
    for answer in writes:
        assert_problem(answer, 429, "RATE_LIMIT_EXCEEDED")
    assert (await api.with_key("dev-key-456")("GET", PATH)).headers["X-RateLimit-Limit"] == "500"

    async def goes_on() -> bool:
        return (await limited("GET", PATH)).status == 200

    await eventually(goes_on, within_s=RATE_WINDOW_MS / 1000 + 5, what="the next window")


async def test_refused_requests_count_too(api: Client, stack: Stack) -> None:
    start = (await api.starts("cal-3"))[0]
    refused = [
        ("POST", "/api/appointments", {"x": 1}, 400),
        ("POST", "/api/appointments", booking(start, "cal-99"), 404),
        ("POST", "/api/appointments", {**booking(start), "notes": "x" * 70_000}, 413),
        ("GET", "/api/availability?days=0", None, 400),
        ("GET", "/api/appointments/none", None, 404),
        ("POST", "/api/webhooks/calendar", {"event_type": "x"}, 400),
    ]
    answers = list[Answer]()
    began = float("-inf")
    while window_is_over(began):
        limited = api.with_key(await stack.add_key("read", "write", limit=8))
        began = time.monotonic()
        answers = [await limited(method, path, body) for method, path, body, _ in refused]
    assert [answer.status for answer in answers] == [status for *_, status in refused]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["7", "6", "5", "4", "3", "2"]


async def test_a_key_without_a_limit_of_its_own_has_the_settings(api: Client, stack: Stack) -> None:
    usual = api.with_key(await stack.add_key("read", limit=None))
    answer = await usual("GET", PATH)
    assert [answer.headers[name] for name in RATE_HEADERS[:2]] == ["100", "99"]


async def test_a_key_without_a_limit_is_never_refused(api: Client) -> None:
    answers = await all_at_once(api("GET", PATH) for _ in range(200))
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"0"}


async def test_what_no_route_takes_is_answered_before_the_key_is_looked_at(api: Client) -> None:
    for method, path, status in (("GET", "/api/nothing", 404), ("DELETE", "/api/availability", 405)):
        answer = await api(method, path)
        assert answer.status == status
        assert not [name for name in RATE_HEADERS if name in answer.headers]
