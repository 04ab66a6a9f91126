"""API keys in Postgres, by the hash of the key; the key itself is never stored."""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

import msgspec
import uuid_utils

from service.db.connection import Database


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key: its organization, scopes, limit a window (None: the setting decides, 0: none) and source."""

    org: int
    key_id: UUID
    name: str
    scopes: frozenset[str]
    rate_limit: int | None
    source: str
    validated_at: datetime
    revoked: bool


def hash_of(key: str) -> bytes:
    """What is stored of a key. Keys are long random strings, so one round of SHA-256 is not guessable backwards."""
    return hashlib.sha256(key.encode()).digest()


class KeyStore:
    """Finds and adds keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: str) -> KeyRecord | None:
        """The record of a key, revoked or not; None when it was never stored."""
        row = await self._database.first("find_key", hash_of(key))
        if row is None:
            return None
        return KeyRecord(
            org=row["org_id"],
            key_id=UUID(int=row["key_id"].int),
            name=row["name"],
            scopes=frozenset(row["scopes"]),
            rate_limit=row["rate_limit"],
            source=row["source"],
            validated_at=row["validated_at"],
            revoked=row["revoked_at"] is not None,
        )

    async def add(
        self, org: int, key: str, name: str, scopes: frozenset[str], rate_limit: int | None, source: str = "local"
    ) -> UUID:
        """Store a key (again: its scopes and limit are replaced); returns its id."""
        key_id = UUID(int=uuid_utils.uuid7().int)
        rows = await self._database.write(
            "add_key", org, key_id, hash_of(key), name, sorted(scopes), rate_limit, source
        )
        return UUID(int=rows[0]["key_id"].int)

    async def revoke(self, key: str) -> None:
        """Forget a key that the auth service no longer knows."""
        await self._database.write("revoke_key", hash_of(key))
