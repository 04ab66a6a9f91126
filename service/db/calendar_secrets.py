"""The secrets external calendars sign their events with. They are read only to check a signature, and never shown."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

from service.db.connection import Database
from service.db.statements import statement

MOST_KEPT = 5


class CalendarSecretStore:
    """Secrets by organization."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, organization: str) -> tuple[int | None, list[bytes]]:
        """The organization of that name and its secrets, newest first; None where it has none. Raises Unavailable."""
        rows = await self._database.fetch("calendar_secrets_of", organization)
        return (rows[0]["org_id"] if rows else None), [row["secret"] for row in rows]

    async def rotate(self, org: int, secret: bytes, overlap: timedelta) -> datetime | None:
        """A new secret; the one before it counts for `overlap` longer: until when, None where there was none.

        Raises Unavailable or OutcomeUnknown.
        """
        async with self._database.transaction() as connection:
            await connection.fetch(statement("lock_organization"), org)
            retired = await connection.fetch(statement("retire_calendar_secrets"), org, overlap)
            await connection.execute(statement("add_calendar_secret"), org, uuid4(), secret)
            await connection.execute(statement("forget_calendar_secrets"), org, MOST_KEPT)
        return retired[0]["expires_at"] if retired else None
