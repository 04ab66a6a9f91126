"""One endpoint as a destination: what it is told, and what its answers mean for it.

The body is made of the event's own bytes and holds nothing of the attempt, so it is the same at every attempt. Only
the header with the attempt's time, and with it the signature, differ.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from service.clock import Clock
from service.db.deliveries import DueEvent
from service.db.endpoints import Callee, EndpointState, EndpointStore
from service.delivery.destinations import Outcome, Told
from service.domain.appointment import show_time
from service.domain.event import Event, EventType
from service.errors import OutcomeUnknown, Unavailable
from service.logs import get_logger
from service.operations.destinations import endpoint_name
from service.outside.endpoint import EndpointCaller, Message
from service.outside.http import Attempt

GONE = 410
GONE_REASON = "the receiver answered 410 Gone"
_LONGEST_REASON = 300
# How much the latest attempt counts in what an attempt usually takes.
_WEIGHT = 0.2

_log = get_logger("delivery.endpoint_destination")


class EndpointDestination:
    """Tells one endpoint of events; `typical_s` is what an attempt lately took."""

    types: tuple[EventType, ...]

    def __init__(
        self, callee: Callee, caller: EndpointCaller, store: EndpointStore, pause_after_s: float, clock: Clock
    ) -> None:
        self.name = endpoint_name(callee.endpoint_id)
        self.typical_s = 0.05
        self._caller = caller
        self._store = store
        self._pause_after_s = pause_after_s
        self._clock = clock
        self.aim(callee)

    def aim(self, callee: Callee) -> None:
        """Call it as it is by now."""
        self._callee = callee
        self.types = callee.types

    async def tell(self, due: DueEvent) -> Told:
        """One webhook under the event's id."""
        event, callee = due.event, self._callee
        message = Message(message_id=event.ref.event_id, body=body_of(event), correlation_id=event.correlation_id)
        made = await self._caller.post(callee.url, callee.keys.secrets, message)
        self.typical_s += _WEIGHT * (made.duration_s - self.typical_s)
        told = _told(made)
        try:
            await self._learn(callee, made, told)
        except (Unavailable, OutcomeUnknown) as problem:
            # What came of the delivery counts all the same; the next attempt says again how the endpoint is.
            _log.warning("endpoint not noted", destination=self.name, error=problem.message)
        return told

    async def _learn(self, callee: Callee, made: Attempt, told: Told) -> None:
        """Note how the endpoint is; stop calling one that is gone, or did nothing but fail for too long."""
        one = (callee.org, callee.endpoint_id)
        if made.succeeded:
            if self._callee.failing_since is not None:
                self._callee = msgspec.structs.replace(self._callee, failing_since=None)
                await self._store.well(*one)
            return
        if made.status == GONE:
            if await self._store.pause(*one, EndpointState.DISABLED, GONE_REASON):
                _log.warning("endpoint disabled", org=callee.org, endpoint_id=str(callee.endpoint_id))
            return
        since = self._callee.failing_since
        if since is not None and self._clock.now() - since < timedelta(seconds=self._pause_after_s):
            return
        reason = f"nothing but failures for {self._pause_after_s:g} s; the last: {told.error}"[:_LONGEST_REASON]
        noted = await self._store.failed(*one, self._pause_after_s, reason)
        if noted is None:
            return
        state, since = noted
        self._callee = msgspec.structs.replace(self._callee, failing_since=since, state=state)
        if state is not EndpointState.ACTIVE:
            _log.warning("endpoint paused", org=callee.org, endpoint_id=str(callee.endpoint_id), reason=reason)


def body_of(event: Event) -> bytes:
    """The body of the webhook about an event."""
    head = msgspec.json.encode({"type": event.type, "timestamp": show_time(event.occurred_at, None)})
    tail = msgspec.json.encode({"sequence": event.ref.sequence, "event_id": event.ref.event_id})
    return head[:-1] + b',"data":{"appointment":' + event.data + b"," + tail[1:] + b"}"


def _told(made: Attempt) -> Told:
    """What an answer means for the delivery.

    A redirect is refused and so is an address that is not public: the same call would end the same way. Any other
    failure may be mended at the other side, so it is tried again, also what calls the request wrong.
    """
    told = Told.of(made)
    if made.succeeded:
        return told
    if made.forbidden:
        return msgspec.structs.replace(told, outcome=Outcome.REFUSED, unwell=False)
    if made.status is not None and 300 <= made.status < 400:
        error = f"redirects are refused: {made.why}"
        return msgspec.structs.replace(told, outcome=Outcome.REFUSED, error=error)
    return msgspec.structs.replace(told, outcome=Outcome.FAILED)
