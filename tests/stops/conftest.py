"""Commands of ours as processes on the test's servers, and a look into the tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.config import Settings
from tests.servers import folder_of_its_own

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., "Process"]


class Process:
    """A `booking` command, its log in a file."""

    def __init__(self, command: str, environment: Mapping[str, str], folder: Path) -> None:
        self._log = folder / f"{command}.log"
        with self._log.open("wb") as out:
            self.started = subprocess.Popen(
                [sys.executable, "-m", "service.cli", command],
                cwd=folder,
                env=dict(environment),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )

    def log(self) -> str:
        """What it and its children wrote."""
        return self._log.read_text(errors="replace")

    def children(self) -> list[Path]:
        """Where the kernel shows those it has started, for as long as they are there."""
        pid = self.started.pid
        return [Path("/proc", child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """Starts a command on the test's servers, with more settings; what still runs at the end is killed."""
    known = {field.metadata["env"] for field in fields(Settings)}
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    running: list[Process] = []
    with folder_of_its_own() as folder:

        def begin(command: str, **knobs: object) -> Process:
            chosen = {
                "DATABASE_URL": settings.database_url,
                "REDIS_URL": settings.redis_url,
                "REDIS_TIMEOUT_MS": settings.redis_timeout_ms,
                "DATA_DIR": folder,
                "PYTHONPATH": ROOT,
                **knobs,
            }
            running.append(Process(command, {**inherited, **{k: str(v) for k, v in chosen.items()}}, folder))
            return running[-1]

        yield begin
        for process in running:
            process.started.kill()
            process.started.wait()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    """A connection to look into the tables with."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
