"""What is known of a key is remembered with its connection too, and for no longer than anywhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service.app import Services
from service.db.keys import KeyRecord, KeyStore
from service.operations import authenticate
from tests.overload.door import Door, open_door

REQUEST = b"GET /api/calendars HTTP/1.1\r\nHost: x\r\nX-API-Key: mine\r\n"


@pytest.fixture
async def door(services: Services, org: int) -> AsyncIterator[Door]:
    """The API in this process, where a key is known."""
    await services.keys.add(org, "mine", "mine", frozenset({"read"}), None)
    async with open_door(services) as opened:
        yield opened


@pytest.mark.parametrize("more", [b"", b"X-Correlation-ID: %d\r\n"])
@pytest.mark.parametrize(("known_for", "looks", "after"), [(timedelta(hours=1), 1, 200), (timedelta(0), 4, 401)])
async def test_a_key_that_was_taken_back_lives_as_long_on_the_connection_it_came_by(
    door: Door,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    known_for: timedelta,
    looks: int,
    after: int,
    more: bytes,
) -> None:
    looked, find = 0, KeyStore.find

    async def counted(self: KeyStore, key: str) -> KeyRecord | None:
        nonlocal looked
        looked += 1
        return await find(self, key)

    monkeypatch.setattr(KeyStore, "find", counted)
    monkeypatch.setattr(authenticate, "KNOWN_FOR", known_for)
    talk = await door.talk()
    statuses: list[int] = []
    for number in range(4):
        if number == 3:
            sql: Any = await asyncpg.connect(database_url)
            await sql.execute("UPDATE api_keys SET revoked_at = now() WHERE name = 'mine'")
            await sql.close()
        line = more % number if more else more
        statuses.append((await talk.say(REQUEST, line, b"\r\n").hear()).status)
    assert statuses == [200, 200, 200, after]
    assert looked == looks
