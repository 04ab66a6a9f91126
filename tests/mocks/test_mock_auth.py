"""The mock auth service knows three keys and limits how often each may be asked about."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from service.mocks.auth import build_auth
from service.mocks.chance import Behaviour

pytestmark = pytest.mark.asyncio

CALM = Behaviour.calm()
KNOWN = [
    ("test-key-123", "test", 100, False),
    ("dev-key-456", "development", 500, False),
    ("prod-key-789", "production", 1000, True),
]


@pytest.mark.parametrize(("text", "key_type", "limit", "may_delete"), KNOWN)
async def test_a_known_key_is_described(
    serve: Any, clock: Any, text: str, key_type: str, limit: int, may_delete: bool
) -> None:
    call = await serve(build_auth(CALM, clock))
    by_body = await call("POST", "/validate", {"api_key": text})
    by_header = await call("POST", "/validate", headers={"X-API-Key": text})
    expected = {
        "valid": True,
        "key_type": key_type,
        "rate_limit": {"limit": limit, "remaining": limit - 1, "reset": "2026-03-05T15:01:00Z"},
        "permissions": {"read": True, "write": True, "delete": may_delete},
    }
    assert by_body == (200, expected)
    expected["rate_limit"]["remaining"] = limit - 2
    assert by_header == (200, expected)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"api_key":""}', b'{"api_key":null}', b'{"key":"x"}'])
async def test_no_key_is_400(serve: Any, raw: bytes) -> None:
    call = await serve(build_auth(CALM))
    assert await call("POST", "/validate", data=raw) == (
        400,
        {"valid": False, "error": "API key is required"},
    )


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"api_key":7}', b"\xff"])
async def test_a_malformed_body_is_400(serve: Any, raw: bytes) -> None:
    call = await serve(build_auth(CALM))
    status, body = await call("POST", "/validate", data=raw, headers={"X-API-Key": "test-key-123"})
    assert status == 400
    assert body["error"] == "Malformed body"


async def test_an_unknown_key_is_401(serve: Any) -> None:
    call = await serve(build_auth(CALM))
    refusal = (401, {"valid": False, "error": "Invalid API key"})
    assert await call("POST", "/validate", {"api_key": "test-key-124"}) == refusal
    assert await call("POST", "/validate", headers={"X-API-Key": "TEST-KEY-123"}) == refusal


@pytest.mark.parametrize(("text", "limit"), [(text, limit) for text, _, limit, _ in KNOWN])
async def test_past_its_limit_a_key_is_429_until_the_next_minute(serve: Any, clock: Any, text: str, limit: int) -> None:
    call = await serve(build_auth(CALM, clock))
    answers = await call.many([("POST", "/validate", {"api_key": text})] * (limit + 30))
    assert Counter(status for status, _ in answers) == {200: limit, 429: 30}
    remaining = [body["rate_limit"]["remaining"] for status, body in answers if status == 200]
    assert sorted(remaining) == list(range(limit))
    refused = next(body for status, body in answers if status == 429)
    assert (refused["valid"], refused["retry_after"]) == (False, 40)
    assert refused["error"]
    assert refused["rate_limit"] == {"limit": limit, "remaining": 0, "reset": "2026-03-05T15:01:00Z"}

    other = next(name for name, *_ in KNOWN if name != text)
    assert (await call("POST", "/validate", {"api_key": other}))[0] == 200
    clock.move(seconds=38.5)
    status, late = await call("POST", "/validate", {"api_key": text})
    assert (status, late["retry_after"]) == (429, 2)
    clock.move(seconds=1.5)
    status, fresh = await call("POST", "/validate", {"api_key": text})
    assert (status, fresh["rate_limit"]["remaining"]) == (200, limit - 1)


async def test_it_fails_when_told_to_and_health_never_does(serve: Any) -> None:
    call = await serve(build_auth(replace(CALM, failure_rate=1.0)))
    assert (await call("POST", "/validate", {"api_key": "test-key-123"}))[0] == 503
    assert await call("GET", "/health") == (200, {"status": "healthy", "service": "auth-service"})
