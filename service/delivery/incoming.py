"""Works through the events that the outside sent us.

An event is a row in Postgres; its entry in the stream only says that it is due. So an event that is processed is not
applied again however often it is enqueued, and one whose entry was lost with Redis is enqueued again. Who dies after
applying one and before marking it leaves it to be applied a second time. Events about one appointment, or one coach,
are applied in the order they arrived in: one waits until those before it are processed or dead.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

from service.claims.keys import Shards
from service.clock import Clock
from service.db.deliveries import IncomingEvent, IncomingStore
from service.db.rosters import RosterStore
from service.delivery.dispatcher import RetryPolicy
from service.delivery.patience import patiently
from service.delivery.stream import Entry, Stream
from service.delivery.under_way import UnderWay
from service.domain.retry import backoff_ms
from service.errors import BookingError, OutcomeUnknown, Unavailable
from service.failpoints import Reach, Step
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.accept_calendar_event import INCOMING_STREAM
from service.operations.apply_calendar_event import ApplyCalendarEvent

AT_ONCE = 16
_ROOM_WAIT_S = 0.25
_TRIES_FOR_A_MISSING_EVENT = 5
# An event takes a few milliseconds, so in the wait for a delivery's turn many have theirs.
_TURNS_AT_ONCE = 5
_OVERDUE = timedelta(seconds=60)
_MOST_OVERDUE = 1000

_log = get_logger("delivery.incoming")


class Incoming:
    """Takes entries ('organization event_id') and applies their events."""

    def __init__(
        self,
        *,
        store: IncomingStore,
        apply: ApplyCalendarEvent,
        policy: RetryPolicy,
        metrics: Metrics,
        chance: random.Random,
        at_once: int = AT_ONCE,
        reach: Reach | None = None,
    ) -> None:
        self._store = store
        self._apply = apply
        self._policy = policy
        self._chance = chance
        self._reach = reach
        self._under_way = UnderWay("incoming", at_once)
        self._counted = {state: metrics.incoming.labels(state) for state in ("processed", "retrying", "dead")}

    async def room(self) -> int:
        """Places that are free."""
        return await self._under_way.room(_ROOM_WAIT_S)

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        """Begin with each entry."""
        for entry in entries:
            place = f"{stream.key} {entry.entry_id}"
            if not self._under_way.holds(place):
                await self._under_way.start(place, self._process(stream, entry))

    async def drain(self, timeout_s: float) -> int:
        """Let events under way come to their end for a while; how many were left."""
        return await self._under_way.drain(timeout_s)

    async def _process(self, stream: Stream, entry: Entry) -> None:
        # An event's id is the sender's text and may hold spaces.
        org_text, _, event_id = entry.event.partition(" ")
        if not org_text.isdigit() or not event_id:
            await stream.bury(entry, 0, "the entry names no event")
            return
        org = int(org_text)
        event = await patiently("look an event up", lambda: self._store.get(org, event_id), self._chance)
        if event is None:
            await self._missing(stream, entry)
        elif event.state == "processed":
            await stream.finish(entry)
        elif event.state == "dead":
            # A crash came between giving it up and burying it.
            await stream.bury(entry, event.attempts, event.error or "")
        elif event.ahead:
            await stream.later(entry, self._its_turn_ms(event), entry.attempt)
        else:
            await self._try(stream, entry, event)

    async def _try(self, stream: Stream, entry: Entry, event: IncomingEvent) -> None:
        # A replay begins anew, also where the entry of before it is still on its way. Else neither may fall behind the
        # other: an entry that could not be put off comes back with its old number after its attempt was recorded.
        attempt = event.attempts + 1
        if not event.replays:
            attempt = max(entry.attempt, attempt)
        state, error = await self._attempt(event)
        if state == "retrying" and attempt >= self._policy.attempts:
            state = "dead"
        await patiently(
            "mark an event",
            lambda: self._store.mark(event.org, event.event_id, state, attempt, error, replays=event.replays),
            self._chance,
        )
        self._counted[state].inc()
        _log.info(
            "event worked on",
            event_id=event.event_id,
            event_type=event.event_type,
            correlation_id=event.correlation_id,
            attempt=attempt,
            state=state,
            error=error,
        )
        if self._reach:
            await self._reach(Step.INCOMING_MARKED)
        if state == "processed":
            if event.replays:
                # What gave the event up before the replay may have been slow to bury it.
                await stream.exhume({entry.event})
            await stream.finish(entry)
        elif state == "retrying":
            delay_ms = backoff_ms(attempt, self._policy.delay_ms, chance=self._chance)
            await stream.later(entry, delay_ms, attempt + 1)
        else:
            await stream.bury(entry, attempt, error or "")

    async def _attempt(self, event: IncomingEvent) -> tuple[str, str | None]:
        """The state one attempt leads to, and what went wrong."""
        try:
            await self._apply(event)
            if self._reach:
                await self._reach(Step.INCOMING_APPLIED)
        except (Unavailable, OutcomeUnknown) as problem:
            return "retrying", problem.message
        except BookingError as problem:
            return "dead", problem.message
        except Exception as problem:
            # A fault of ours in one event: it is tried like an outage and then ends where it can be seen.
            _log.exception("event broke", event_id=event.event_id)
            return "retrying", f"the attempt broke: {type(problem).__name__}"
        return "processed", None

    async def _missing(self, stream: Stream, entry: Entry) -> None:
        if entry.attempt < _TRIES_FOR_A_MISSING_EVENT:
            delay_ms = backoff_ms(entry.attempt, self._policy.delay_ms, chance=self._chance)
            await stream.later(entry, delay_ms, entry.attempt + 1)
            return
        await stream.bury(entry, entry.attempt, "the event is not in Postgres")

    def _its_turn_ms(self, event: IncomingEvent) -> int:
        """About when its turn will come: the longer the line, the more seldom each asks, or nothing else is done."""
        one_ms = self._policy.turn_ms if event.held_up else self._policy.turn_ms / _TURNS_AT_ONCE
        return round(self._chance.uniform(0.5, 1.5) * one_ms * event.ahead) + 1


class Overdue:
    """Finds accepted events that are not on their way any more, and enqueues them again."""

    def __init__(
        self,
        *,
        store: IncomingStore,
        roster_store: RosterStore,
        shards: Shards,
        streams: Sequence[Stream],
        clock: Clock,
    ) -> None:
        self._store = store
        self._roster_store = roster_store
        self._shards = shards
        self._streams = {stream.key: stream for stream in streams}
        self._clock = clock

    async def __call__(self) -> int:
        """One look at every organization; how many events were enqueued. Raises Unavailable."""
        before = self._clock.now() - _OVERDUE
        enqueued = 0
        for org, _ in await self._roster_store.organizations():
            overdue = await self._store.unfinished(org, before, _MOST_OVERDUE)
            if not overdue:
                continue
            stream = self._streams[self._shards.of(org).stream(INCOMING_STREAM)]
            enqueued += await stream.add_all([(f"{org} {event_id}", 1) for event_id in overdue])
        if enqueued:
            _log.warning("events enqueued again", count=enqueued)
        return enqueued
