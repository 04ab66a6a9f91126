"""Refusing what was refused a moment ago, for as long as nothing was freed since: a look instead of a claim.

When everybody wants the same time, nearly all requests are for one that is taken. A claim takes time and frees none;
so a claim that was `taken` would be so again until something else changes its roster or the days beside it, and of that
Redis keeps count (`freed`). Nothing here decides from memory: Redis is asked by every request whether it is still as it
was, and Postgres whether the request's key has its answer already. Whatever is not as it was goes the ordinary way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from service.batching import Batcher
from service.claims.gate import Gate
from service.claims.keys import Keys, Shards
from service.claims.messages import RateState, Refused
from service.claims.scripts import ClaimReply, StillTakenOutcome
from service.clock import Clock
from service.db.appointments import AppointmentStore
from service.domain.calendar import Calendar, Coach
from service.domain.grid import Placement
from service.errors import RateLimitExceeded, SlotUnavailable, Unavailable
from service.operations.caller import Caller
from service.operations.claiming import Claiming, used_up
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import BookingRequest, Plan
from service.operations.rosters import Rosters

MOST_REMEMBERED = 4096
# Each look costs a call of Redis and one of Postgres. Who was just answered asks again soon when everybody wants one
# time: where so many came together, as many as were answered or waited then are waited for, no longer than this.
CROWD = 4
GATHER_S = 0.004
# Who goes the ordinary way then is counted there, or told what is wrong.
_NOT_COUNTED = (StillTakenOutcome.SUSPECT, StillTakenOutcome.BROKEN)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
# What a wish for a time says of it: two that say the same would be the same claim.
_Words: TypeAlias = tuple[int, str, str | None, datetime, datetime | None]


@dataclass(slots=True)
class _Remembered:
    """A refusal: by which version of the roster, when, and what it was told; the plan but for the roster.

    Until `last` the wish may be made, by the calendar's rules. `refusal` has the alternatives that were found at
    `revision`, and is good until `until`; it is told to all who ask until then.
    """

    version: int
    epoch: int
    freed: int
    calendar: Calendar
    coach: Coach | None
    placement: Placement
    last: datetime
    refusal: SlotUnavailable | None = None
    revision: int = 0
    until: datetime = _LONG_AGO


class _Asked(Refused, frozen=True):
    """A request that waits for its answer; `seen` is where it shows how it was counted."""

    seen: RateSeen


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What Postgres has for a request's key; see `AppointmentStore.answer_of_key`."""

    fingerprint: bytes
    answer: bytes | None


# An answer of Postgres', the roster's revision at which the time is taken, why neither can be said, or None: claim.
_Told: TypeAlias = "StoredAnswer | int | RateLimitExceeded | Unavailable | None"


class RefuseAgain:
    """Remembers refusals, the latest, and says whether one still holds."""

    def __init__(
        self,
        *,
        gate: Gate,
        shards: Shards,
        appointments: AppointmentStore,
        rosters: Rosters,
        claiming: Claiming,
        clock: Clock,
        most: int,
        observe: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """`observe` is told the size of each batch."""
        self._gate = gate
        self._shards = shards
        self._appointments = appointments
        self._rosters = rosters
        self._claiming = claiming
        self._clock = clock
        self._remembered: OrderedDict[_Words, _Remembered] = OrderedDict()
        self._looks: dict[Keys, Batcher[_Asked, _Told]] = {
            keys: Batcher(
                lambda items, keys=keys: self._look(keys, items),
                most=most,
                gathering_s=GATHER_S,
                enough=most,
                more_to_come=lambda keys=keys: len(self._looks[keys]) < self._expected[keys],
                observe=observe,
            )
            for keys in shards.all
        }
        self._expected = dict.fromkeys(shards.all, 0)

    def note(self, request: BookingRequest, plan: Plan, reply: ClaimReply) -> None:
        """Remember what was `taken`."""
        words, roster, calendar = _words(request, plan.roster.org), plan.roster, plan.calendar
        last = request.start_time - timedelta(minutes=calendar.min_notice_minutes)
        self._remembered[words] = _Remembered(
            roster.version, reply.epoch, reply.second, calendar, plan.coach, plan.placement, last
        )
        self._remembered.move_to_end(words)
        while len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    async def __call__(
        self, request: BookingRequest, caller: Caller, rate: RateSeen
    ) -> StoredAnswer | SlotUnavailable | RateLimitExceeded | None:
        """The answer that the request's key has already, or why it is refused; None: it must go the ordinary way.

        Raises GateClosed or Unavailable.
        """
        words = _words(request, caller.org)
        remembered = self._remembered.get(words)
        if remembered is None:
            return None
        roster, now = self._rosters.kept(caller.org), self._clock.now()
        if (
            roster is None
            or roster.version != remembered.version
            or self._gate.epoch != remembered.epoch
            or now > remembered.last
        ):
            del self._remembered[words]
            return None
        told = await self._looks[self._shards.of(caller.org)].submit(
            _Asked(
                org=caller.org,
                version=remembered.version,
                epoch=remembered.epoch,
                freed=remembered.freed,
                rate=caller.rate if rate.state is None else None,
                key=request.idempotency_key,
                seen=rate,
            )
        )
        if isinstance(told, Unavailable):
            raise told
        if not isinstance(told, int):
            return told
        refusal = remembered.refusal
        if refusal is None or remembered.revision != told or now >= remembered.until:
            refusal = await self._claiming.refusal(
                roster, remembered.calendar, remembered.coach, remembered.placement, told
            )
            remembered.refusal, remembered.revision = refusal, told
            remembered.until = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        return refusal

    async def drain(self) -> None:
        """Wait until every batch has come back."""
        for batcher in self._looks.values():
            await batcher.drain()

    async def _look(self, keys: Keys, items: list[_Asked]) -> Sequence[_Told]:
        self._expected[keys] = 0
        told: list[_Told] = [None] * len(items)
        keyed: list[int] = []
        refused = limited = 0
        for place, (item, reply) in enumerate(zip(items, await self._gate.still_taken(keys, items), strict=True)):
            outcome = reply.outcome
            if outcome in _NOT_COUNTED:
                continue
            if item.rate is not None:
                item.seen.state = RateState.after(item.rate, reply.rate_count, reply.rate_reset_ms)
            if outcome is StillTakenOutcome.LIMITED:
                limited += 1
                told[place] = used_up(reply.rate_reset_ms)
            elif outcome is StillTakenOutcome.TAKEN:
                refused += 1
                told[place] = reply.revision
                if item.key is not None:
                    keyed.append(place)
        self._claiming.refused_again(refused, limited)
        if keyed:
            await self._look_up([(place, items[place]) for place in keyed], told)
        together = len(items) + len(self._looks[keys])
        if together >= CROWD:
            self._expected[keys] = together
        return told

    async def _look_up(self, keyed: Sequence[tuple[int, _Asked]], told: list[_Told]) -> None:
        """Put in `told` what Postgres has for the keys; Redis may have lost it, or never had it.

        Asked after Redis was: an answer is in Postgres before its mark in Redis can be gone.
        """
        try:
            stored = await self._appointments.answers_of_keys([(item.org, item.key or "") for _, item in keyed])
        except Unavailable as problem:
            for place, _ in keyed:
                told[place] = problem
            return
        for (place, _), answer in zip(keyed, stored, strict=True):
            if answer is not None:
                told[place] = StoredAnswer(*answer)


def _words(request: BookingRequest, org: int) -> _Words:
    return org, request.calendar_id, request.coach_id, request.start_time, request.end_time
