"""Worker processes that are killed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]


class Workers:
    """Some workers; `kill_one` ends one by SIGKILL and starts another."""

    def __init__(self, environment: Mapping[str, str], log: Path, chance: Random) -> None:
        self._environment = environment
        self._log = log
        self._chance = chance
        self._running: list[subprocess.Popen[bytes]] = []
        self.killed = 0

    def start(self) -> None:
        """One more."""
        with self._log.open("ab") as out:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "service.cli", "worker"],
                    env={**os.environ, "PYTHONPATH": str(ROOT), **self._environment},
                    cwd=self._log.parent,
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                )
            )

    def kill_one(self) -> None:
        """End one of them in the middle of whatever it does."""
        victim = self._running.pop(self._chance.randrange(len(self._running)))
        assert victim.poll() is None, f"a worker ended by itself:\n{self._log.read_text()[-3000:]}"
        victim.kill()
        victim.wait(10)
        self.killed += 1
        self.start()

    def end(self) -> None:
        """Tell all of them to stop."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            process.wait(20)
        self._running.clear()


@asynccontextmanager
async def working(environment: Mapping[str, str], log: Path, chance: Random, count: int) -> AsyncIterator[Workers]:
    """That many workers while the block lasts."""
    workers = Workers(environment, log, chance)
    for _ in range(count):
        workers.start()
    try:
        yield workers
    finally:
        await asyncio.to_thread(workers.end)
