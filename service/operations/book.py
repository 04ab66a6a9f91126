"""Booking: claim the slot in Redis, commit it to Postgres, settle, answer. Without Redis, Postgres decides alone.

The whole promise of the service is in this file. Redis decides who gets a time, atomically and for everybody
waiting at once; Postgres makes it true, with constraints that refuse whatever Redis got wrong; settling tells
everybody who must hear of it. Between any two of these lines the process may die: what it leaves is a pending
claim, and the reconciler ends it one way or the other.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass

import uuid_utils

from service.claims.gate import Gate
from service.claims.messages import Admission, Answer, Mark, Release, Settlement, SlotClaim
from service.claims.scripts import ClaimOutcome, ClaimReply
from service.clock import Clock
from service.db.appointments import AppointmentStore
from service.db.commit import BookingCommitter, CommitOutcome, Committed, NewBooking
from service.domain.appointment import Appointment, render
from service.domain.assignment import draws_of
from service.domain.event import EventType
from service.errors import (
    BookingError,
    GateClosed,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    OutcomeUnknown,
    RateLimitExceeded,
    SlotUnavailable,
    Unavailable,
)
from service.failpoints import Reach, Step
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.book_ungated import BookUngated, Refused, Written
from service.operations.caller import Caller
from service.operations.claiming import LOOK_AGAIN, Claiming
from service.operations.heal_grid import HealGrid
from service.operations.local_rates import RateSeen
from service.operations.plan_booking import BookingRequest, Plan, appointment_of, plan_of
from service.operations.refuse_again import RefuseAgain, StoredAnswer
from service.operations.rosters import Rosters
from service.operations.settle_change import SettleChange
from service.operations.tracking import TrackedTasks

CLAIM_ATTEMPTS = 6
# How long a booking waits for a duplicate of itself, or follows a roster and a grid that keep changing under it.
PATIENCE_S = 5.0
# It looks soon, because a booking that is just made is settled in a moment; then ever later.
FIRST_LOOK_S, LAST_LOOK_S = 0.01, 0.08

_log = get_logger("operations.book")


@dataclass(frozen=True, slots=True)
class Booked:
    """The answer to a booking: the appointment as JSON, and whether it was given before."""

    appointment_id: str
    body: bytes
    replayed: bool


class Book:
    """Makes appointments."""

    def __init__(
        self,
        *,
        gate: Gate,
        committer: BookingCommitter,
        appointments: AppointmentStore,
        rosters: Rosters,
        claiming: Claiming,
        refuse_again: RefuseAgain,
        ungated: BookUngated,
        heal: HealGrid,
        settle: SettleChange,
        tasks: TrackedTasks,
        clock: Clock,
        metrics: Metrics,
        reach: Reach | None = None,
    ) -> None:
        self._gate = gate
        self._committer = committer
        self._appointments = appointments
        self._rosters = rosters
        self._claiming = claiming
        self._refuse_again = refuse_again
        self._ungated = ungated
        self._heal = heal
        self._settling = settle
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._reach = reach

    async def __call__(self, request: BookingRequest, caller: Caller, rate: RateSeen) -> Booked:
        """Book, or give the answer the idempotency key already has.

        Raises NotFound, InvalidRequest, SlotUnavailable (with alternatives), RateLimitExceeded,
        IdempotencyKeyReused, IdempotencyInProgress, Unavailable (nothing happened) or OutcomeUnknown (retry with
        the same key). Goes on to its end when the caller is cancelled.
        """
        booked = await self.ask(request, caller, rate)
        if isinstance(booked, BookingError):
            raise booked.with_traceback(None)  # one that is told to many would keep every place it was raised at
        return booked

    async def ask(
        self, request: BookingRequest, caller: Caller, rate: RateSeen
    ) -> Booked | SlotUnavailable | RateLimitExceeded:
        """As the call, but gives back a refusal that is told again.

        When everybody wants one time nearly every answer is that, and raising it through the edge took a tenth of the
        answer's Python.
        """
        try:
            again = await self._refuse_again(request, caller, rate)
        except GateClosed:
            again = None
        if again is None:
            return await self._tasks.run(self._book(request, caller, rate))
        if isinstance(again, StoredAnswer):
            return _checked_replay(request, again.fingerprint, again.answer)
        return again

    async def _book(self, request: BookingRequest, caller: Caller, rate: RateSeen) -> Booked:
        attempts, look_s = 0, FIRST_LOOK_S
        clock = asyncio.get_running_loop().time
        give_up = clock() + PATIENCE_S
        while attempts < CLAIM_ATTEMPTS and clock() < give_up:
            roster = await self._rosters.get(caller.org)
            try:
                plan = plan_of(request, roster, self._clock.now())
            except BookingError as problem:
                if (await self._rosters.current(caller.org)).version != roster.version:
                    continue  # what an old roster refuses a new one may not
                return await self._replay_or_raise(problem, request, caller, rate, give_up)
            appointment_id = uuid.UUID(int=uuid_utils.uuid7().int)
            try:
                reply = await self._claiming.ask(self._admission(request, caller, rate, plan, appointment_id.hex), rate)
            except GateClosed:
                # Should the claim be in Redis after all, the reconciler gives it up: its id is never written.
                reply = None
            if reply is None or reply.outcome is ClaimOutcome.CLAIMED:
                if self._reach and reply is not None:
                    await self._reach(Step.BOOKING_CLAIMED)
                booked = await (
                    self._without_redis(request, caller)
                    if reply is None
                    else self._commit(request, caller, plan, appointment_id, reply)
                )
                if booked is not None:
                    return booked
                attempts += 1
            elif reply.outcome is ClaimOutcome.IN_PROGRESS:
                if clock() + look_s >= give_up:
                    return await self._answer_of_duplicate(request, caller)
                await asyncio.sleep(look_s)
                look_s = min(2 * look_s, LAST_LOOK_S)
            elif reply.outcome not in LOOK_AGAIN:
                return await self._not_claimed(request, caller, plan, reply)
            else:
                await self._claiming.catch_up(plan, reply)
        # With Redis it came to no answer; Postgres can always give one.
        booked = await self._without_redis(request, caller)
        if booked is None:
            raise Unavailable("repeated attempts at this time came to no answer")
        return booked

    async def _answer_of_duplicate(self, request: BookingRequest, caller: Caller) -> Booked:
        """Postgres' answer: Redis may have lost it, or who set the mark may have gone on without Redis.

        Raises IdempotencyInProgress.
        """
        replay = await self._stored_answer(request, caller)
        if replay is None:
            raise IdempotencyInProgress("a request with this idempotency key is still being carried out")
        return replay

    async def _without_redis(self, request: BookingRequest, caller: Caller) -> Booked | None:
        """Book with Postgres alone; None when it must be tried again."""
        try:
            decided = await self._ungated(request, caller)
        except OutcomeUnknown:
            self._metrics.unknown_commits.inc()
            raise
        except Unavailable:
            raise
        except BookingError as problem:
            replay = await self._stored_answer(request, caller)
            if replay is None:
                raise problem
            return replay
        match decided:
            case Written(appointment_id=appointment_id, body=body):
                self._gate.fall_behind()
                return Booked(str(appointment_id), body, replayed=False)
            case Refused(plan=plan):
                replay = await self._stored_answer(request, caller)
                if replay is not None:
                    return replay
                raise await self._claiming.taken(plan, time.monotonic_ns())
            case Committed(outcome=CommitOutcome.REPEATED):
                return _checked_replay(request, decided.fingerprint, decided.answer)
            case Committed(outcome=CommitOutcome.HELD):
                raise _held()
            case _:
                return None

    async def _not_claimed(self, request: BookingRequest, caller: Caller, plan: Plan, reply: ClaimReply) -> Booked:
        """The answer the key has, or why there is none: the time is taken, the key stands for another request."""
        if reply.outcome is ClaimOutcome.REPLAY:
            return _replayed(reply.first)
        if reply.outcome is ClaimOutcome.REUSED:
            raise _reused()
        if reply.outcome is not ClaimOutcome.TAKEN:
            raise AssertionError(f"the gate answered {reply.outcome} to a claim")
        self._refuse_again.note(request, plan, reply)
        replay = await self._stored_answer(request, caller)
        if replay is not None:
            return replay
        raise await self._claiming.taken(plan, reply.first)

    def _admission(self, request: BookingRequest, caller: Caller, rate: RateSeen, plan: Plan, token: str) -> Admission:
        claim = SlotClaim(
            org=caller.org,
            version=plan.roster.version,
            width=plan.roster.width,
            calendar_number=plan.calendar.number or 0,
            token=token,
            placement=plan.placement,
            zones=plan.zones,
            strategy=plan.strategy,
            column=-1 if plan.coach is None else plan.coach.column,
            draws=draws_of(plan.calendar.team, int(token, 16)),
            idempotency_key=request.idempotency_key,
        )
        return Admission(
            org=caller.org,
            rate=caller.rate if rate.state is None else None,
            mark=self._mark(request, token),
            claim=claim,
        )

    @staticmethod
    def _mark(request: BookingRequest, token: str) -> Mark | None:
        return None if request.idempotency_key is None else Mark(request.idempotency_key, request.fingerprint, token)

    async def _commit(
        self, request: BookingRequest, caller: Caller, plan: Plan, appointment_id: uuid.UUID, reply: ClaimReply
    ) -> Booked | None:
        """Commit a claim and settle it; None when the time turned out to be somebody else's (claim again)."""
        considered: bytes = reply.second
        appointment = appointment_of(
            request, plan, appointment_id, reply.first, len(considered) // 10, self._clock.now()
        )
        try:
            body = render(appointment)
            booking = NewBooking(
                appointment=appointment,
                idempotency_key=request.idempotency_key,
                fingerprint=bytes.fromhex(request.fingerprint),
                actor=caller.actor,
                correlation_id=caller.correlation_id,
                considered=considered,
                data=body,
                epoch=reply.epoch,
                revision=reply.revision,
            )
            if self._reach:
                await self._reach(Step.BOOKING_BEFORE_COMMIT)
            committed = await self._committer.commit(booking)
        except (OutcomeUnknown, asyncio.CancelledError):
            # The claim stays pending: whether the row is there will be known to the reconciler, not to us.
            self._metrics.unknown_commits.inc()
            raise
        except Exception:
            await self._release(request, plan, appointment)
            # As in `_lost`; but nobody waits for it, because what refused the row may refuse the repair as well.
            self._settling.repair_soon(appointment)
            raise
        if committed.outcome is CommitOutcome.TAKEN:
            if self._reach:
                await self._reach(Step.BOOKING_COMMITTED)
            settled = self._settle(request, plan, appointment, body)
            if self._reach:
                self._tasks.begin(self._reach_settled(settled))
            return Booked(str(appointment_id), body, replayed=False)
        return await self._lost(request, plan, appointment, committed)

    def _settle(
        self, request: BookingRequest, plan: Plan, appointment: Appointment, body: bytes
    ) -> asyncio.Future[None]:
        """Let Redis be told, which the answer does not wait for: committed is committed, whatever Redis says.

        Until then the claim is pending and the key in progress; should this process die, the reconciler settles it.
        """
        token = appointment.appointment_id.hex
        answer = None
        if request.idempotency_key is not None:
            answer = Answer(request.idempotency_key, request.fingerprint, 201, token, body)
        settlement = Settlement(
            org=appointment.org,
            token=token,
            event=f"{appointment.org} {token} 1",
            streams=plan.roster.heard_by(EventType.CREATED),
            answer=answer,
        )
        return self._settling.settle_soon(settlement, appointment)

    async def _reach_settled(self, settled: asyncio.Future[None]) -> None:
        await settled
        if self._reach:
            await self._reach(Step.BOOKING_SETTLED)

    async def _lost(
        self, request: BookingRequest, plan: Plan, appointment: Appointment, committed: Committed
    ) -> Booked | None:
        await self._release(request, plan, appointment)
        # Whoever booked its time without Redis, and was shown to the grid before the release, was freed with it.
        await self._settling.repair(appointment)
        if committed.outcome is CommitOutcome.REPEATED:
            return _checked_replay(request, committed.fingerprint, committed.answer)
        if committed.outcome is CommitOutcome.HELD:
            raise _held()
        if committed.outcome is CommitOutcome.LOST:
            # Redis allowed what the constraint refused: somebody is there whom the grid does not show.
            self._metrics.backstop_conflicts.inc()
            _log.warning("backstop conflict", coach_id=appointment.coach_id, start=appointment.start_time.isoformat())
        if committed.outcome is CommitOutcome.FENCED:
            self._metrics.fenced_commits.inc()
            try:
                await self._heal.coach(appointment.org, appointment.column)
            except Unavailable as problem:
                _log.info("coach-day not repaired", coach_id=appointment.coach_id, error=problem.message)
        return None

    async def _release(self, request: BookingRequest, plan: Plan, appointment: Appointment) -> None:
        release = Release(
            org=appointment.org,
            token=appointment.appointment_id.hex,
            placement=plan.placement,
            local_day=appointment.local_day,
            idempotency_key=request.idempotency_key,
        )
        try:
            await self._gate.release(release)
        except Unavailable as problem:
            _log.warning("claim not released", appointment_id=str(appointment.appointment_id), error=problem.message)

    async def _replay_or_raise(
        self, problem: BookingError, request: BookingRequest, caller: Caller, rate: RateSeen, give_up: float
    ) -> Booked:
        """The answer the key already has, or gets by `give_up`, else `problem`.

        A request that was fine when it was first made gets its answer again, whatever the rules say by now.
        """
        mark = self._mark(request, "")
        if mark is None:
            raise problem
        clock, look_s = asyncio.get_running_loop().time, FIRST_LOOK_S
        while True:
            admission = Admission(caller.org, rate=caller.rate if rate.state is None else None, mark=mark)
            try:
                reply = await self._claiming.ask(admission, rate)
            except GateClosed:
                if look_s > FIRST_LOOK_S:  # somebody was carrying it out a moment ago
                    return await self._answer_of_duplicate(request, caller)
                break  # Postgres knows as well
            if reply.outcome is ClaimOutcome.REPLAY:
                return _replayed(reply.first)
            if reply.outcome is not ClaimOutcome.IN_PROGRESS:
                break
            # Who is told now that it was refused would not ask again, and may be booked in a moment.
            if clock() + look_s >= give_up:
                return await self._answer_of_duplicate(request, caller)
            await asyncio.sleep(look_s)
            look_s = min(2 * look_s, LAST_LOOK_S)
        replay = await self._stored_answer(request, caller)
        if replay is None:
            raise problem
        return replay

    async def _stored_answer(self, request: BookingRequest, caller: Caller) -> Booked | None:
        """The answer Postgres has for the request's key; Redis may have been lost since it was given."""
        if request.idempotency_key is None:
            return None
        stored = await self._appointments.answer_of_key(caller.org, request.idempotency_key)
        return None if stored is None else _checked_replay(request, *stored)


def _replayed(body: bytes) -> Booked:
    return Booked("", body, replayed=True)


def _checked_replay(request: BookingRequest, fingerprint: bytes | None, answer: bytes | None) -> Booked:
    if fingerprint is None or answer is None or fingerprint.hex() != request.fingerprint:
        raise _reused()
    return _replayed(answer)


def _held() -> IdempotencyInProgress:
    return IdempotencyInProgress("another request with this idempotency key is still being carried out")


def _reused() -> IdempotencyKeyReused:
    return IdempotencyKeyReused("this idempotency key was used for a different request")
