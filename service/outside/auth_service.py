"""The auth service: what a key that we do not know ourselves may do."""

from __future__ import annotations

from typing import Annotated

import aiohttp
import msgspec

from service.errors import Unavailable
from service.outside.http import UNREADABLE, Attempt, attempt
from service.outside.tries import asked

_UNKNOWN = frozenset({400, 401})
# Their permission, our scope.
_SCOPE_OF = {"read": "read", "write": "write", "delete": "admin"}
_TRIES = 2
_JITTER_S = 0.05
_HIGHEST_LIMIT = 2**31 - 1


class KeyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the auth service says of a key: its type, its scopes by our names, its requests a minute."""

    key_type: str
    scopes: frozenset[str]
    rate_limit: int | None


class _RateLimit(msgspec.Struct, frozen=True):
    # None at all is what 0 means to us, and surely not to them.
    limit: Annotated[int, msgspec.Meta(ge=1, le=_HIGHEST_LIMIT)] | None = None


class _Answer(msgspec.Struct, frozen=True):
    valid: bool
    key_type: str = "unknown"
    rate_limit: _RateLimit = _RateLimit()
    permissions: dict[str, bool] = {}


class AuthService:
    """Asks about keys. Its answers should be kept, for it limits how often it is asked."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timeout_s: float) -> None:
        self._url = f"{url.rstrip('/')}/validate"
        self._session = session
        self._timeout_s = timeout_s

    async def validate(self, key: str) -> KeyFacts | None:
        """What the key may do, or None when the auth service does not know it.

        Raises Unavailable when it does not answer, fails, limits us or says something else.
        """
        made = await asked(
            "the auth service",
            lambda: self._ask(key),
            tries=_TRIES,
            base_s=_JITTER_S,
            longest_s=_JITTER_S,
        )
        if made.status in _UNKNOWN:
            return None
        if not made.succeeded:
            raise Unavailable(f"the auth service answered HTTP {made.status}")
        try:
            answer = msgspec.json.decode(made.body, type=_Answer)
        except UNREADABLE:
            raise Unavailable("the auth service answered something we do not understand") from None
        if not answer.valid:
            return None
        return KeyFacts(
            key_type=answer.key_type,
            scopes=frozenset(ours for theirs, ours in _SCOPE_OF.items() if answer.permissions.get(theirs)),
            rate_limit=answer.rate_limit.limit,
        )

    async def _ask(self, key: str) -> Attempt:
        made = await attempt(self._session, "POST", self._url, body={"api_key": key}, timeout_s=self._timeout_s)
        # What it says of its trouble may repeat the key, and would stand in the log.
        return made if made.succeeded else msgspec.structs.replace(made, body=b"")
