"""The promise: an embedded Postgres keeps what was written, whatever ended it, and disturbs nobody else."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres
from service.embedded.account import unprivileged_account
from service.embedded.folders import open_socket_folder, socket_folder
from service.errors import ConfigurationError, Unavailable
from tests.embedded.conftest import POSTGRES_BINARIES, folder_of_its_own, processes_on, python, wait_for


@pytest.fixture(scope="module", params=POSTGRES_BINARIES, ids=lambda path: path.parent.name if path else "wheel")
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    with folder_of_its_own() as folder:
        postgres = EmbeddedPostgres(folder, binaries=request.param)
        postgres.start()
        _query(postgres.url, "CREATE TABLE kept (word text)")
        yield postgres
        postgres.stop()
        assert processes_on(folder) == []


@pytest.fixture
def running(server: EmbeddedPostgres) -> EmbeddedPostgres:
    server.start()
    return server


def _query(url: str, sql: str, *values: object) -> list[asyncpg.Record]:
    async def query() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(sql, *values)
        finally:
            await connection.close()

    return asyncio.run(query())


def _keep(url: str, word: str) -> None:
    _query(url, "INSERT INTO kept VALUES ($1)", word)


def _kept(url: str) -> set[str]:
    return {row["word"] for row in _query(url, "SELECT word FROM kept")}


def test_a_stop_and_a_start_keep_what_was_written(running: EmbeddedPostgres) -> None:
    _keep(running.url, "before the stop")
    running.stop()
    assert not running.alive()
    running.start()
    assert "before the stop" in _kept(running.url)


# Busy without waiting for anything: its backend never notices the death of its server.
_BUSY = """
import asyncio, asyncpg, sys
async def work():
    connection = await asyncpg.connect(sys.argv[1])
    await connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")
asyncio.run(work())
"""


def test_a_killed_server_starts_again_although_its_backends_still_work(
    running: EmbeddedPostgres, programs: list[subprocess.Popen[str]]
) -> None:
    _keep(running.url, "before the kill")
    programs.append(python(_BUSY, running.url))
    active = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'"
    wait_for(lambda: len(_query(running.url, active)) > 0)
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_for(lambda: not running.alive())
    assert processes_on(running._cluster.folder) != []
    running.start()
    assert "before the kill" in _kept(running.url)


def test_it_is_durable_and_can_be_reached_through_its_private_socket_only(
    running: EmbeddedPostgres,
) -> None:
    names = [
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "listen_addresses",
        "TimeZone",
        "max_connections",
    ]
    rows = _query(running.url, "SELECT name, setting FROM pg_settings WHERE name = ANY($1)", names)
    assert {row["name"].lower(): row["setting"] for row in rows} == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "timezone": "UTC",
        "max_connections": "200",
    }
    sockets = running._sockets.stat()
    assert sockets.st_mode & 0o777 == 0o700
    assert sockets.st_uid == (running._account.uid if running._account else os.geteuid())


def test_the_server_of_an_earlier_run_is_stopped_before_ours_starts(running: EmbeddedPostgres) -> None:
    _keep(running.url, "by the earlier one")
    ours = EmbeddedPostgres(running._data_dir, binaries=running._binaries)
    ours.start()
    try:
        assert not running.alive()
        assert running.exit_code == 0
        assert "by the earlier one" in _kept(ours.url)
    finally:
        ours.stop()


def test_a_pid_file_naming_somebody_else_neither_kills_them_nor_stops_the_start(
    running: EmbeddedPostgres,
) -> None:
    account = running._account
    uid = account.uid if account else None
    pid_file = running._cluster.pid_file
    _, newline, rest = pid_file.read_text().partition("\n")
    running.stop()
    # Of the server's own user, so that Postgres by itself would take it for its server.
    somebody = subprocess.Popen(["sleep", "600"], user=uid)
    try:
        pid_file.write_text(f"{somebody.pid}{newline}{rest}")
        running.start()
        assert somebody.poll() is None
        assert (_query(running.url, "SELECT 1 AS one"))[0]["one"] == 1
    finally:
        somebody.kill()
        somebody.wait()


def test_a_start_that_cannot_be_says_what_the_log_says(running: EmbeddedPostgres) -> None:
    running.stop()
    config = running._cluster.folder / "postgresql.conf"
    before = config.read_text()
    config.write_text("no_such_parameter = 1\n")
    try:
        with pytest.raises(Unavailable, match="no_such_parameter"):
            running.start()
    finally:
        config.write_text(before)
    assert processes_on(running._cluster.folder) == []


def test_an_interrupted_first_start_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path)
    steps = postgres.starting()
    wait_for(lambda: next(steps, True) or list(tmp_path.glob("postgres.new-*/base")))
    steps.close()
    postgres.stop()
    assert processes_on(tmp_path) == []
    assert not (tmp_path / "postgres").exists()
    postgres.start()
    try:
        rows = _query(postgres.url, "SELECT current_database() AS name")
        assert rows[0]["name"] == "scheduling_db"
        assert list(tmp_path.glob("postgres.new-*")) == []
    finally:
        postgres.stop()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "postgres" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("two years of work")
    if os.geteuid() == 0:
        entry = pwd.getpwnam("nobody")
        os.chown(theirs.parent, entry.pw_uid, entry.pw_gid)
    with pytest.raises(ConfigurationError, match=r"DATA_DIR: .* holds no Postgres data"):
        EmbeddedPostgres(tmp_path).start()
    assert theirs.read_text() == "two years of work"


def test_a_socket_path_stays_within_what_the_kernel_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = socket_folder(tmp_path / ("x" * 200), None)
    assert len(os.fsencode(folder / ".s.PGSQL.65535.lock")) <= 107
    assert folder != socket_folder(tmp_path / ("y" * 200), None)


def test_a_socket_folder_that_somebody_else_put_there_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "booking-trap"
    trap.symlink_to(tmp_path)
    with pytest.raises(Unavailable, match="belongs to another user"):
        open_socket_folder(trap, unprivileged_account(tmp_path / "postgres"))
    assert trap.is_symlink()


def test_a_server_that_need_not_outlive_the_machine_keeps_what_was_written_when_it_is_killed() -> None:
    with folder_of_its_own() as folder:
        postgres = EmbeddedPostgres(folder, durable=False)
        postgres.start()
        _query(postgres.url, "CREATE TABLE kept (word text)")
        assert _query(postgres.url, "SHOW fsync")[0][0] == "off"
        _keep(postgres.url, "once")
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        wait_for(lambda: not postgres.alive())
        postgres.start()
        assert _kept(postgres.url) == {"once"}
        postgres.stop()
