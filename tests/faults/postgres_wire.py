"""Reads along what a client says to Postgres, to know the moment in which a change of an appointment is committed.

The messages of the frontend: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_CHANGES = b"INSERT INTO events"


class CommitWatch:
    """One connection of a client, read byte by byte as it comes.

    What commits is a prepared statement that writes events in a transaction of its own (the group commit), or a
    COMMIT.
    """

    def __init__(self) -> None:
        self._unread = bytearray()
        self._started = False
        self._changes: set[bytes] = set()

    def sees(self, data: bytes) -> bool:
        """Whether a message that commits is complete with these bytes."""
        self._unread += data
        found = False
        while (message := self._next()) is not None:
            found = self._commits(*message) or found
        return found

    def _next(self) -> tuple[bytes, bytes] | None:
        head = 1 if self._started else 0  # the first message has no letter
        if len(self._unread) < head + 4:
            return None
        size = head + struct.unpack_from("!I", self._unread, head)[0]
        if len(self._unread) < size:
            return None
        letter, body = bytes(self._unread[:head]), bytes(self._unread[head + 4 : size])
        del self._unread[:size]
        if not self._started:
            # Asking for encryption comes before the true first message; our servers have none.
            self._started = struct.unpack_from("!I", body)[0] not in (_SSL, _GSS, _CANCEL)
        return letter, body

    def _commits(self, letter: bytes, body: bytes) -> bool:
        if letter == b"P":
            name, query, *_ = body.split(b"\0", 2)
            (self._changes.add if _CHANGES in query else self._changes.discard)(name)
        elif letter == b"B":
            return body.split(b"\0", 2)[1] in self._changes
        elif letter == b"Q":
            return body.lstrip().upper().startswith(b"COMMIT")
        return False
