"""The data folder of Postgres: made whole or not at all, and what its pid file says.

initdb and the creation of the database work on a neighbouring folder that is renamed at the very end, so a
start that was broken off, by a signal or the power, leaves nothing that looks like data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from service.embedded.account import Account
from service.embedded.folders import ServerLog
from service.embedded.leftover import processes_titled
from service.embedded.process import OwnedProcess, Steps
from service.errors import ConfigurationError, Unavailable

DATABASE = "scheduling_db"
SUPERUSER = "postgres"

_STATUS_LINE = 7  # of postmaster.pid, counted from 0 (pidfile.h, LOCK_FILE_LINE_PM_STATUS)
_NO_PROCESS = 2**31 - 1  # larger than any process number the kernel gives out


class Cluster:
    """Postgres' data in `folder`, used with `binaries` as `account`; what they say goes to `log`."""

    def __init__(self, folder: Path, binaries: Path, account: Account | None, log: ServerLog) -> None:
        self.folder = folder
        self.pid_file = folder / "postmaster.pid"
        self._binaries = binaries
        self._account = account
        self._log = log
        self._at_work: OwnedProcess | None = None

    def program(self, name: str) -> str:
        return str(self._binaries / name)

    def environment(self) -> Mapping[str, str]:
        """Ours without Postgres' own variables (PGPORT, PGDATA … change a server), messages in English."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))} | {"LC_ALL": "C"}

    def making(self, deadline: float) -> Steps:
        """The steps of making the folder and the database in it, if not there; until `deadline` (monotonic).

        Raises Unavailable with the log's last lines, ConfigurationError when something else is in the place.
        """
        if (self.folder / "PG_VERSION").exists():
            return
        for rest in self.folder.parent.glob(f"{self.folder.name}.new-*"):
            shutil.rmtree(rest, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.new-", dir=self.folder.parent))
        if self._account:
            os.chown(made, self._account.uid, self._account.gid)
        # C: the same order of texts on every machine. Trust: only who may enter the socket's folder can try.
        initdb = [
            "--username",
            SUPERUSER,
            "--auth=trust",
            "--locale=C",
            "--encoding=UTF8",
            "--data-checksums",
        ]
        yield from self._run([self.program("initdb"), "-D", str(made), *initdb], "", made, deadline)
        single = [self.program("postgres"), "--single", "-D", str(made), "-c", "exit_on_error=on", "postgres"]
        yield from self._run(single, f"CREATE DATABASE {DATABASE}\n", made, deadline)
        try:
            made.rename(self.folder)
        except OSError:
            raise ConfigurationError(f"DATA_DIR: {self.folder} exists but holds no Postgres data") from None

    def breaking_off(self) -> Steps:
        """The steps of ending a `making` under way."""
        if self._at_work:
            yield from self._at_work.stopping(())
            self._at_work = None

    def supports(self, parameter: str) -> bool:
        """Whether this build of Postgres accepts `name=value`."""
        command = [self.program("postgres"), "-C", "port", "-D", str(self.folder), "-c", parameter]
        done = subprocess.run(  # noqa: S603 - our own binary and words
            command, env=self.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        return done.returncode == 0

    def title(self) -> str:
        """The name its processes carry in their titles: of this very folder, and seen by every user."""
        found = self.folder.stat()
        return f"booking-{found.st_dev:x}-{found.st_ino:x}"

    def ending_orphans(self) -> Steps:
        """The steps of ending backends whose server is dead; call only when no server of this folder runs.

        Nobody else would: one in a long query notices nothing, and until it ends no server starts again.
        """
        if self.folder.exists():
            beginning = f"postgres: {self.title()}: "
            while orphans := processes_titled(beginning):
                for pid in orphans:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                yield

    def ready(self, pid: int) -> bool:
        """Whether the server with this process number says that it takes connections."""
        try:
            lines = self.pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == "ready"

    def forget_pid(self) -> None:
        """Make the pid file of a dead server name no process; call only when no server of this folder runs.

        Postgres refuses to start while the number in the file is alive, and after a crash that number may be
        somebody else's. The file stays: by its line on shared memory Postgres notices orphaned backends.
        """
        with contextlib.suppress(FileNotFoundError):
            _, newline, rest = self.pid_file.read_text().partition("\n")
            self.pid_file.write_text(f"{_NO_PROCESS}{newline}{rest}")

    def _run(self, command: list[str], input_text: str, cwd: Path, deadline: float) -> Steps:
        reading, writing = os.pipe()
        output = self._log.open()
        try:
            os.write(writing, input_text.encode())
            self._at_work = OwnedProcess(
                command,
                death_signal=signal.SIGKILL,
                env=self.environment(),
                account=self._account,
                stdin=reading,
                output=output,
                cwd=cwd,
            )
        finally:
            for descriptor in (reading, writing, output):
                os.close(descriptor)
        while self._at_work.alive():
            if time.monotonic() > deadline:
                yield from self.breaking_off()
                raise Unavailable(f"{command[0]} took too long; its last words:\n{self._log.tail()}")
            yield
        code, self._at_work = self._at_work.exit_code, None
        if code != 0:
            raise Unavailable(f"{command[0]} failed; its last words:\n{self._log.tail()}")
