"""Delivers events to the endpoints that organizations registered, each in a lane of its own.

A lane has its own places, breaker and order, so an endpoint that hangs or fails delays nobody but itself: what finds
no place is put off until about the time one will be free, and no attempt is counted. Entries of an endpoint that is
not called leave the stream; they wait in Postgres, and the sweep brings them back when it is called again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from service.clock import Clock
from service.db.deliveries import DeliveryStore
from service.db.endpoints import Callee, EndpointState, EndpointStore
from service.delivery.dispatcher import Dispatcher, RetryPolicy, parse_ref
from service.delivery.endpoint_destination import EndpointDestination
from service.delivery.patience import patiently
from service.delivery.recorder import DeliveryRecorder
from service.delivery.stream import Entry, Stream
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.destinations import ENDPOINT_STREAM, endpoint_name
from service.outside.breaker import Breaker
from service.outside.endpoint import EndpointCaller

AT_ONCE = 16
# Of all endpoints together: 64 that hang with every place leave the others theirs.
ALTOGETHER = 1024
_READ = 128
_LABEL = "endpoint"
_LONGEST_WAIT_S = 30.0
_LOOK_S = 0.05
_REMOVED = "the endpoint was removed"

_log = get_logger("delivery.endpoint_deliveries")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointParts:
    """What deliveries to endpoints are made with.

    `pause_after_s`: how long an endpoint may do nothing but fail; `sweep_s`: how often each is looked at for events
    that are not on their way, and how old these must be.
    """

    store: EndpointStore
    caller: EndpointCaller
    pause_after_s: float
    sweep_s: float = 10.0


class Lane:
    """One endpoint's deliveries."""

    def __init__(self, destination: EndpointDestination, dispatcher: Dispatcher, breaker: Breaker) -> None:
        self.destination = destination
        self.dispatcher = dispatcher
        self._breaker = breaker
        self._reserved = 0
        self._free_at = 0.0

    async def take(self, stream: Stream, entries: list[Entry], chance: random.Random) -> None:
        """Begin with as many as there are places for; put the rest off."""
        entries = [entry for entry in entries if not self.dispatcher.holds(stream, entry)]
        places = max(0, self.dispatcher.free - self._reserved)
        now, later = entries[:places], entries[places:]
        # Other loops hand over too while we look events up.
        self._reserved += len(now)
        try:
            work: list[Coroutine[Any, Any, None]] = [
                stream.later(entry, self._wait_ms(chance), entry.attempt) for entry in later
            ]
            await asyncio.gather(self.dispatcher.take(stream, now), *work)
        finally:
            self._reserved -= len(now)

    def _wait_ms(self, chance: random.Random) -> int:
        """Until about when a place will be free for one more: each that is put off takes its turn behind the others."""
        now = asyncio.get_running_loop().time()
        turn_s = self.destination.typical_s / AT_ONCE
        begin = max(now + max(turn_s, self._breaker.wait_s), self._free_at)
        self._free_at = min(begin + turn_s, now + _LONGEST_WAIT_S)
        return round((self._free_at - now) * chance.uniform(0.9, 1.1) * 1000) + 1


class EndpointDeliveries:
    """Takes entries ('organization appointment sequence endpoint') and hands each to its endpoint's lane."""

    name = ENDPOINT_STREAM

    def __init__(
        self,
        parts: EndpointParts,
        *,
        deliveries: DeliveryStore,
        policy: RetryPolicy,
        metrics: Metrics,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._parts = parts
        self._deliveries = deliveries
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._chance = chance
        self._lanes: dict[UUID, Lane] = {}

    async def room(self) -> int:
        """How many entries may be handed over; what one endpoint has no place for does not count."""
        if sum(len(lane.dispatcher) for lane in self._lanes.values()) < ALTOGETHER:
            return _READ
        await asyncio.sleep(_LOOK_S)
        return 0

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        """Look the endpoints up and hand each its entries."""
        wanted: dict[tuple[int, UUID], list[Entry]] = {}
        for entry in entries:
            named = _endpoint_of(entry.event)
            if named is None:
                await stream.bury(entry, 0, "the entry names no event or no endpoint")
                _log.error("entry names no event", destination=self.name, entry=entry.entry_id)
            else:
                wanted.setdefault(named, []).append(entry)
        if not wanted:
            return
        found = await patiently("look endpoints up", lambda: self._parts.store.callees(list(wanted)), self._chance)
        work = (self._hand_over(stream, one, found.get(one), some) for (_, one), some in wanted.items())
        await asyncio.gather(*work)

    async def drain(self, timeout_s: float) -> int:
        """Let attempts end for a while; what is left stays pending and is reclaimed. How many that was."""
        return sum(await asyncio.gather(*(lane.dispatcher.drain(timeout_s) for lane in self._lanes.values())))

    async def _hand_over(self, stream: Stream, endpoint_id: UUID, callee: Callee | None, entries: list[Entry]) -> None:
        lane = self._lanes.get(endpoint_id)
        if callee is None or callee.state is not EndpointState.ACTIVE:
            if lane is not None and not len(lane.dispatcher):
                del self._lanes[endpoint_id]
            left = [entry for entry in entries if lane is None or not lane.dispatcher.holds(stream, entry)]
            if callee is None:
                # An attempt that was under way when the endpoint was removed has put its delivery off since.
                refs = [ref for entry in left if (ref := parse_ref(entry.event)) is not None]
                name = endpoint_name(endpoint_id)
                await patiently("end deliveries", lambda: self._deliveries.end(refs, name, _REMOVED), self._chance)
            await asyncio.gather(*(stream.finish(entry) for entry in left))
            return
        if lane is None:
            lane = self._lanes[endpoint_id] = self._lane(callee)
        lane.destination.aim(callee)
        await lane.take(stream, entries, self._chance)

    def _lane(self, callee: Callee) -> Lane:
        parts = self._parts
        destination = EndpointDestination(callee, parts.caller, parts.store, parts.pause_after_s, self._clock)
        breaker = Breaker()
        dispatcher = Dispatcher(
            destination,
            store=self._deliveries,
            # Of its own, as all is that one organization's endpoint could hold up or spoil.
            recorder=DeliveryRecorder(self._deliveries, self._chance),
            breaker=breaker,
            policy=self._policy,
            metrics=self._metrics,
            chance=self._chance,
            at_once=AT_ONCE,
            clock=self._clock,
            label=_LABEL,
            endpoint_id=callee.endpoint_id,
        )
        return Lane(destination, dispatcher, breaker)


def _endpoint_of(text: str) -> tuple[int, UUID] | None:
    """(organization, endpoint) of an entry, or None."""
    ref = parse_ref(text)
    words = text.split(" ")
    if ref is None or len(words) != 4:
        return None
    try:
        return ref.org, UUID(hex=words[3])
    except ValueError:
        return None
