"""What a booking and a move have in common at the gate: asking it, and following what it says.

The gate decides by the roster and the days it has. Whoever asks by an older roster, or for a day that is not
there, is told so, learns it here and asks again.
"""

from __future__ import annotations

from dataclasses import replace

from service.claims.gate import Gate
from service.claims.messages import Admission, RateState
from service.claims.scripts import ClaimOutcome, ClaimReply
from service.domain.calendar import Calendar, Coach, Roster
from service.domain.grid import CELL_MINUTES, Placement
from service.errors import GateClosed, ItemBroken, RateLimitExceeded, SlotUnavailable
from service.metrics import Metrics
from service.operations.find_availability import FindAvailability
from service.operations.keep_grid import GridKeeper
from service.operations.local_rates import LocalRates, RateSeen
from service.operations.plan_booking import Plan
from service.operations.rosters import Rosters

LOOK_AGAIN = frozenset({ClaimOutcome.STALE, ClaimOutcome.UNKNOWN_ORG, ClaimOutcome.UNKNOWN_DAY})


class Claiming:
    """Asks the gate."""

    def __init__(
        self,
        *,
        gate: Gate,
        rates: LocalRates,
        rosters: Rosters,
        keeper: GridKeeper,
        availability: FindAvailability,
        metrics: Metrics,
    ) -> None:
        self._gate = gate
        self._rates = rates
        self._rosters = rosters
        self._keeper = keeper
        self._availability = availability
        self._counted = {outcome: metrics.claims.labels(outcome.value) for outcome in ClaimOutcome}

    async def ask(self, admission: Admission, rate: RateSeen) -> ClaimReply:
        """The gate's reply. Raises RateLimitExceeded when the request was one too many, GateClosed or Unavailable."""
        try:
            reply = await self._gate.admit(admission)
        except GateClosed:
            if admission.rate is not None:
                self._rates.count(admission.rate, rate)
            raise
        except ItemBroken:
            self._counted[ClaimOutcome.BROKEN].inc()
            raise
        self._counted[reply.outcome].inc()
        if admission.rate is not None:
            rate.state = RateState.after(admission.rate, reply.rate_count, reply.rate_reset_ms)
            if reply.outcome is ClaimOutcome.LIMITED:
                raise used_up(reply.rate_reset_ms)
        return reply

    def refused_again(self, refusals: int, limited: int) -> None:
        """So many requests were told what was `taken` before, and so many were `limited`, without a claim."""
        if refusals:
            self._counted[ClaimOutcome.TAKEN].inc(refusals)
        if limited:
            self._counted[ClaimOutcome.LIMITED].inc(limited)

    async def catch_up(self, plan: Plan, reply: ClaimReply) -> None:
        """Learn what the gate said is missing or out of date: the roster, or days of the grid. Raises Unavailable.

        Where Redis cannot be asked any more that is for the next question to find out.
        """
        try:
            if reply.outcome is ClaimOutcome.UNKNOWN_DAY:
                days = {part.day for part in plan.placement.segments()} | {day for _, day in plan.zones}
                await self._keeper.derive(plan.roster.org, sorted(days))
            else:
                await self._rosters.refresh(plan.roster.org, plan.roster)
        except GateClosed:
            return

    async def taken(self, plan: Plan, revision: int) -> SlotUnavailable:
        """The refusal of a time that nobody could take, with the next free ones."""
        return await self.refusal(plan.roster, plan.calendar, plan.coach, plan.placement, revision)

    async def refusal(
        self, roster: Roster, calendar: Calendar, coach: Coach | None, placement: Placement, revision: int
    ) -> SlotUnavailable:
        """`taken` of a placement: with the next free starts behind it, for appointments of its length."""
        # Of the length that was asked for, which need not be the calendar's.
        minutes = (placement.end - placement.start) * CELL_MINUTES
        if minutes != calendar.slot_duration:
            calendar = replace(calendar, slot_duration=minutes)
        free = await self._availability.next_free(roster, calendar, coach, placement.starts_at, revision, most=3)
        return SlotUnavailable("nobody who could take this time is free", details={"alternatives": free})


def used_up(reset_ms: int) -> RateLimitExceeded:
    """The refusal of a request that was one too many in a window that ends so soon."""
    return RateLimitExceeded("the requests of this window are used up", retry_after_s=max(1, -(-reset_ms // 1000)))
