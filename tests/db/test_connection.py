"""Connections of the pool are handed on without being reset, so nobody may leave anything in one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.db.connection import Database, open_connection
from service.db.migrate import migrate
from service.db.statements import statements
from service.errors import OutcomeUnknown, Unavailable
from tests.db.rows import booking, committing, looking_into

_LAST = "SELECT query FROM pg_stat_activity WHERE application_name = 'booking' AND datname = current_database()"
_LEAVES_SOMETHING = re.compile(
    r"^\s*(SET|RESET|LISTEN|DECLARE|PREPARE|DISCARD)\b|pg_(try_)?advisory_lock|set_config|\bTEMP(ORARY)?\b",
    re.IGNORECASE | re.MULTILINE,
)


@pytest.fixture
async def database(database_url: str) -> Any:
    database = Database(database_url, most=1)
    await database.open()
    yield database
    await database.close()


async def test_a_statement_is_the_last_that_its_connection_ran(database: Database, database_url: str) -> None:
    """A reset after every use would be a roundtrip and a transaction more."""
    await database.fetch("all_organizations")
    async with looking_into(database_url) as sql:
        assert await sql.fetchval(_LAST) == statements()["all_organizations"]


async def test_what_was_left_open_is_rolled_back(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute("BEGIN")
        await connection.execute("DELETE FROM appointments")
        process = await connection.fetchval("SELECT pg_backend_pid()")
    async with database.writing() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == process
        assert not connection.is_in_transaction()


@pytest.mark.parametrize("how", ["a statement", "a transaction"])
async def test_a_standby_takes_nothing_and_the_next_write_goes_over_another_connection(
    database: Database, how: str
) -> None:
    """As after a failover that left a connection to the server that wrote before."""
    async with database.writing() as connection:
        await connection.execute("SET default_transaction_read_only = on")
    write = database.writing if how == "a statement" else database.transaction
    with pytest.raises(Unavailable) as refused:
        async with write() as connection:
            await connection.execute("DELETE FROM appointments")
    assert not isinstance(refused.value, OutcomeUnknown)
    async with write() as connection:
        await connection.execute("DELETE FROM appointments")


@pytest.mark.parametrize("code", ["53100", "53200", "53300", "53400", "58030"])
async def test_a_server_without_room_is_no_fault_of_the_request(database: Database, code: str) -> None:
    """Full disk, memory, connections, temporary files; an I/O error."""
    with pytest.raises(Unavailable) as refused:
        async with database.writing() as connection:
            await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$")
    assert not isinstance(refused.value, OutcomeUnknown)


@pytest.fixture
async def guest(database_url: str) -> AsyncIterator[str]:
    """The URL of a role that may do nothing but connect, as everybody may."""
    async with looking_into(database_url) as sql:
        await sql.execute("CREATE ROLE guest LOGIN")
        yield database_url.replace("postgres@", "guest@")
        await sql.execute("DROP ROLE guest")


async def _shut(sql: Any, url: str, why: str) -> str:
    """Keep us from the database of the URL from now on; how it is asked for then."""
    name = urlsplit(url).path.strip("/")
    match why:
        case "role":
            return url.replace("guest@", "nobody@")
        case "database":
            return url.replace("?", "_gone?")
        case "closed":
            await sql.execute("UPDATE pg_database SET datallowconn = false WHERE datname = $1", name)
        case _:
            await sql.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    return url


@pytest.mark.parametrize("why", ["role", "database", "closed", "taken"])
async def test_a_server_that_does_not_let_us_in_is_one_that_is_away(database_url: str, guest: str, why: str) -> None:
    """A password that is being changed, a database that is being restored: neither is a fault of the request."""
    async with looking_into(database_url) as sql:
        url = await _shut(sql, guest, why)
    database = Database(url)
    await database.open()
    try:
        for asked in (
            database.fetch("all_organizations"),
            database.write("forget_repairs", timedelta(1)),
            open_connection(url),
            migrate(url),
        ):
            with pytest.raises(Unavailable):
                await asked
        async with committing(url) as (committer, _):
            with pytest.raises(Unavailable):
                await committer.commit(booking())
    finally:
        await database.close()


async def test_what_a_statement_may_not_is_not_the_server_that_is_away(guest: str) -> None:
    """It is a fault of the installation that a later try does not mend, so the log shall say what it is."""
    database = Database(guest)
    await database.open()
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.fetch("all_organizations")
    finally:
        await database.close()


def test_no_statement_changes_its_session() -> None:
    """`UPDATE ... SET` begins with another word; `FOR UPDATE` and the like last for a statement or a transaction."""
    found = [
        name
        for name, text in statements().items()
        if _LEAVES_SOMETHING.search(re.sub(r"^\s*SET\s+\w+\s*=", "", text, flags=re.MULTILINE))
    ]
    assert found == []
