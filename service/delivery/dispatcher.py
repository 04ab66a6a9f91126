"""Delivers the events of one destination's stream.

What came of an attempt is in Postgres before its entry leaves the stream, so a crash between the two repeats
a delivery and never loses one. Events of one appointment reach a destination in order; those of different
appointments do not wait for each other. A destination in trouble is left alone for a while without its events
losing attempts.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.clock import Clock, SystemClock
from service.db.deliveries import AttemptRecord, DeliveryRecord, DeliveryStore, DueEvent, UnknownEvent
from service.delivery.destinations import Destination, Outcome, Told
from service.delivery.patience import patiently
from service.delivery.recorder import DeliveryRecorder
from service.delivery.stream import Entry, Stream
from service.delivery.under_way import UnderWay
from service.domain.event import EventRef
from service.domain.retry import backoff_ms
from service.failpoints import Reach, Step
from service.logs import get_logger
from service.metrics import Metrics
from service.outside.breaker import Breaker

AT_ONCE = 64
# For one that is being told, so many more may wait to be written down.
_BEHIND = 3
# Of a dead letter: the whole answer is kept with the delivery.
LONGEST_LETTER = 200
_UNHEARD = "the destination does not hear of this any more"
_LONGEST_WAIT_S = 0.25
# An event is committed before it is announced: one that stays missing was never committed.
_TRIES_FOR_A_MISSING_EVENT = 5
# While versions change workers of both read a stream: soon one of the newer does, and older ones alone are not busy.
_WAIT_FOR_NEWER_MS = 5_000

_log = get_logger("delivery.dispatcher")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon: most attempts, base of the backoff, wait for an earlier event (ms)."""

    attempts: int
    delay_ms: int
    turn_ms: int = 500


class Dispatcher:
    """Takes entries ('organization appointment sequence') and tells the destination of their events."""

    def __init__(
        self,
        destination: Destination,
        *,
        store: DeliveryStore,
        recorder: DeliveryRecorder,
        breaker: Breaker,
        policy: RetryPolicy,
        metrics: Metrics,
        chance: random.Random,
        at_once: int = AT_ONCE,
        clock: Clock | None = None,
        label: str | None = None,
        endpoint_id: UUID | None = None,
        reach: Reach | None = None,
    ) -> None:
        """`label` stands for the destination in metrics; `endpoint_id` is that of an organization's endpoint."""
        self._clock = clock or SystemClock()
        label = label or destination.name
        self._destination = destination
        self._endpoint_id = endpoint_id
        self._store = store
        self._recorder = recorder
        self._breaker = breaker
        self._policy = policy
        self._chance = chance
        self._reach = reach
        self._unknown: set[str] = set()
        self._under_way = UnderWay(destination.name, at_once, behind=_BEHIND * at_once)
        self._seconds = metrics.delivery_seconds.labels(label)
        self._counted = {state: metrics.deliveries.labels(label, state) for state in ("delivered", "retrying", "dead")}

    async def room(self) -> int:
        """Places that are free; none while the breaker is open, so that events wait in the stream."""
        wait_s = self._breaker.wait_s
        if wait_s:
            await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
            return 0
        return await self._under_way.room(_LONGEST_WAIT_S)

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def free(self) -> int:
        """Places that are free now; none while the breaker is open."""
        return 0 if self._breaker.wait_s else self._under_way.free

    def holds(self, stream: Stream, entry: Entry) -> bool:
        """Whether the entry is being worked on."""
        return self._under_way.holds(_place(stream, entry))

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        """Look all events up at once, then begin with each."""
        wanted: list[tuple[Entry, EventRef]] = []
        for entry in entries:
            if self.holds(stream, entry):
                continue
            ref = parse_ref(entry.event)
            if ref is None:
                await stream.bury(entry, 0, "the entry names no event")
                _log.error("entry names no event", destination=self._destination.name, entry=entry.entry_id)
            else:
                wanted.append((entry, ref))
        if not wanted:
            return
        refs = [ref for _, ref in wanted]
        found = await patiently(
            "look events up",
            lambda: self._store.load(refs, self._destination.name, self._destination.types, self._endpoint_id),
            self._chance,
        )
        for entry, ref in wanted:
            await self._under_way.start(_place(stream, entry), self._deliver(stream, entry, ref, found.get(ref)))

    async def drain(self, timeout_s: float) -> int:
        """Let attempts end for a while; what is left stays pending and is reclaimed. How many that was."""
        return await self._under_way.drain(timeout_s)

    async def _deliver(self, stream: Stream, entry: Entry, ref: EventRef, due: DueEvent | UnknownEvent | None) -> None:
        if due is None:
            await self._missing(stream, entry)
        elif isinstance(due, UnknownEvent):
            await self._leave_to_newer(stream, entry, due)
        elif due.delivered:
            await stream.finish(entry)
        elif due.event.type not in self._destination.types:
            await patiently(
                "end a delivery", lambda: self._store.end([ref], self._destination.name, _UNHEARD), self._chance
            )
            await stream.finish(entry)
        elif due.dead:
            # A crash came between giving it up and burying it; a replay would have made it pending again.
            await stream.bury(entry, due.attempts, (due.error or "")[:LONGEST_LETTER])
        elif due.must_wait:
            await stream.later(entry, self._a_turn_ms(), entry.attempt)
        elif not self._breaker.admits():
            wait_ms = round(self._breaker.wait_s * 1000)
            await stream.later(entry, wait_ms + self._a_turn_ms(), entry.attempt)
        else:
            await self._attempt(stream, entry, ref, due)

    async def _attempt(self, stream: Stream, entry: Entry, ref: EventRef, due: DueEvent) -> None:
        # A replay begins anew, also where the entry of before it is still on its way. Else neither may fall behind the
        # other: an entry that could not be put off comes back with its old number after its attempt was recorded.
        number = due.attempts + 1
        if not due.replays:
            number = max(entry.attempt, number)
        made_at, began = self._clock.now(), asyncio.get_running_loop().time()
        if self._reach:
            await self._reach(Step.DELIVERY_BEFORE_SEND)
        with self._recorder.attempt():
            told = await self._tell(due, number)
        self._under_way.make_room(_place(stream, entry))
        if self._reach:
            await self._reach(Step.DELIVERY_SENT)
        tried = None
        if told.called:
            duration_ms = round((asyncio.get_running_loop().time() - began) * 1000)
            tried = _Tried(made_at, duration_ms)
        await self._conclude(stream, entry, ref, due, number, told, tried)

    async def _tell(self, due: DueEvent, attempt: int) -> Told:
        began = asyncio.get_running_loop().time()
        try:
            told = await self._destination.tell(due)
        except Exception as problem:
            # A fault of ours in one event: it must neither stop the others nor be tried for ever.
            _log.exception("attempt broke", destination=self._destination.name, event_id=due.event.ref.event_id)
            return Told(outcome=Outcome.FAILED, error=f"the attempt broke: {type(problem).__name__}")
        if told.called:
            self._seconds.observe(asyncio.get_running_loop().time() - began)
            self._breaker.learn(unwell=told.unwell)
        else:
            self._breaker.not_made()
        _log.debug(
            "attempted",
            destination=self._destination.name,
            event_id=due.event.ref.event_id,
            correlation_id=due.event.correlation_id,
            attempt=attempt,
            outcome=told.outcome.value,
            status=told.status,
        )
        return told

    async def _conclude(
        self, stream: Stream, entry: Entry, ref: EventRef, due: DueEvent, attempt: int, told: Told, tried: _Tried | None
    ) -> None:
        if told.outcome is Outcome.DELIVERED:
            state = "delivered"
        elif told.outcome is Outcome.REFUSED or attempt >= self._policy.attempts:
            state = "dead"
        else:
            state = "retrying"
        record = DeliveryRecord(
            ref=ref,
            destination=self._destination.name,
            state=state,
            attempts=attempt,
            status=told.status,
            error=told.error,
            reference=told.reference,
            replays=due.replays,
            tried=None if tried is None else tried.record(told),
        )
        await self._recorder.record(record)
        if self._reach:
            await self._reach(Step.DELIVERY_RECORDED)
        self._counted[state].inc()
        if state == "delivered":
            if due.replays:
                # What gave the event up before the replay may have been slow to bury it.
                await stream.exhume({entry.event})
            if self._reach:
                await self._reach(Step.DELIVERY_BEFORE_ACK)
            await stream.finish(entry)
        elif state == "retrying":
            delay_ms = backoff_ms(
                attempt, self._policy.delay_ms, chance=self._chance, retry_after_ms=told.retry_after_ms
            )
            await stream.later(entry, delay_ms, attempt + 1)
        else:
            _log.error("delivery dead", destination=record.destination, event_id=ref.event_id, error=told.error)
            await stream.bury(entry, attempt, (told.error or "")[:LONGEST_LETTER])

    async def _missing(self, stream: Stream, entry: Entry) -> None:
        if entry.attempt < _TRIES_FOR_A_MISSING_EVENT:
            delay_ms = backoff_ms(entry.attempt, self._policy.delay_ms, chance=self._chance)
            await stream.later(entry, delay_ms, entry.attempt + 1)
            return
        error = "the event is not in Postgres: its change was never committed"
        _log.error("event missing", destination=self._destination.name, missing=entry.event)
        await stream.bury(entry, entry.attempt, error)

    async def _leave_to_newer(self, stream: Stream, entry: Entry, event: UnknownEvent) -> None:
        """Put an entry off, without end and without an attempt counted, until a worker reads it that knows its type."""
        if event.type not in self._unknown:
            self._unknown.add(event.type)
            _log.warning("event type not known", destination=self._destination.name, event_type=event.type)
        delay_ms = round(self._chance.uniform(0.5, 1.5) * _WAIT_FOR_NEWER_MS)
        await stream.later(entry, delay_ms, entry.attempt)

    def _a_turn_ms(self) -> int:
        return round(self._chance.uniform(0.5, 1.5) * self._policy.turn_ms)


@dataclass(frozen=True, slots=True)
class _Tried:
    """When a call was made, and how long it took."""

    made_at: datetime
    duration_ms: int

    def record(self, told: Told) -> AttemptRecord:
        """The attempt as it is kept."""
        return AttemptRecord(
            made_at=self.made_at,
            duration_ms=self.duration_ms,
            answer=told.error if told.answer is None else told.answer,
        )


def parse_ref(text: str) -> EventRef | None:
    """The event an entry names ('organization appointment_hex sequence', more may follow), or None."""
    try:
        org, appointment, sequence, *_ = text.split(" ")
        return EventRef(int(org), UUID(hex=appointment), int(sequence))
    except ValueError:
        return None


def _place(stream: Stream, entry: Entry) -> str:
    return f"{stream.key} {entry.entry_id}"
