"""The mock auth service: three keys, their permissions, and a limit on its own calls.

The limit is counted per key in fixed windows, the minutes of the clock. It limits calls of this service, not
what a key's holder may do elsewhere: a caller that does not cache the answers runs into it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from service.clock import Clock, SystemClock
from service.mocks.answers import answer, application, decode, unavailable
from service.mocks.chance import Behaviour, Chance

WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class Key:
    """A known API key: its type, its validations a minute, whether it may delete."""

    key_type: str
    limit: int
    may_delete: bool = False


KEYS: Mapping[str, Key] = {
    "test-key-123": Key("test", 100),
    "dev-key-456": Key("development", 500),
    "prod-key-789": Key("production", 1000, may_delete=True),
}


class Validate(msgspec.Struct, frozen=True):
    """What /validate takes; the key may stand in the `X-API-Key` header instead."""

    api_key: str | None = None


def build_auth(behaviour: Behaviour, clock: Clock | None = None) -> web.Application:
    """The auth service as an application; `clock` tells its minutes (default: the machine's)."""
    auth = _Auth(behaviour, clock or SystemClock())
    app = application("auth-service")
    app.router.add_post("/validate", auth.validate)
    return app


class _Auth:
    def __init__(self, behaviour: Behaviour, clock: Clock) -> None:
        self._behaviour = behaviour
        self._clock = clock
        self._chance = Chance(behaviour, "auth")
        self._used: dict[str, tuple[int, int]] = {}

    async def validate(self, request: web.Request) -> web.Response:
        """POST /validate: what the key may do, 400 without one, 401 unknown, 429 past its limit."""
        if self._chance.next().happens(self._behaviour.failure_rate):
            return unavailable("Auth service")
        raw = await request.read()
        body = decode(raw, Validate) if raw.strip() else Validate()
        text = body.api_key or request.headers.get("X-API-Key", "")
        if not text:
            return _invalid(400, "API key is required")
        key = KEYS.get(text)
        if key is None:
            return _invalid(401, "Invalid API key")
        now_s = self._clock.now().timestamp()
        window = int(now_s // WINDOW_S)
        used = self._use(text, window)
        ends_s = (window + 1) * WINDOW_S
        rate_limit = {
            "limit": key.limit,
            "remaining": max(0, key.limit - used),
            "reset": datetime.fromtimestamp(ends_s, UTC),
        }
        if used > key.limit:
            retry_after_s = max(1, math.ceil(ends_s - now_s))
            return _invalid(429, "Rate limit exceeded", retry_after=retry_after_s, rate_limit=rate_limit)
        return answer(
            {
                "valid": True,
                "key_type": key.key_type,
                "rate_limit": rate_limit,
                "permissions": {"read": True, "write": True, "delete": key.may_delete},
            }
        )

    def _use(self, key: str, window: int) -> int:
        counted_in, used = self._used.get(key, (window, 0))
        used = used + 1 if counted_in == window else 1
        self._used[key] = (window, used)
        return used


def _invalid(status: int, error: str, **more: object) -> web.Response:
    return answer({"valid": False, "error": error, **more}, status)
