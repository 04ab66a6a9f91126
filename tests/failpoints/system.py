"""The processes of one small installation, on servers that are there: two for the API and two workers.

A process that was killed is replaced at once, as a supervisor would; one that is stopped is not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

from service.config import Settings
from service.failpoints import Step

ROOT = Path(__file__).resolve().parents[2]
API, WORKER = "api", "worker"
_STOPPED_WITHIN_S = 20.0


class System:
    """Processes that share a listening socket, a log and a folder of failpoints."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._log = folder / "processes.log"
        self._failpoints = folder / "failpoints"
        self._failpoints.mkdir()
        settings = {field.metadata["env"] for field in fields(Settings)}
        inherited = {name: value for name, value in os.environ.items() if name not in settings}
        ours = {"ENVIRONMENT": "test", "FAILPOINTS_DIR": str(self._failpoints), "PYTHONPATH": str(ROOT)}
        self._environment = {**inherited, **environment, **ours}
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listening.setblocking(False)
        self._running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self.killed: list[int] = []
        self.trouble: str | None = None

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def log(self) -> str:
        """What the processes wrote."""
        return self._log.read_text(errors="replace")

    def start(self, kind: str) -> None:
        """One process more."""
        socket_fd = self._listening.fileno()
        words = ["api-process", "--fd", str(socket_fd)] if kind == API else ["worker"]
        with self._log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", *words],
                env=self._environment,
                cwd=self._folder,
                pass_fds=(socket_fd,) if kind == API else (),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        self._running[process.pid] = (kind, process)

    async def tend(self) -> None:
        """Replace what was killed, again and again; a process that ended in any other way is `trouble`."""
        while True:
            for pid, (kind, process) in list(self._running.items()):
                if process.poll() is None:
                    continue
                del self._running[pid]
                if process.returncode != -signal.SIGKILL:
                    self.trouble = f"{kind} ended with {process.returncode}:\n{self.log()[-4000:]}"
                self.killed.append(pid)
                self.start(kind)
            await asyncio.sleep(0.02)

    def arm(self, step: Step, text: str) -> None:
        """Let the next process that comes by the step do what the text says."""
        for old in self._failpoints.iterdir():
            old.unlink()
        draft = self._failpoints / "draft"
        draft.write_text(text)
        draft.rename(self._failpoints / step)

    def hit(self) -> int | None:
        """The number of the process that came by, None as long as nobody did."""
        for found in self._failpoints.iterdir():
            if found.suffix:
                return int(found.suffix[1:])
        return None

    def go_on(self, pid: int) -> None:
        """Let a stopped process continue."""
        os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """End everything, by force what does not listen."""
        for _, process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        for _, process in self._running.values():
            try:
                process.wait(_STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._listening.close()


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP took effect on the process."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def running(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[System]:
    """A system while the block lasts."""
    system = System(folder, environment)
    try:
        for kind in (API, API, WORKER, WORKER):
            system.start(kind)
        tending = asyncio.ensure_future(system.tend())
        try:
            yield system
        finally:
            tending.cancel()
    finally:
        await asyncio.to_thread(system.end)
