"""A child process that cannot outlive us: started in its own session, told by the kernel when we die.

Everything that takes time is a generator of *steps* (`Steps`): whoever drives it decides how to wait between
two steps, so one thread can start, stop and watch many processes at once and still hear a signal at any
moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from service.embedded.account import Account

Steps = Generator[None, None, None]

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def drive(steps: Steps, pause_s: float = 0.01) -> None:
    """Carry `steps` out to the end, sleeping `pause_s` seconds between two of them."""
    with contextlib.closing(steps):
        for _ in steps:
            time.sleep(pause_s)


class OwnedProcess:
    """One running child of ours, leader of its own session and process group.

    `death_signal` is what the kernel sends it when the *thread* that built this object ends, so build it in
    one that lives as long as the child should. `output` is a file descriptor for stdout and stderr, None
    inherits ours. `env` is the whole environment. Raises OSError when the command cannot be executed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        death_signal: signal.Signals,
        env: Mapping[str, str],
        account: Account | None = None,
        stdin: int = subprocess.DEVNULL,
        output: int | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        parent = os.getpid()

        def in_child() -> None:
            # Popen changes the user before it calls this. The order matters: a change of user makes the
            # kernel forget the death signal.
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:  # it died between fork and prctl: nobody would ever tell us
                os._exit(1)

        self._process = subprocess.Popen(  # noqa: S603 - the command is the caller's own, never a request's
            command,
            env=env,
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,  # a terminal's Ctrl-C reaches only the supervisor
            preexec_fn=in_child,  # noqa: PLW1509 - it calls the kernel and nothing else
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit status, negative for a signal's number; None while it runs."""
        return None if self.alive() else self._process.returncode

    def alive(self) -> bool:
        """Whether it still runs; what it left in its process group is ended when it does not."""
        if self._process.returncode is not None:
            return False
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return True
        # Not collected yet, so its number still names this group and no other.
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        return False

    def stopping(self, signals: Sequence[tuple[signal.Signals, float]]) -> Steps:
        """Send each signal and wait its seconds for the end; after the last comes SIGKILL."""
        for number, seconds in signals:
            if not self.alive():
                return
            self._process.send_signal(number)
            deadline = time.monotonic() + seconds
            while self.alive() and time.monotonic() < deadline:
                yield
        self.kill()
        while self.alive():
            yield

    def kill(self) -> None:
        """End it and its process group at once."""
        if self.alive():
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Child:
    """A program of ours: started with `command` and the whole environment `env`, stopped with `stop_signal`.

    `pass_fds` are descriptors it inherits, such as a listening socket; `grace_s` is how long a stop may take.
    When the supervisor is killed it is killed too: nobody would be left to see that it ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
    ) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._pass_fds = pass_fds
        self._stop_signal = stop_signal
        self._grace_s = grace_s
        self._process: OwnedProcess | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        return self._process.exit_code if self._process else None

    def alive(self) -> bool:
        return self._process is not None and self._process.alive()

    def starting(self, _timeout_s: float = 0.0) -> Steps:
        self._process = OwnedProcess(self._command, death_signal=signal.SIGKILL, env=self._env, pass_fds=self._pass_fds)
        yield from ()

    def stopping(self, timeout_s: float) -> Steps:
        if self._process:
            yield from self._process.stopping(((self._stop_signal, min(timeout_s, self._grace_s)),))

    def kill(self) -> None:
        if self._process:
            self._process.kill()
