"""The setting that is measured in: organizations whose coaches work all day every day, and keys that are counted.

Written by SQL. Nobody has asked for a new organization yet, so Redis holds nothing of it that would have to be put
right: the notes that triggers leave for the repair are taken away again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from service.db.keys import hash_of

COACHES = 200
DAYS = 28
DURATION_MIN = 30
DAILY_LIMIT = 288
CONTACTS = 5_000
# Counted at each request and never reached.
RATE_LIMIT = 1_000_000_000
CALENDAR = "all"
STARTS_A_DAY = 24 * 60 // DURATION_MIN


@dataclass(frozen=True, slots=True)
class Crowd:
    """Organizations that share a load, each with a calendar of all its coaches: their numbers, and the first's name.

    The key of each is its name with `key-` before it.
    """

    prefix: str
    orgs: tuple[int, ...]
    coaches: int

    @property
    def name(self) -> str:
        """Of the first organization."""
        return f"{self.prefix}{0:03d}"

    @property
    def key(self) -> str:
        """Of the first organization."""
        return key_of(self.name)


def key_of(organization: str) -> str:
    """An organization's API key."""
    return f"key-{organization}"


def first_midnight() -> datetime:
    """The first of the starts that are asked for: midnight (UTC) after tomorrow's notice has passed for sure."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


async def make_crowd(
    sql: Any, prefix: str, *, organizations: int = 1, coaches: int = COACHES, days_ahead: int = DAYS + 3
) -> Crowd:
    """Make `organizations` organizations named `prefix000` on, of `coaches` coaches each, bookable so far ahead."""
    async with sql.transaction():
        orgs = [await _organization(sql, f"{prefix}{n:03d}", coaches, days_ahead) for n in range(organizations)]
        await sql.execute("DELETE FROM grid_repairs WHERE org_id = ANY($1::integer[])", orgs)
    await sql.execute("ANALYZE organizations, coaches, weekly_windows, calendars, calendar_coaches, api_keys")
    return Crowd(prefix, tuple(orgs), coaches)


async def add_key(sql: Any, organization: str) -> str:
    """A key of an organization, counted and never refused."""
    key = key_of(organization)
    await sql.execute(
        "INSERT INTO api_keys (org_id, key_id, key_hash, name, scopes, rate_limit)"
        " SELECT org_id, $2, $3, 'bench', ARRAY['read', 'write', 'admin'], $4 FROM organizations WHERE name = $1"
        " ON CONFLICT DO NOTHING",
        *(organization, uuid.uuid4(), hash_of(key), RATE_LIMIT),
    )
    return key


async def _organization(sql: Any, name: str, coaches: int, days_ahead: int) -> int:
    org = await sql.fetchval("INSERT INTO organizations (name) VALUES ($1) RETURNING org_id", name)
    await sql.execute(
        "INSERT INTO coaches (org_id, coach_no, coach_id, name, email, timezone, score, max_daily_appointments)"
        " SELECT $1, n, 'coach-' || n, 'Coach ' || n, 'coach-' || n || '@example.com', 'UTC',"
        " 500000 + n * 7919 % 500000, $3 FROM generate_series(0, $2 - 1) AS n",
        *(org, coaches, DAILY_LIMIT),
    )
    await sql.execute(
        "INSERT INTO weekly_windows (org_id, coach_no, weekday, start_minute, end_minute)"
        " SELECT $1, n, d, 0, 1440 FROM generate_series(0, $2 - 1) AS n, generate_series(0, 6) AS d",
        *(org, coaches),
    )
    await sql.execute(
        "INSERT INTO calendars (org_id, calendar_no, calendar_id, name, slot_duration, slot_interval,"
        " min_notice_minutes, max_days_ahead) VALUES ($1, 1, $2, 'All coaches', $3, $3, 0, $4)",
        *(org, CALENDAR, DURATION_MIN, days_ahead),
    )
    await sql.execute(
        "INSERT INTO calendar_coaches (org_id, calendar_no, coach_no)"
        " SELECT $1, 1, n FROM generate_series(0, $2 - 1) AS n",
        *(org, coaches),
    )
    await add_key(sql, name)
    return org
