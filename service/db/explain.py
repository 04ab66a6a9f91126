"""What the record holds against a slot: absences, daily limits and appointments, coach by coach, no contact named."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from service.db.connection import Database


class HindranceStore:
    """Reads what keeps coaches from a slot, their hours apart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_slot(
        self,
        org: int,
        local_days: Mapping[int, date],
        slot: tuple[datetime, datetime],
        occupied: tuple[datetime, datetime],
    ) -> dict[int, set[str]]:
        """Everything that keeps each column of `local_days` from a slot, as Postgres sees it at one moment.

        `local_days`: the date of the start in the zone of each coach, on which it would count; `slot` and `occupied`
        (with buffers) are `[start, end)`. Words: time_off, external_busy, daily_limit, appointment (its own time meets
        the slot's), buffer (only buffers are in the way). Raises Unavailable.
        """
        found: dict[int, set[str]] = {}
        rows = await self._database.fetch(
            "hindrances", org, list(local_days), list(local_days.values()), *slot, *occupied
        )
        for row in rows:
            found.setdefault(row["coach_no"], set()).add(row["hindrance"])
        return found
