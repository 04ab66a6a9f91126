"""Places where a test may break a process: one at every step in the life of a booking, a change and a delivery.

Only with ENVIRONMENT=test and a FAILPOINTS_DIR; otherwise operations hold None instead of a `Reach`, and nothing that
comes with a request is ever looked at. A file in the folder with the name of a step is what happens to the first who
comes by: `kill`, `raise`, `stop` or `delay MS`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path

from service.logs import get_logger

_log = get_logger("failpoints")


class Step(StrEnum):
    """A step just taken; with `before`, one that comes next. A booking is inserted and committed in one statement."""

    BOOKING_CLAIMED = "booking-claimed"
    BOOKING_BEFORE_COMMIT = "booking-before-commit"
    BOOKING_COMMITTED = "booking-committed"
    BOOKING_SETTLED = "booking-settled"
    """The event is in the streams of all who must hear of it, and the answer is kept."""

    CHANGE_NOTED = "change-noted"
    CHANGE_COMMITTED = "change-committed"
    CHANGE_ANNOUNCED = "change-announced"
    CHANGE_FREED = "change-freed"
    """Noted and freed is what a cancellation leaves; other changes of state pass the two between."""

    MOVE_CLAIMED = "move-claimed"
    MOVE_BEFORE_COMMIT = "move-before-commit"
    MOVE_COMMITTED = "move-committed"
    MOVE_ANNOUNCED = "move-announced"
    MOVE_FREED = "move-freed"

    DELIVERY_BEFORE_SEND = "delivery-before-send"
    DELIVERY_SENT = "delivery-sent"
    DELIVERY_RECORDED = "delivery-recorded"
    DELIVERY_BEFORE_ACK = "delivery-before-ack"

    INCOMING_STORED = "incoming-stored"
    """In Postgres, not in the stream."""
    INCOMING_APPLIED = "incoming-applied"
    """Done what it says, not marked as processed."""
    INCOMING_MARKED = "incoming-marked"
    """Marked as processed, not acknowledged."""


Reach = Callable[[Step], Awaitable[None]]


class FailpointError(Exception):
    """What `raise` raises: nothing that the service expects."""


class Failpoints:
    """Looks into a folder at every step, and does what the step's file says; each file is found once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def reach(self, step: Step) -> None:
        """Come by a step. The file that is found there gets the number of this process added to its name.

        Raises FailpointError where the file says so, and ValueError where it says nothing that is known.
        """
        mine = self._folder / f"{step}.{os.getpid()}"
        try:
            # Of two who come by at the same time one finds it.
            (self._folder / step).rename(mine)
        except FileNotFoundError:
            return
        text = mine.read_text().strip()
        _log.warning("failpoint reached", step=step.value, what=text)
        match text.split():
            case ["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["raise"]:
                raise FailpointError(f"at {step}")
            case ["stop"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            case ["delay", milliseconds]:
                await asyncio.sleep(int(milliseconds) / 1000)
            case _:
                raise ValueError(f"{step}: not kill, raise, stop or delay MS: {text!r}")
