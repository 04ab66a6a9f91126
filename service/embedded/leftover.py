"""Servers of an earlier run that was killed: found by their pid file, stopped before ours start.

A pid file can be stale and its number long given to somebody else. A process is ours only when the file in
our folder names it *and* its own command line names our folder; no other process is ever signalled.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from service.embedded.process import Steps
from service.errors import Unavailable
from service.logs import get_logger


def pid_in(pid_file: Path) -> int | None:
    """The process number on the first line of `pid_file`; None without one."""
    try:
        return int(pid_file.read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def arguments_of(pid: int) -> list[str]:
    """The command line of a process; empty when it is gone (also when it only waits to be collected)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), `stat`, field 22); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def processes_titled(beginning: str) -> list[int]:
    """The processes whose command line begins with these words."""
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in numbers if arguments_of(pid)[:1] and arguments_of(pid)[0].startswith(beginning)]


def stopping_leftover(pid_file: Path, marks: Sequence[str], signals: Sequence[tuple[signal.Signals, float]]) -> Steps:
    """Stop the process `pid_file` names, if its command line holds `marks` in a row.

    Sends each signal and waits its seconds for the end. Raises Unavailable when it does not end, or is
    another user's.
    """
    pid = pid_in(pid_file)
    if pid is None or pid <= 0 or not _holds(arguments_of(pid), marks):
        return
    born = started_at(pid)

    def still_there() -> bool:
        return started_at(pid) == born and _holds(arguments_of(pid), marks)

    get_logger("embedded").warning("stopping_leftover_server", pid=pid, command=" ".join(marks))
    for number, seconds in signals:
        deadline = time.monotonic() + seconds
        if still_there():
            _send(pid, number)
        while still_there() and time.monotonic() < deadline:
            yield
    if still_there():
        raise Unavailable(f"process {pid} of an earlier run still uses {marks[-1]} and does not end")


def _holds(arguments: Sequence[str], marks: Sequence[str]) -> bool:
    size = len(marks)
    return any(list(arguments[at : at + size]) == list(marks) for at in range(len(arguments) - size + 1))


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise Unavailable(f"process {pid} of an earlier run belongs to another user and cannot be stopped") from None
