"""Accepting an event of the external calendar: kept in Postgres, then enqueued once.

The sender is answered when the event is in Postgres; nothing acknowledged is ever lost. Whether it is
enqueued is decided by the script that knows repeats; when Redis cannot be told, the worker finds it later.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from service.claims.keys import Shards
from service.claims.scripts import Scripts
from service.db.deliveries import IncomingStore
from service.failpoints import Reach, Step
from service.logs import get_logger

INCOMING_STREAM = "calendar-events"
_REMEMBERED = timedelta(hours=25)
# What is longer is no id of ours, and too long for an index.
_LONGEST_CONCERN = 255

_log = get_logger("operations.accept_calendar_event")


class AcceptCalendarEvent:
    """Takes events in; the worker applies them."""

    def __init__(self, incoming: IncomingStore, scripts: Scripts, shards: Shards, reach: Reach | None = None) -> None:
        self._incoming = incoming
        self._scripts = scripts
        self._shards = shards
        self._reach = reach

    async def __call__(self, org: int, event_id: str, event_type: str, body: bytes, correlation_id: str) -> bool:
        """Accept an event that was checked; False when it was accepted before.

        Raises Unavailable (not accepted) or OutcomeUnknown (sending it again is right).
        """
        about = _concern(event_type, body)
        new = await self._incoming.accept(org, event_id, event_type, body, correlation_id, about)
        if self._reach:
            await self._reach(Step.INCOMING_STORED)
        keys = self._shards.of(org)
        try:
            # For a repeat too: the first one may have died between the two lines.
            await self._scripts.accept_event(
                keys.accepted(org, event_id),
                keys.stream(INCOMING_STREAM),
                keys.way(INCOMING_STREAM),
                _REMEMBERED // timedelta(milliseconds=1),
                f"{org} {event_id}",
            )
        except (RedisError, OSError, TimeoutError) as problem:
            _log.warning("event not enqueued", event_id=event_id, error=type(problem).__name__)
        return new


def _concern(event_type: str, body: bytes) -> str | None:
    """The appointment or the coach an event is about, however its id is spelt; None where it names neither.

    One that gives an appointment to a coach is about the appointment.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    kind = event_type.partition(".")[0]
    named = fields.get(f"{kind}_id")
    if not isinstance(named, str) or "\0" in named:  # which Postgres keeps in no text, and is no id of ours
        return None
    if kind == "appointment":
        try:
            named = str(UUID(named))
        except ValueError:
            return None
    return f"{kind} {named}"[:_LONGEST_CONCERN]
