"""What this run was promised: every booking it asked for, by its idempotency key, and what became of it.

Verification holds the installation to it afterwards. What was sent and never answered stays `unknown`: it may be
there or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec


class State(StrEnum):
    """What is known of one booking."""

    UNKNOWN = "unknown"
    REFUSED = "refused"
    BOOKED = "booked"
    CANCELLED = "cancelled"
    # Cancelling or moving it was sent, and no answer said what came of it.
    CHANGING = "changing"


@dataclass
class Entry:
    """One booking: who for, and what its last answer said. Times as the API writes them."""

    contact_email: str
    calendar_id: str
    start_time: str
    state: State = State.UNKNOWN
    appointment_id: str = ""
    coach_id: str = ""
    end_time: str = ""

    def says(self, state: State, appointment: dict[str, Any]) -> None:
        """Take over what an answer said of it."""
        self.state = state
        self.appointment_id = appointment["appointment_id"]
        self.coach_id = appointment["coach_id"]
        self.start_time = appointment["start_time"]
        self.end_time = appointment["end_time"]


class Ledger(msgspec.Struct):
    """All bookings of a run by idempotency key; `domain` is that of its contacts' addresses."""

    domain: str
    entries: dict[str, Entry] = {}

    def begin(self, key: str, contact_email: str, calendar_id: str, start_time: str) -> Entry:
        """Note a booking before it is asked for."""
        self.entries[key] = Entry(contact_email, calendar_id, start_time)
        return self.entries[key]

    def of(self, *states: State) -> list[Entry]:
        """Those in one of the states."""
        return [entry for entry in self.entries.values() if entry.state in states]

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """What was written. Raises OSError or msgspec.MsgspecError."""
        return msgspec.json.decode(path.read_bytes(), type=cls)
