"""Servers of their own for each file, and ways to look for processes and wait for conditions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import folder_of_its_own

REPOSITORY = Path(__file__).parents[2]

POSTGRES_BINARIES = [None, *Path("/usr/lib/postgresql").glob("*/bin")]
REDIS_BINARIES = [None, *(path for path in [Path("/usr/bin/redis-server")] if path.exists())]


def wait_for(condition: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Return once `condition()` is true; fail the test after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s} s: {condition}")
        time.sleep(0.005)


def processes_on(folder: Path) -> list[str]:
    """The processes whose command line names `folder` or that work below it, except this one.

    Those that have ended and only wait to be collected do not count: they have neither.
    """
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            place = str((entry / "cwd").readlink())
        except PermissionError:
            place = ""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in words or place == str(folder) or place.startswith(f"{folder}/"):
            found.append(f"{entry.name}: {words} in {place}")
    return found


def python(program: str, *arguments: object, user: int | None = None) -> subprocess.Popen[str]:
    """A Python of its own running `program` with the repository importable, its output to be read as text."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def read_until(process: subprocess.Popen[str], word: str) -> None:
    """Read the program's output up to the line `word`; fail when it ends before."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if line.strip() == word:
            return
        lines.append(line)
    ended(process, lines)


def ended(process: subprocess.Popen[str], lines: list[str]) -> NoReturn:
    pytest.fail(f"the program ended with {process.wait()}:\n{''.join(lines)}")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with folder_of_its_own() as folder:
        yield folder


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[str]]]:
    """A list for the programs a test starts; what still runs at its end is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()  # unread: what it started may hold the other end
