"""Where an embedded server puts what is not data: its socket's folder and its log."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from service.embedded.account import Account, may_pass
from service.errors import ConfigurationError, Unavailable

# sun_path holds 108 bytes with its final NUL (unix(7)); the longest name in the folder is Postgres' lock's.
_LONGEST_SOCKET_BYTES = 107
_LONGEST_NAME = ".s.PGSQL.65535.lock"
_LOG_LIMIT_BYTES = 16 * 2**20


def make_folder(folder: Path) -> None:
    """Create `folder`, private to us, and its parents; ConfigurationError naming DATA_DIR if it cannot be."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"DATA_DIR: cannot create {folder}: {error.strerror}") from None


def socket_folder(data: Path, account: Account | None) -> Path:
    """The folder of the socket of the server whose data is in `data`: short, and the same at each start.

    Under the system's folder for temporary files, or /tmp where that is too long or closed to `account`.
    """
    uid = account.uid if account else os.geteuid()
    name = "booking-" + hashlib.sha256(f"{data.resolve()}:{uid}".encode()).hexdigest()[:16]
    preferred = Path(tempfile.gettempdir()).resolve() / name
    fits = len(os.fsencode(preferred / _LONGEST_NAME)) <= _LONGEST_SOCKET_BYTES
    reachable = account is None or all(may_pass(parent, account) for parent in preferred.parents)
    return preferred if fits and reachable else Path("/tmp") / name  # noqa: S108 - `open_socket_folder` checks whose it is


def open_socket_folder(folder: Path, account: Account | None) -> None:
    """Make `folder` anew: empty, mode 0700, owned by who runs the server.

    Raises Unavailable when somebody else put something there: they could pose as our server.
    """
    owner = account.uid if account else os.geteuid()
    if folder.is_symlink() or folder.exists():
        found = folder.lstat()
        if found.st_uid not in (owner, os.geteuid()) or not stat.S_ISDIR(found.st_mode):
            raise Unavailable(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    if account:
        os.chown(folder, account.uid, account.gid)


class ServerLog:
    """The file a server's output goes to; begun anew (the old one kept as `.1`) once it is past 16 MiB."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = 0

    def open(self) -> int:
        """A descriptor to append to, to be closed by the caller; `tail` then tells what came after."""
        if self._path.exists() and self._path.stat().st_size > _LOG_LIMIT_BYTES:
            self._path.replace(self._path.with_suffix(self._path.suffix + ".1"))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._begin = os.fstat(descriptor).st_size
        return descriptor

    def tail(self, lines: int = 12) -> str:
        """The last `lines` lines written since `open`."""
        with self._path.open("rb") as file:
            file.seek(self._begin)
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])
