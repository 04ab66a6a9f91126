"""The promise: commands find a running `booking up` and only a running one, and there is one on a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.embedded import DataDirLock, RunFile
from service.embedded.leftover import started_at
from service.errors import ConfigurationError
from tests.embedded.conftest import python, read_until


def _run_file(pid: int, pid_started_at: int) -> RunFile:
    return RunFile(
        database_url="postgresql://postgres@/scheduling_db?host=/run/sockets",
        redis_url="unix:///tmp/sockets/redis.sock",
        api_url="http://127.0.0.1:3000",
        calendar_api_url="http://127.0.0.1:3001",
        crm_webhook_url="http://127.0.0.1:3002",
        auth_service_url="http://127.0.0.1:3003",
        pid=pid,
        pid_started_at=pid_started_at,
    )


def test_what_a_living_supervisor_wrote_is_read_back_and_private(tmp_path: Path) -> None:
    written = _run_file(os.getpid(), started_at(os.getpid()) or 0)
    written.write(tmp_path)
    assert RunFile.read(tmp_path) == written
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_by_default_it_names_the_process_that_writes_it(tmp_path: Path) -> None:
    fields: dict[str, Any] = {name: "" for name in RunFile.__struct_fields__ if not name.startswith("pid")}
    assert RunFile(**fields).pid_started_at == started_at(os.getpid()) is not None


def test_the_file_of_a_supervisor_that_is_gone_says_nothing(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = started_at(gone.pid)
    assert born is not None
    _run_file(gone.pid, born).write(tmp_path)
    assert RunFile.read(tmp_path) is not None
    gone.communicate(b"\n")
    assert RunFile.read(tmp_path) is None


def test_the_file_of_a_supervisor_whose_number_somebody_else_has_now_says_nothing(tmp_path: Path) -> None:
    _run_file(os.getpid(), (started_at(os.getpid()) or 0) - 1).write(tmp_path)
    assert RunFile.read(tmp_path) is None


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json"])
def test_no_file_and_a_broken_file_say_nothing(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    assert RunFile.read(tmp_path) is None
    RunFile.remove(tmp_path)
    RunFile.remove(tmp_path)


def test_two_cannot_hold_one_folder_and_the_killed_holder_lets_go(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "new" / "data"
    program = "import sys, time; from pathlib import Path; from service.embedded import DataDirLock\n"
    holder = python(f"{program}with DataDirLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)", folder)
    programs.append(holder)
    read_until(holder, "held")
    with pytest.raises(ConfigurationError, match=r"^DATA_DIR: .*in use by another"), DataDirLock(folder):
        pass
    holder.kill()
    holder.wait()
    with DataDirLock(folder), pytest.raises(ConfigurationError), DataDirLock(folder):
        pass
    with DataDirLock(folder):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match=r"^DATA_DIR: cannot create"),
        DataDirLock(tmp_path / "file" / "data"),
    ):
        pass
