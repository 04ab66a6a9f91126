"""The external calendar: when a coach is offered there, and blocking what was booked here.

Availability and settings are questions, asked again a few times. Block and release are single attempts with a
typed result; trying again is the delivery's.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, TypeAlias, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from service.errors import Unavailable
from service.outside.http import MOST_BYTES, UNREADABLE, Attempt, attempt
from service.outside.tries import asked

_TRIES = 4
_BACKOFF_S = 0.25
_LONGEST_WAIT_S = 30.0
_GONE = frozenset({404, 410})
_RELEASED_BEFORE = _GONE | {409}

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Shape = TypeVar("Shape")


class OfferedSlot(msgspec.Struct, frozen=True):
    """A time the calendar offers, `[start_time, end_time)`."""

    start_time: Instant
    end_time: Instant
    available: bool = True


class Availability(msgspec.Struct, frozen=True):
    """What the calendar offers of a coach; `timezone` is the IANA zone of its days."""

    slots: tuple[OfferedSlot, ...]
    timezone: str = "UTC"


class CalendarSettings(msgspec.Struct, frozen=True):
    """What we use of a coach's settings there: local dates on which nothing may be booked."""

    blocked_dates: tuple[date, ...] = ()
    timezone: str | None = None


class Blocked(msgspec.Struct, frozen=True):
    """The time is blocked there now; `block_id` is what releases it (None where the answer named none)."""

    block_id: str | None
    made: Attempt


class AlreadyBlocked(msgspec.Struct, frozen=True):
    """The time was blocked there before, it says: by an attempt whose answer was lost, by another appointment of ours
    that left it and is not released yet, or by somebody else.
    """

    made: Attempt


class Released(msgspec.Struct, frozen=True):
    """The block is gone."""

    made: Attempt


class NotDone(msgspec.Struct, frozen=True):
    """The calendar did not do it; the attempt says why."""

    made: Attempt


BlockResult: TypeAlias = Blocked | AlreadyBlocked | NotDone
ReleaseResult: TypeAlias = Released | NotDone


class CalendarApi:
    """Asks and tells the external calendar."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._timeout_s = timeout_s

    async def availability(self, coach_id: str, days: int) -> Availability | None:
        """The slots offered over `days` local days, today the first; None when it does not know the coach.

        Raises Unavailable after a few tries.
        """
        return await self._get(f"{self._coach(coach_id)}/availability?days={days}", Availability)

    async def settings(self, coach_id: str) -> CalendarSettings | None:
        """The coach's settings; None when the coach is not known. Raises Unavailable after a few tries."""
        return await self._get(f"{self._coach(coach_id)}/settings", CalendarSettings)

    async def block(self, coach_id: str, start: datetime, end: datetime, *, correlation_id: str) -> BlockResult:
        """Block `[start, end)` of the coach (times in UTC): one attempt."""
        made = await self._post(
            f"{self._coach(coach_id)}/block-slot", {"start_time": start, "end_time": end}, correlation_id
        )
        if made.succeeded:
            block_id = made.json().get("block_id")
            return Blocked(block_id if isinstance(block_id, str) else None, made)
        return AlreadyBlocked(made) if made.status == 409 else NotDone(made)

    async def release(self, coach_id: str, block_id: str, *, correlation_id: str) -> ReleaseResult:
        """Give a blocked time back: one attempt. A block that the calendar says is none any more is released."""
        made = await self._post(f"{self._coach(coach_id)}/release-slot", {"block_id": block_id}, correlation_id)
        return Released(made) if made.succeeded or made.status in _RELEASED_BEFORE else NotDone(made)

    def _coach(self, coach_id: str) -> str:
        return f"{self._url}/coaches/{quote(coach_id, safe='')}"

    async def _post(self, url: str, body: object, correlation_id: str) -> Attempt:
        return await attempt(
            self._session,
            "POST",
            url,
            body=body,
            headers={"X-Correlation-ID": correlation_id},
            timeout_s=self._timeout_s,
        )

    async def _get(self, url: str, shape: type[Shape]) -> Shape | None:
        made = await asked(
            "the calendar",
            lambda: attempt(self._session, "GET", url, timeout_s=self._timeout_s, most_bytes=MOST_BYTES),
            tries=_TRIES,
            base_s=_BACKOFF_S,
            longest_s=_LONGEST_WAIT_S,
        )
        if made.status in _GONE:
            return None
        if not made.succeeded:
            raise Unavailable(f"the calendar answered {made.why}")
        try:
            return msgspec.json.decode(made.body, type=shape)
        except UNREADABLE as problem:
            raise Unavailable(f"the calendar's answer is not what we expect: {problem}") from None
