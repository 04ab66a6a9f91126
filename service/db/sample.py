"""The sample data of the challenge: six coaches, three calendars, three keys, in the organization `demo`.

Loaded once: where the organization exists already nothing is touched, whatever was changed since.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import uuid_utils

from service.db.connection import Database
from service.db.keys import hash_of
from service.db.rosters import DefaultSlot

_COACHES = [
    ("coach-1", "Alice Johnson", "alice@example.com", 850_000),
    ("coach-2", "Bob Smith", "bob@example.com", 720_000),
    ("coach-3", "Carol Davis", "carol@example.com", 900_000),
    ("coach-4", "David Wilson", "david@example.com", 650_000),
    ("coach-5", "Eve Martinez", "eve@example.com", 580_000),
    ("coach-6", "Frank Thompson", "frank@example.com", 780_000),
]
_ZONE = "America/New_York"
_WORKDAYS = range(5)
_HOURS = (9 * 60, 17 * 60)
_DAILY_LIMIT = 10
_CALENDARS = [
    ("cal-1", "Sales Consultation", 30, ["coach-1", "coach-2", "coach-3", "coach-5", "coach-6"]),
    ("cal-2", "Technical Interview", 45, ["coach-2", "coach-4", "coach-6"]),
    ("cal-3", "Quick Check-in", 15, ["coach-1", "coach-3"]),
]
_INTERVAL = 15
_KEYS = [
    ("test-key-123", "test", ["read", "write"], 100),
    ("dev-key-456", "development", ["read", "write"], 500),
    ("prod-key-789", "production", ["read", "write", "admin"], 1000),
]
SAMPLE_ORGANIZATION = "demo"


async def load_sample(database: Database, usual: DefaultSlot) -> bool:
    """Load the sample data in one transaction, with the usual notice, horizon and buffer; False when it was there.

    Raises Unavailable.
    """
    async with database.transaction() as connection:
        org = await connection.fetchval(
            "INSERT INTO organizations (name) VALUES ($1) ON CONFLICT DO NOTHING RETURNING org_id",
            SAMPLE_ORGANIZATION,
        )
        if org is None:
            return False
        columns: dict[str, int] = {}
        for column, (coach_id, name, email, score) in enumerate(_COACHES):
            columns[coach_id] = column
            await connection.execute(
                "INSERT INTO coaches (org_id, coach_no, coach_id, name, email, timezone, score, max_daily_appointments)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                *(org, column, coach_id, name, email, _ZONE, score, _DAILY_LIMIT),
            )
            await connection.executemany(
                "INSERT INTO weekly_windows (org_id, coach_no, weekday, start_minute, end_minute)"
                " VALUES ($1, $2, $3, $4, $5)",
                [(org, column, weekday, *_HOURS) for weekday in _WORKDAYS],
            )
        for number, (calendar_id, name, minutes, team) in enumerate(_CALENDARS, 1):
            await _add_calendar(connection, usual, org, number, calendar_id, name, minutes)
            await connection.executemany(
                "INSERT INTO calendar_coaches (org_id, calendar_no, coach_no) VALUES ($1, $2, $3)",
                [(org, number, columns[coach_id]) for coach_id in team],
            )
        await connection.executemany(
            "INSERT INTO api_keys (org_id, key_id, key_hash, name, scopes, rate_limit) VALUES ($1, $2, $3, $4, $5, $6)",
            [
                (org, UUID(int=uuid_utils.uuid7().int), hash_of(key), name, scopes, limit)
                for key, name, scopes, limit in _KEYS
            ],
        )
    return True


async def _add_calendar(
    connection: Any, usual: DefaultSlot, org: int, number: int, calendar_id: str, name: str, minutes: int
) -> None:
    await connection.execute(
        "INSERT INTO calendars (org_id, calendar_no, calendar_id, name, slot_duration, slot_interval, buffer_after,"
        " min_notice_minutes, max_days_ahead) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        *(org, number, calendar_id, name, minutes, _INTERVAL, usual.buffer_after),
        usual.min_notice_minutes,
        usual.max_days_ahead,
    )
