"""Whom Postgres runs as when we are root, and how that account reaches its files.

Postgres refuses root. It then runs as `nobody`: the account exists on every system, so the machine's list of
users stays as it was (initdb needs an account with a name, so a number alone would not do). A folder made by
an ordinary user keeps its owner: root runs that user's Postgres as that user.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import ConfigurationError
from service.logs import get_logger


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group of the system, by number."""

    uid: int
    gid: int


def unprivileged_account(folder: Path) -> Account | None:
    """Whom a server with its data in `folder` runs as: None (ourselves) unless we are root.

    Raises ConfigurationError when we are root and the system has no account `nobody`.
    """
    if os.geteuid() != 0:
        return None
    if folder.exists() and folder.stat().st_uid != 0:
        return Account(folder.stat().st_uid, folder.stat().st_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "DATABASE_URL: not set, and as root the embedded Postgres needs the account 'nobody'"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def let_in(account: Account, *, passing: list[Path], reading: list[Path]) -> None:
    """Let `account` walk to every path of `passing` and `reading`, and read and run all below `reading`.

    Folders on the way get only the right to pass (o+x), not to list. One warning names all that was opened.
    """
    opened: list[str] = []
    for path in dict.fromkeys(folder for way in (*passing, *reading) for folder in way.resolve().parents):
        if not may_pass(path, account):
            _add(path, stat.S_IXOTH)
            opened.append(str(path))
    for tree in reading:
        closed = [path for path in _below(tree.resolve()) if _missing(path)]
        for path in closed:
            _add(path, _missing(path))
        if closed:
            opened.append(f"{tree} ({len(closed)} entries)")
    if opened:
        get_logger("embedded").warning("folders_opened_for_postgres", uid=account.uid, opened=opened)


def may_pass(folder: Path, account: Account) -> bool:
    """Whether the mode of `folder` lets `account` walk through it."""
    found = folder.stat()
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _below(tree: Path) -> Iterator[Path]:
    yield tree
    for folder, _, files in os.walk(tree):
        yield Path(folder)
        yield from (Path(folder, name) for name in files)


def _missing(path: Path) -> int:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return 0
    wanted = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
    return wanted & ~mode


def _add(path: Path, bits: int) -> None:
    try:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | bits)
    except OSError as error:
        raise ConfigurationError(
            f"DATA_DIR: Postgres cannot run as root, and {path} cannot be opened to another: {error.strerror}"
        ) from None
