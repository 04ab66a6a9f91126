"""What a running `booking up` leaves for the commands beside it: a file with its URLs, and a lock.

Both lie in DATA_DIR. The file may outlive its writer, so its reader checks that the writer still lives; the
lock ends with its holder, whatever ends it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from types import TracebackType

import msgspec

from service.embedded.folders import make_folder
from service.embedded.leftover import started_at
from service.errors import ConfigurationError

_NAME = "run.json"


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """Where the parts of a running `booking up` can be reached.

    `pid` is the supervisor's process number and `pid_started_at` its start in clock ticks since boot.
    """

    database_url: str
    redis_url: str
    api_url: str
    calendar_api_url: str
    crm_webhook_url: str
    auth_service_url: str
    pid: int = msgspec.field(default_factory=os.getpid)
    pid_started_at: int = msgspec.field(default_factory=lambda: started_at(os.getpid()) or 0)

    def write(self, data_dir: Path) -> None:
        """Put it into `data_dir`, whole or not at all, for its owner alone (URLs may hold passwords)."""
        descriptor, name = tempfile.mkstemp(prefix=f"{_NAME}.", dir=data_dir)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)))
        Path(name).replace(data_dir / _NAME)

    @classmethod
    def read(cls, data_dir: Path) -> RunFile | None:
        """What runs on `data_dir`; None when nothing does, or what wrote the file is gone.

        Raises ConfigurationError when the file belongs to another user.
        """
        try:
            found = msgspec.json.decode((data_dir / _NAME).read_bytes(), type=cls)
        except PermissionError:
            raise ConfigurationError(f"DATA_DIR: {data_dir / _NAME} belongs to another user") from None
        except (OSError, msgspec.MsgspecError):
            return None
        return found if started_at(found.pid) == found.pid_started_at else None

    @staticmethod
    def remove(data_dir: Path) -> None:
        """Take it away again; its absence is no error."""
        (data_dir / _NAME).unlink(missing_ok=True)


class DataDirLock:
    """Held by the one `booking up` that uses `data_dir`; a context manager.

    Entering raises ConfigurationError when another process holds it or the folder cannot be used.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def __enter__(self) -> DataDirLock:
        make_folder(self._data_dir)
        path = self._data_dir / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR: cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigurationError(f"DATA_DIR: {self._data_dir} is in use by another `booking up`") from None
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
