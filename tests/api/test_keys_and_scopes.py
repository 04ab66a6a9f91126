"""Who may do what: no key, a wrong one, one without the scope, and one of another organization."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.api.client import Client, assert_problem, assert_rate_headers, booking
from tests.api.stack import Stack

NOBODYS = "0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5061"
KEYED = [
    ("GET", "/api/availability"),
    ("POST", "/api/appointments"),
    ("GET", f"/api/appointments/{NOBODYS}"),
    ("DELETE", f"/api/appointments/{NOBODYS}"),
    ("POST", f"/api/appointments/{NOBODYS}/cancel"),
    ("POST", "/api/webhooks/calendar"),
    ("GET", "/api/webhooks/events/some"),
    ("GET", "/api/coaches/distribution"),
]


@pytest.mark.parametrize(("method", "path"), KEYED)
async def test_without_a_known_key_nobody_is_let_in(api: Client, method: str, path: str) -> None:
    attempts: tuple[dict[str, str], ...] = (
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "nope"},
        {"X-API-Key": "\u00fc\u20ac"},
        {"Authorization": "Bearer nope"},
        {"Authorization": "Basic dGVzdC1rZXktMTIz"},
        {"Authorization": "Bearer"},
    )
    # Together, because wrong keys of one address are answered later and later.
    nobody = api.with_key(None)
    for answer in await asyncio.gather(*(nobody(method, path, headers=headers) for headers in attempts)):
        assert_problem(answer, 401, "AUTHENTICATION_FAILED")
        assert answer.headers["WWW-Authenticate"]
        assert "X-RateLimit-Limit" not in answer.headers


@pytest.mark.parametrize("words", ["Bearer {}", "bearer {}", "BEARER  {} "])
async def test_a_bearer_token_is_a_key(api: Client, words: str) -> None:
    headers = {"Authorization": words.format(api.key)}
    answer = await api.with_key(None)("GET", "/api/availability?days=1", headers=headers)
    assert answer.status == 200
    assert_rate_headers(answer)


@pytest.mark.parametrize(("method", "path"), KEYED)
async def test_a_key_without_the_scope_is_forbidden(api: Client, stack: Stack, method: str, path: str) -> None:
    scope = "read" if method == "GET" else "write"
    others = {"read", "write", "admin"} - {scope}
    answer = await api.with_key(await stack.add_key(*others))(method, path)
    problem = assert_problem(answer, 403, "FORBIDDEN")
    assert problem["details"] == {"required_scope": scope}
    assert_rate_headers(answer)


async def test_another_organization_sees_nothing_of_ours(api: Client, stack: Stack) -> None:
    name = f"other-{uuid.uuid4().hex[:8]}"
    await stack.rows("INSERT INTO organizations (name) VALUES ($1)", name)
    made = await stack.cli("keys", "create", "--name", "o", "--scopes", "read,write", "--organization", name)
    assert made.code == 0, made.err
    stranger = api.with_key(made.out.split()[-1])
    start = (await api.starts())[70]
    key = uuid.uuid4().hex
    path = (await api.book(booking(start), key=key)).headers["Location"]

    for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/cancel")):
        assert_problem(await stranger(method, where), 404, "NOT_FOUND")
    assert_problem(await stranger.book(booking(start), key=key), 404, "NOT_FOUND")
    assert_problem(await stranger("GET", "/api/availability?calendar_id=cal-1"), 404, "NOT_FOUND")
    assert (await stranger("GET", "/api/availability")).json["slots"] == []
    assert (await stranger("GET", "/api/coaches/distribution")).json["distribution"] == []
    assert (await api("GET", path)).json["status"] == "scheduled"


async def test_a_key_of_an_unknown_organization_or_scope_is_not_made(stack: Stack) -> None:
    unknown = await stack.cli("keys", "create", "--name", "x", "--organization", "nobody")
    assert unknown.code != 0
    assert "nobody" in unknown.err
    assert (await stack.cli("keys", "create", "--name", "x", "--scopes", "fly")).code != 0
