"""Who asks: the organization a key belongs to, what it may do, and the thread its doings are found by."""

from __future__ import annotations

import msgspec

from service.claims.messages import Rate
from service.errors import Forbidden


class Caller(msgspec.Struct, frozen=True):
    """One authenticated request's identity; `actor` is what its events say of who did it."""

    org: int
    actor: str
    scopes: frozenset[str]
    rate: Rate
    correlation_id: str

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key has `scope` (read, write or admin; admin includes nothing by itself)."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope!r}", details={"required_scope": scope})
