"""Taking connections from a socket that several processes share, so that each gets its part of them.

An event loop's own server takes all that wait at once. Of clients that come together and stay, nearly all may then be
with the process that was awake first: of 64 one of two had 33 to 64.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from service.logs import get_logger

# Who has no more than a few takes the next at once. Otherwise, between two turns of a process the others have theirs.
FEW = 8
PAUSE_S = 0.001
# So many turns take one connection each; then every fourth doubles that, up to 64, or halves it when nobody waits any
# more: clients that come for one request each should not wait longer than a pause. A calm begins anew.
PATIENT_TURNS = 16
MOST_DOUBLINGS = 6
CALM_S = 0.05
# As long as event loops wait for files to be closed when too many are open.
TROUBLE_S = 1.0

_log = get_logger("api.accept")


class Acceptor:
    """Accepts on a listening socket that does not block; each connection gets a protocol of `factory`.

    `held` says how many connections this process has.
    """

    def __init__(
        self, listening: socket.socket, factory: Callable[[], asyncio.Protocol], held: Callable[[], int]
    ) -> None:
        self._listening = listening
        self._factory = factory
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._turns = 0
        self._last_turn = 0.0
        self._connecting: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Take connections from now on."""
        self._loop.add_reader(self._listening, self._take_turn)

    def stop(self) -> None:
        """Take none any more; who waits is left to other processes."""
        self._loop.remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()

    def _take_turn(self) -> None:
        pause_s, now = PAUSE_S if self._held() > FEW else 0.0, self._loop.time()
        if now - self._last_turn > CALM_S:
            self._turns = 0
        self._last_turn = now
        try:
            for _ in range(1 << max(0, (self._turns - PATIENT_TURNS) // 4)):
                connection, _ = self._listening.accept()
                self._connect(connection)
            self._turns = min(self._turns + 1, PATIENT_TURNS + 4 * MOST_DOUBLINGS)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # that was all, or a client left
            self._turns = max(self._turns - 4, 0)
        except OSError as problem:
            if problem.errno == errno.EINVAL:  # it was shut: we shall be told to stop
                self.stop()
                return
            # Too many open files, or the network's own: see accept(2).
            _log.warning("no connection taken", error=str(problem))
            pause_s = TROUBLE_S
        if pause_s:
            self._loop.remove_reader(self._listening)
            self._pause = self._loop.call_later(pause_s, self.start)

    def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connecting = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, connection))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[Any]) -> None:
        self._connecting.discard(connecting)
        if not connecting.cancelled() and connecting.exception() is not None:
            _log.info("connection lost at once", error=str(connecting.exception()))
