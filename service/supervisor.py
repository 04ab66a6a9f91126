"""Keeps a set of processes running, and ends all of them when told to.

One thread: it waits on a socket that signals write to (a child's death is one), and carries starts and stops
under way on step by step. Whatever was started is stopped when the `with` block ends in any way: a stop
signal, an error, a signal in the middle of a start. If the supervisor itself is killed, the kernel ends what
it started.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Protocol, TypeVar

from service.embedded.process import Child, Steps
from service.errors import BookingError
from service.logs import get_logger

__all__ = ["Child", "StopRequested", "Supervised", "Supervisor"]

T = TypeVar("T")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TICK_S = 0.02  # between two steps of something under way
_WATCH_S = 0.05  # otherwise; a death is normally heard at once
_STEADY_S = 10.0  # who lived that long is replaced without delay
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0
_START_TIMEOUT_S = 60.0
_STOP_BUDGET_S = 9.0  # for everything together
_LATER_STAGE_S = 2.0  # of it, kept for each stage whose turn is still to come
_ANOTHER_CTRL_C_S = 0.5  # sooner, it is the same one delivered twice (a shell's group, `timeout`)


class StopRequested(KeyboardInterrupt):
    """A stop signal came. Raised where the supervisor waits; event loops let a KeyboardInterrupt through."""


class Supervised(Protocol):
    """Something that can be started, watched and stopped; EmbeddedPostgres, EmbeddedRedis and Child are."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def exit_code(self) -> int | None: ...
    def alive(self) -> bool: ...
    def starting(self, timeout_s: float, /) -> Steps: ...
    def stopping(self, timeout_s: float, /) -> Steps: ...
    def kill(self) -> None: ...


@dataclass(slots=True)
class _Member:
    """What the supervisor knows of one supervised thing; times are of the monotonic clock."""

    thing: Supervised
    steps: Steps | None = None  # of a start or stop under way
    up_since: float | None = None
    start_again_at: float | None = None
    delay_s: float = 0.0

    def begin(self) -> None:
        self.steps = self.thing.starting(_START_TIMEOUT_S)
        self.up_since = self.start_again_at = None

    def advance(self) -> bool:
        """One step of what is under way; whether that was the last."""
        if self.steps is not None:
            try:
                next(self.steps)
            except StopIteration:
                self.steps, self.up_since = None, time.monotonic()
                return True
        return False

    def schedule(self) -> None:
        """Start again: at once, or after 0.1 s and then ever longer while it does not stay up for 10 s."""
        now = time.monotonic()
        steady = self.up_since is not None and now - self.up_since >= _STEADY_S
        self.delay_s = 0.0 if steady else min(max(2 * self.delay_s, _FIRST_DELAY_S), _LONGEST_DELAY_S)
        self.steps, self.start_again_at = None, now + self.delay_s


def _on_child(_number: int, _frame: FrameType | None) -> None:
    """Nothing to do: but without a handler Python would not write to the socket."""


class Supervisor:
    """Starts things in stages, replaces those that die, stops them in reverse order. A context manager.

    Use in the main thread. A SIGTERM, SIGINT or SIGHUP ends the block from where it waits; another Ctrl-C
    kills what is left. Leaving takes under 10 s however the children behave, and leaves no process.
    `on_exit(name, pid)` is called after a child died by itself.
    """

    def __init__(self, on_exit: Callable[[str, int], None] | None = None) -> None:
        self._on_exit = on_exit
        self._log = get_logger("supervisor")
        self._stages: list[list[_Member]] = []
        self._wakeup, self._bell = socket.socketpair()
        self._stop_asked_at: float | None = None
        self._hurry = False
        self._interrupting = False
        self._poll = select.poll()
        self._poll.register(self._wakeup, select.POLLIN)
        self._restore: list[Callable[[], object]] = []

    def __enter__(self) -> Supervisor:
        for end in (self._wakeup, self._bell):
            end.setblocking(False)
        before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._restore.append(lambda: signal.set_wakeup_fd(before))
        for number in _STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means to go on
                self._handle(number, self._on_stop_signal)
        self._handle(signal.SIGCHLD, _on_child)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._stop_everything()
        for restore in reversed(self._restore):
            restore()
        self._wakeup.close()
        self._bell.close()
        return isinstance(error, StopRequested)

    def start(self, *things: Supervised) -> None:
        """Start `things` side by side, as the stage after those started before, and wait until each is up.

        Raises what the start of one raises (Unavailable, ConfigurationError, OSError), and StopRequested.
        """
        stage = [_Member(thing) for thing in things]
        self._stages.append(stage)
        for member in stage:
            member.begin()
        while True:
            self._check()
            for member in stage:
                member.advance()
            if not any(member.steps for member in stage):
                break
            self._tend(self._stages[:-1])
            self._wait(_TICK_S)
        for member in stage:
            self._log.info("started", child=member.thing.name, pid=member.thing.pid)

    def call(self, work: Callable[[], T]) -> T:
        """Do `work` of the caller's between two stages; a stop signal raises StopRequested inside it."""
        self._interrupting = True
        try:
            self._check()
            return work()
        finally:
            self._interrupting = False

    def run(self, until: Callable[[], bool] | None = None, timeout_s: float | None = None) -> bool:
        """Watch until `until()` is true (then True) or `timeout_s` seconds are over (then False).

        With neither, until a stop signal raises StopRequested, which the `with` block takes as a normal end.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._tend(self._stages)
            if until is not None and self.call(until):
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            self._wait(_WATCH_S)

    def _tend(self, stages: Sequence[Sequence[_Member]]) -> None:
        """Notice who died, and carry the replacements on by a step."""
        for member in (member for stage in stages for member in stage):
            name = member.thing.name
            if member.steps is None and member.start_again_at is None and not member.thing.alive():
                pid = member.thing.pid
                member.schedule()
                self._log.error(
                    "child_died",
                    child=name,
                    pid=pid,
                    exit_code=member.thing.exit_code,
                    again_in_s=member.delay_s,
                )
                if self._on_exit and pid is not None:
                    self._on_exit(name, pid)
            try:
                if member.start_again_at is not None and time.monotonic() >= member.start_again_at:
                    member.begin()
                if member.advance():
                    self._log.info("restarted", child=name, pid=member.thing.pid)
            except (BookingError, OSError) as error:
                member.schedule()
                self._log.error("restart_failed", child=name, error=str(error), again_in_s=member.delay_s)

    def _stop_everything(self) -> None:
        self._say("stopping", children=sum(len(stage) for stage in self._stages))
        deadline = time.monotonic() + _STOP_BUDGET_S
        while self._stages:
            stage = self._stages.pop()
            kept = _LATER_STAGE_S * len(self._stages)
            self._stop(stage, max(deadline - time.monotonic() - kept, 0.0))
        self._say("stopped")

    def _stop(self, stage: Sequence[_Member], timeout_s: float) -> None:
        for member in stage:
            member.steps = member.thing.stopping(timeout_s)
        while any(member.steps for member in stage):
            for member in stage:
                if self._hurry:
                    member.thing.kill()
                try:
                    member.advance()
                except Exception as error:  # the others must be stopped all the same
                    self._say("stop_failed", child=member.thing.name, error=str(error))
                    member.thing.kill()
                    member.steps = None
            if any(member.steps for member in stage):
                self._sleep(_TICK_S)

    def _say(self, event: str, **facts: object) -> None:
        """Log while stopping: a terminal that is gone must not keep the children alive."""
        with contextlib.suppress(OSError):
            self._log.info(event, **facts)

    def _wait(self, seconds: float) -> None:
        self._sleep(seconds)
        self._check()

    def _sleep(self, seconds: float) -> None:
        """Until a signal arrives or `seconds` are over."""
        self._poll.poll(1000 * seconds)
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def _check(self) -> None:
        if self._stop_asked_at is not None:
            raise StopRequested

    def _handle(self, number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        before = signal.signal(number, handler)
        self._restore.append(lambda: signal.signal(number, before))

    def _on_stop_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._stop_asked_at is None:
            self._stop_asked_at = now
        elif number == signal.SIGINT and now - self._stop_asked_at > _ANOTHER_CTRL_C_S:
            self._hurry = True
        if self._interrupting:  # once: the clean-up that follows is not to be broken off
            self._interrupting = False
            raise StopRequested
