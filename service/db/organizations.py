"""Organizations in Postgres: adding one, and looking at all of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from service.db.connection import Database


class OrganizationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An organization: its integer key and name, and how many active coaches, calendars and usable keys it has."""

    org: int
    name: str
    created_at: datetime
    coaches: int
    calendars: int
    keys: int


class OrganizationStore:
    """Adds and lists organizations. Raises Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, name: str) -> OrganizationRecord | None:
        """A new organization; None when the name is taken. Raises OutcomeUnknown too."""
        rows = await self._database.write("add_organization", name)
        return _organization(rows[0]) if rows else None

    async def all(self) -> list[OrganizationRecord]:
        """Every organization, by name."""
        return [_organization(row) for row in await self._database.fetch("list_organizations")]


def _organization(row: Any) -> OrganizationRecord:
    return OrganizationRecord(
        org=row["org_id"],
        name=row["name"],
        created_at=row["created_at"],
        coaches=row["coaches"],
        calendars=row["calendars"],
        keys=row["keys"],
    )
