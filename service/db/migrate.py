"""Migrations: numbered SQL files, forward only, each in a transaction, applied once.

An advisory lock makes several processes that start at once apply each file once. Whoever waits for a table keeps
everybody from it who comes later, even behind a backup that only reads: a migration waits a moment, lets them pass, and
waits again.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files
from typing import Any

import asyncpg

from service.db.connection import CROWDED, UNKNOWN, Database, open_connection
from service.errors import Unavailable

_LOCK = 0x626F6F6B  # "book"
_LONGEST_S = 600
# Well below the time for which others wait for a lock.
_LOCK_TIMEOUT_MS = 1_000
_PAUSE_S = 2.0
_WAITS = 100


def migration_files() -> list[tuple[int, str, str]]:
    """(number, name, SQL) of every migration, ascending."""
    folder = files("service.db").joinpath("migrations")
    found = [
        (int(entry.name.split("_", 1)[0]), entry.name.removesuffix(".sql"), entry.read_text())
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found)


async def migrate(url: str) -> list[str]:
    """Apply what is missing; returns the names of the migrations applied.

    Raises Unavailable; what was applied by then stays.
    """
    connection: Any = await open_connection(url)
    try:
        return await _migrate(connection)
    except (*UNKNOWN, *CROWDED) as problem:
        raise Unavailable(f"Postgres did not answer: {type(problem).__name__}") from problem
    finally:
        await connection.close()


async def _migrate(connection: Any) -> list[str]:
    applied: list[str] = []
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    # Whoever migrates beside us may take as long as a migration may.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK, timeout=_LONGEST_S + 60)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        " number integer CONSTRAINT schema_migrations_pkey PRIMARY KEY,"
        " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    present = {row["number"] for row in await connection.fetch("SELECT number FROM schema_migrations")}
    await connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
    for number, name, sql in migration_files():
        if number in present:
            continue
        await _apply(connection, number, name, sql)
        applied.append(name)
    return applied


async def _apply(connection: Any, number: int, name: str, sql: str) -> None:
    for _ in range(_WAITS):
        try:
            async with connection.transaction():
                await connection.execute(sql, timeout=_LONGEST_S)
                await connection.execute("INSERT INTO schema_migrations (number, name) VALUES ($1, $2)", number, name)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(_PAUSE_S)
        else:
            return
    raise Unavailable(f"{name} was not applied: somebody has been using its tables all the time")


async def is_migrated(database: Database) -> bool:
    """Whether every migration of this release has been applied, and maybe more. Raises Unavailable."""
    try:
        return not await database.fetch("missing_migrations", _numbers())
    except asyncpg.UndefinedTableError:  # nothing was ever migrated
        return False


@cache
def _numbers() -> list[int]:
    return [number for number, _, _ in migration_files()]
