"""Accepting an event of the external calendar: kept in Postgres, then enqueued once.

The sender is answered when the event is in Postgres; nothing acknowledged is ever lost. Whether it is
enqueued is decided by the script that knows repeats; when Redis cannot be told, the worker finds it later.
"""

from __future__ import annotations

from datetime import timedelta

from redis.exceptions import RedisError

from service.claims.keys import Shards
from service.claims.scripts import Scripts
from service.db.deliveries import IncomingStore
from service.failpoints import Reach, Step
from service.logs import get_logger

INCOMING_STREAM = "calendar-events"
_REMEMBERED = timedelta(hours=25)

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
        new = await self._incoming.accept(org, event_id, event_type, body, correlation_id)
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
