"""Migrations are applied once, whoever starts and however many start at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from service.db import migrate as migrating
from service.db.connection import Database
from service.db.migrate import is_migrated, migrate, migration_files
from service.embedded.postgres import EmbeddedPostgres
from service.errors import Unavailable
from tests.conftest import database_named
from tests.db.rows import looking_into
from tests.servers import eventually


@pytest.fixture
async def empty_database(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"empty_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield database_named(postgres_server.url, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_two_at_once_apply_each_migration_once_and_a_third_finds_nothing(empty_database: str) -> None:
    names = [name for _, name, _ in migration_files()]
    applied = await asyncio.gather(migrate(empty_database), migrate(empty_database))
    assert sorted(applied) == [[], names]
    assert await migrate(empty_database) == []
    async with looking_into(empty_database) as sql:
        rows = await sql.fetch("SELECT number, name FROM schema_migrations ORDER BY number")
    assert [(row["number"], row["name"]) for row in rows] == [(n, name) for n, name, _ in migration_files()]


async def test_it_is_migrated_with_all_migrations_of_this_release_whatever_a_newer_one_has(empty_database: str) -> None:
    database = Database(empty_database)
    await database.open()
    assert not await is_migrated(database)
    await migrate(empty_database)
    assert await is_migrated(database)
    async with looking_into(empty_database) as sql:
        await sql.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, 'of a newer release')")
        assert await is_migrated(database)
        await sql.execute("DELETE FROM schema_migrations WHERE number = $1", migration_files()[-1][0])
    assert not await is_migrated(database)
    await database.close()


async def test_every_table_and_constraint_leads_with_the_organization(database_url: str) -> None:
    """So that the data can be distributed by it; the exceptions are an organization's own name, and one row for all."""
    async with looking_into(database_url) as sql:
        rows = await sql.fetch(
            """
            SELECT t.relname AS "table", i.relname AS index, a.attname AS first
            FROM pg_index AS x
            JOIN pg_class AS i ON i.oid = x.indexrelid
            JOIN pg_class AS t ON t.oid = x.indrelid
            JOIN pg_namespace AS n ON n.oid = t.relnamespace AND n.nspname = 'public'
            JOIN pg_attribute AS a ON a.attrelid = i.oid AND a.attnum = 1
            WHERE x.indisunique OR x.indisexclusion
            """
        )
    first = {row["index"]: row["first"] for row in rows if row["table"] != "schema_migrations"}
    others = {name for name, column in first.items() if column != "org_id"}
    assert others == {"organizations_one_per_name", "gate_pkey"}
    assert len(first) > 12


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a migration of the next release, which wants a table for itself."""
    known, name = migration_files(), "9999_one_more"
    further = [*known, (9999, name, "ALTER TABLE organizations ADD COLUMN one_more integer")]
    monkeypatch.setattr(migrating, "migration_files", lambda: further)
    return name


async def test_while_a_migration_waits_for_a_long_reader_others_go_on(
    database_url: str, one_more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup reads every table to its end; whoever came behind the migration would wait for both."""
    monkeypatch.setattr(migrating, "_PAUSE_S", 0.2)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%' AND wait_event = 'relation'"
    async with looking_into(database_url) as backup, looking_into(database_url) as sql:
        reading = backup.transaction()
        await reading.start()
        await backup.fetch("SELECT * FROM organizations")
        migration = asyncio.create_task(migrate(database_url))

        async def seen() -> bool:
            return bool(await sql.fetchval(waiting))

        await eventually(seen, what="the migration waits")
        await sql.execute("SET statement_timeout = '4s'")
        for _ in range(2):
            await sql.execute("UPDATE organizations SET roster_version = roster_version + 1")
        assert not migration.done()
        await reading.rollback()
        assert await migration == [one_more]


async def test_a_migration_that_never_gets_its_table_says_so_and_leaves_nothing(
    database_url: str, one_more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "_WAITS", 1)
    monkeypatch.setattr(migrating, "_PAUSE_S", 0)
    async with looking_into(database_url) as backup:
        async with backup.transaction():
            await backup.fetch("SELECT * FROM organizations")
            with pytest.raises(Unavailable, match=one_more):
                await migrate(database_url)
        assert await migrate(database_url) == [one_more]


async def test_a_migration_that_crosses_the_way_of_a_booking_is_tried_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a table that the other wants: Postgres ends whoever notices first, which is the migration here."""
    both = "ALTER TABLE organizations ADD COLUMN more integer; ALTER TABLE coaches ADD COLUMN more integer"
    further = [*migration_files(), (9999, "9999_both", both)]
    monkeypatch.setattr(migrating, "migration_files", lambda: further)
    monkeypatch.setattr(migrating, "_PAUSE_S", 0.1)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%' AND wait_event = 'relation'"
    async with looking_into(database_url) as other, looking_into(database_url) as sql:
        await other.execute("SET deadlock_timeout = '20s'")
        async with other.transaction():
            await other.execute("UPDATE coaches SET score = score")
            migration = asyncio.create_task(migrate(f"{database_url}&deadlock_timeout=700ms"))

            async def seen() -> bool:
                return bool(await sql.fetchval(waiting))

            await eventually(seen, what="the migration waits")
            await other.execute("UPDATE organizations SET roster_version = roster_version + 1")
        assert await migration == ["9999_both"]
