"""Booking with Postgres alone, for as long as Redis cannot be asked.

Everybody waiting in one moment is decided for in one transaction that holds the gate's lock alone: it reads the days
as they are, chooses by the rule that Redis chooses by, and writes. Nobody else commits a booking meanwhile, so what it
read is still so when it commits: no time is given twice and no daily limit exceeded.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass
from typing import Any

import uuid_utils

from service.batching import Batcher
from service.claims.messages import Settlement
from service.clock import Clock
from service.db.commit import CommitOutcome, Committed, NewBooking, commit_within, find_attempted
from service.db.gate import CoachDays, GateStore, note_repairs
from service.domain.appointment import Appointment, render
from service.domain.assignment import draws_of
from service.domain.calendar import Roster
from service.domain.coach_grid import CoachGrid, Held, Wanted
from service.domain.event import EventType
from service.errors import BookingError, InvalidRequest, KeyJustBegun, OutcomeUnknown, Unavailable
from service.metrics import Metrics
from service.operations.caller import Caller
from service.operations.plan_booking import BookingRequest, Plan, appointment_of, columns_of, plan_of
from service.operations.postgres_grids import PostgresGrids
from service.operations.settle_change import SettleChange, coach_days_of

MOST_IN_ONE_DECISION = 64
ATTEMPTS = 3


@dataclass(slots=True)
class Wish:
    """A request and the id its appointment will have, whatever becomes of the attempts to write it."""

    request: BookingRequest
    caller: Caller
    appointment_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody of `plan` was free."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Written:
    """The appointment was written; its JSON."""

    appointment_id: uuid.UUID
    body: bytes


Decided = Written | Refused | Committed | BookingError


@dataclass(slots=True)
class _Chosen:
    wish: Wish
    plan: Plan
    appointment: Appointment
    booking: NewBooking


class BookUngated:
    """Makes appointments without Redis."""

    def __init__(
        self, *, store: GateStore, grids: PostgresGrids, settle: SettleChange, clock: Clock, metrics: Metrics
    ) -> None:
        self._store = store
        self._grids = grids
        self._settle = settle
        self._clock = clock
        self._counted = metrics.ungated.labels("book")
        self._chance = random.Random()
        self._batcher: Batcher[Wish, Decided] = Batcher(self._carry_out, most=MOST_IN_ONE_DECISION)

    async def __call__(self, request: BookingRequest, caller: Caller) -> Written | Refused | Committed:
        """What became of the request; a Committed is the answer its idempotency key has already, or is held for.

        Raises NotFound, InvalidRequest, Unavailable (nothing was written) or OutcomeUnknown.
        """
        wish = Wish(request, caller, uuid.UUID(int=uuid_utils.uuid7().int))
        decided = await self._batcher.submit(wish)
        if isinstance(decided, BookingError):
            raise decided
        return decided

    async def drain(self) -> None:
        """Wait until everything under way is decided."""
        await self._batcher.drain()

    async def _carry_out(self, wishes: list[Wish]) -> list[Decided]:
        unknown: OutcomeUnknown | None = None
        for org in {wish.caller.org for wish in wishes}:
            await self._grids.remember_deficits(org)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._decide(wishes, again=unknown is not None)
            except InvalidRequest as problem:
                if len(wishes) == 1:
                    return [problem]
                # One of them cannot be stored. Alone, each tells for itself.
                return [await self._alone(wish) for wish in wishes]
            except OutcomeUnknown as problem:
                unknown = problem
            except Unavailable as problem:
                if unknown is None and attempt == ATTEMPTS:
                    if len(wishes) > 1 and isinstance(problem, KeyJustBegun):  # whoever does that need not stop others
                        return [await self._alone(wish) for wish in wishes]
                    raise
            await asyncio.sleep(self._chance.uniform(0, 0.05 * 2**attempt))
        raise unknown or AssertionError("an attempt ends by itself unless its answer was lost")

    async def _alone(self, wish: Wish) -> Decided:
        try:
            return (await self._carry_out([wish]))[0]
        except BookingError as problem:
            return problem

    async def _decide(self, wishes: list[Wish], *, again: bool) -> list[Decided]:
        results: dict[uuid.UUID, Decided] = {}
        told: list[_Chosen] = []
        async with self._store.alone() as connection:
            if again:
                # Whoever wrote them held the lock, so they are here to be seen, or will never be.
                ids = [(wish.caller.org, wish.appointment_id) for wish in wishes]
                for appointment_id, body in (await find_attempted(connection, ids)).items():
                    results[appointment_id] = Written(appointment_id, body)
            chosen = await self._choose(connection, [w for w in wishes if w.appointment_id not in results], results)
            outcomes = await commit_within(connection, [one.booking for one in chosen]) if chosen else []
            noted: list[CoachDays] = []
            for one, outcome in zip(chosen, outcomes, strict=True):
                if outcome.outcome is CommitOutcome.TAKEN:
                    results[one.wish.appointment_id] = Written(one.wish.appointment_id, one.booking.data)
                    noted.append(coach_days_of(one.appointment))
                    told.append(one)
                else:
                    results[one.wish.appointment_id] = outcome
            await note_repairs(connection, noted)
        for one in told:
            self._counted.inc()
            event = f"{one.appointment.org} {one.appointment.appointment_id.hex} 1"
            streams = one.plan.roster.heard_by(EventType.CREATED)
            await self._settle.settle(Settlement(one.appointment.org, None, event, streams))
        return [results[wish.appointment_id] for wish in wishes]

    async def _choose(self, connection: Any, wishes: list[Wish], results: dict[uuid.UUID, Decided]) -> list[_Chosen]:
        """Choose for each in turn, each seeing what those before got; who gets nothing is in `results`."""
        plans: dict[int, list[tuple[Wish, Plan]]] = {}
        rosters: dict[int, Roster] = {}
        for wish in wishes:
            org = wish.caller.org
            if org not in rosters:
                rosters[org] = await self._grids.roster(connection, org)
            try:
                plans.setdefault(org, []).append((wish, plan_of(wish.request, rosters[org], self._clock.now())))
            except BookingError as problem:
                results[wish.appointment_id] = problem
        chosen: list[_Chosen] = []
        for org, planned in plans.items():
            days = {day for _, plan in planned for day in days_of(plan)}
            columns = {column for _, plan in planned for column in columns_of(plan.calendar, plan.coach)}
            grid = await self._grids.grid(connection, rosters[org], columns, days)
            for wish, plan in planned:
                one = self._give(grid, wish, plan)
                if one is None:
                    results[wish.appointment_id] = Refused(plan)
                else:
                    chosen.append(one)
        return chosen

    def _give(self, grid: CoachGrid, wish: Wish, plan: Plan) -> _Chosen | None:
        claimed = grid.claim(wanted_of(plan, wish.appointment_id.int))
        if claimed is None:
            return None
        appointment = appointment_of(
            wish.request, plan, wish.appointment_id, claimed.column, len(claimed.considered), self._clock.now()
        )
        booking = NewBooking(
            appointment=appointment,
            idempotency_key=wish.request.idempotency_key,
            fingerprint=bytes.fromhex(wish.request.fingerprint),
            actor=wish.caller.actor,
            correlation_id=wish.caller.correlation_id,
            considered=claimed.packed(),
            data=render(appointment),
        )
        return _Chosen(wish, plan, appointment, booking)


def wanted_of(plan: Plan, turn: int, held: Held | None = None) -> Wanted:
    """What a plan wants of the grid; `turn` is any number, `held` what an appointment that moves has already."""
    return Wanted(
        team=plan.calendar.team,
        placement=plan.placement,
        zones=plan.zones,
        strategy=plan.strategy,
        column=-1 if plan.coach is None else plan.coach.column,
        draws=draws_of(plan.calendar.team, turn),
        held=held,
    )


def days_of(plan: Plan) -> set[int]:
    """The days of the grid a plan is decided by."""
    return {part.day for part in plan.placement.segments()} | {day for _, day in plan.zones}
