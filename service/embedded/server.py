"""What the two embedded servers have in common: one owned process, started and stopped in steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from service.embedded.folders import ServerLog
from service.embedded.process import OwnedProcess, Steps, drive
from service.errors import Unavailable


class EmbeddedServer(ABC):
    """A server whose data lives below `data_dir`; its log is `data_dir/NAME.log`.

    It ends when the thread that started it ends, however that happens. Not for use by several threads.
    """

    def __init__(self, name: str, data_dir: Path) -> None:
        self._name = name
        self._data_dir = data_dir.resolve()
        self._log = ServerLog(self._data_dir / f"{name}.log")
        self._process: OwnedProcess | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int | None:
        """The process number of the server; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """The exit status of a server that has ended, negative for a signal's number; else None."""
        return self._process.exit_code if self._process else None

    def alive(self) -> bool:
        """Whether the server's process runs (it may still be starting)."""
        return self._process is not None and self._process.alive()

    @abstractmethod
    def starting(self, timeout_s: float) -> Steps:
        """The steps of a start that ends when the server answers.

        First stops the server of an earlier, killed run on the same data. May be repeated after a failure or
        the server's death, and broken off at any step: `stopping` then ends what was begun. Raises
        Unavailable with the last lines of the log when the server ends or does not answer within `timeout_s`
        seconds, ConfigurationError when the data folder cannot be used.
        """

    @abstractmethod
    def stopping(self, timeout_s: float) -> Steps:
        """The steps of a clean stop; what has not ended after `timeout_s` seconds is killed."""

    def kill(self) -> None:
        """End it at once; the next start recovers."""
        if self._process:
            self._process.kill()

    def start(self, timeout_s: float = 60.0) -> None:
        """Start and wait until it answers; raises as `starting` does, and then nothing is left running."""
        try:
            drive(self.starting(timeout_s))
        except BaseException:
            self.stop(2.0)
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop cleanly; what has not ended after `timeout_s` seconds is killed. Repeating it is no error."""
        drive(self.stopping(timeout_s))

    def _failure(self, what: str) -> Unavailable:
        return Unavailable(f"the embedded {self._name} {what}; its last words:\n{self._log.tail()}")
