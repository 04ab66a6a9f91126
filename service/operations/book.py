"""Booking: claim the slot in Redis, commit it to Postgres, settle, answer.

The whole promise of the service is in this file. Redis decides who gets a time, atomically and for everybody
waiting at once; Postgres makes it true, with constraints that refuse whatever Redis got wrong; settling tells
everybody who must hear of it. Between any two of these lines the process may die: what it leaves is a pending
claim, and the reconciler ends it one way or the other.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import uuid_utils

from service.claims.gate import Admission, Answer, Gate, Mark, RateState, Release, Settlement, SlotClaim
from service.claims.scripts import ClaimOutcome, ClaimReply
from service.clock import Clock
from service.db.appointments import AppointmentStore, BookingCommitter, CommitOutcome, Committed, NewBooking
from service.domain.appointment import Appointment, Status, render
from service.domain.assignment import Strategy
from service.domain.calendar import Calendar, Coach, Roster, aligned_groups, earliest_start, latest_start
from service.domain.event import EventType, heard_by
from service.domain.grid import CELL_MINUTES, Placement, instant_of
from service.errors import (
    BookingError,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InvalidRequest,
    OutcomeUnknown,
    RateLimitExceeded,
    SlotUnavailable,
    Unavailable,
)
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.caller import Caller
from service.operations.find_availability import FindAvailability
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import Rosters
from service.operations.tracking import TrackedTasks

CLAIM_ATTEMPTS = 6
DUPLICATE_WAIT_S = 5.0
DUPLICATE_LOOK_S = 0.05

_log = get_logger("operations.book")


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingRequest:
    """A checked wish for an appointment; times are aware, `fingerprint` (32 hex digits) stands for the request."""

    calendar_id: str
    start_time: datetime
    end_time: datetime | None
    contact_email: str
    contact_name: str | None
    notes: str | None
    timezone: str | None
    coach_id: str | None
    metadata: dict[str, Any]
    idempotency_key: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Booked:
    """The answer to a booking: the appointment as JSON, and whether it was given before."""

    appointment_id: str
    body: bytes
    replayed: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """A request measured against a roster: what would be claimed."""

    roster: Roster
    calendar: Calendar
    coach: Coach | None
    placement: Placement
    zones: tuple[tuple[int | None, int], ...]
    strategy: Strategy


class RateSeen:
    """Where the key stands, as soon as the gate has said so; the edge shows it even when the operation fails."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: RateState | None = None


class Book:
    """Makes appointments."""

    def __init__(
        self,
        *,
        gate: Gate,
        committer: BookingCommitter,
        appointments: AppointmentStore,
        rosters: Rosters,
        keeper: GridKeeper,
        availability: FindAvailability,
        tasks: TrackedTasks,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._gate = gate
        self._committer = committer
        self._appointments = appointments
        self._rosters = rosters
        self._keeper = keeper
        self._availability = availability
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._counted = {outcome: metrics.claims.labels(outcome.value) for outcome in ClaimOutcome}

    async def __call__(self, request: BookingRequest, caller: Caller, rate: RateSeen) -> Booked:
        """Book, or give the answer the idempotency key already has.

        Raises NotFound, InvalidRequest, SlotUnavailable (with alternatives), RateLimitExceeded,
        IdempotencyKeyReused, IdempotencyInProgress, Unavailable (nothing happened) or OutcomeUnknown (retry with
        the same key). Goes on to its end when the caller is cancelled.
        """
        return await self._tasks.run(self._book(request, caller, rate))

    async def _book(self, request: BookingRequest, caller: Caller, rate: RateSeen) -> Booked:
        attempts = 0
        give_up_waiting = asyncio.get_running_loop().time() + DUPLICATE_WAIT_S
        while attempts < CLAIM_ATTEMPTS:
            try:
                plan = self._plan(request, await self._rosters.get(caller.org))
            except BookingError as problem:
                return await self._replay_or_raise(problem, request, caller, rate)
            appointment_id = uuid.UUID(int=uuid_utils.uuid7().int)
            reply = await self._admit(self._admission(request, caller, rate, plan, appointment_id.hex), rate)
            if reply.outcome is ClaimOutcome.CLAIMED:
                booked = await self._commit(request, caller, plan, appointment_id, reply)
                if booked is not None:
                    return booked
            elif reply.outcome is ClaimOutcome.IN_PROGRESS:
                if asyncio.get_running_loop().time() >= give_up_waiting:
                    raise IdempotencyInProgress("a request with this idempotency key is still being carried out")
                await asyncio.sleep(DUPLICATE_LOOK_S)
                continue
            elif reply.outcome in (ClaimOutcome.STALE, ClaimOutcome.UNKNOWN_ORG):
                await self._rosters.refresh(caller.org, plan.roster)
            elif reply.outcome is ClaimOutcome.UNKNOWN_DAY:
                days = {part.day for part in plan.placement.segments()} | {day for _, day in plan.zones}
                await self._keeper.derive(caller.org, sorted(days))
            else:
                return await self._not_claimed(request, caller, plan, reply)
            attempts += 1
        raise Unavailable("repeated attempts at this time came to no answer")

    async def _not_claimed(self, request: BookingRequest, caller: Caller, plan: _Plan, reply: ClaimReply) -> Booked:
        """The answer the key has, or why there is none: the time is taken, the key stands for another request."""
        if reply.outcome is ClaimOutcome.REPLAY:
            return _replayed(reply.first)
        if reply.outcome is ClaimOutcome.REUSED:
            raise _reused()
        if reply.outcome is not ClaimOutcome.TAKEN:
            raise AssertionError(f"the gate answered {reply.outcome} to a claim")
        replay = await self._stored_answer(request, caller)
        if replay is not None:
            return replay
        raise await self._unavailable(plan, reply.first)

    def _plan(self, request: BookingRequest, roster: Roster) -> _Plan:
        """What the request would take. Raises NotFound or InvalidRequest."""
        calendar = roster.calendar(request.calendar_id)
        coach = None if request.coach_id is None else roster.coach(request.coach_id)
        now, start = self._clock.now(), request.start_time
        if start <= now:
            raise InvalidRequest([("start_time", "is in the past")])
        if start < earliest_start(calendar, now):
            raise InvalidRequest([("start_time", f"needs at least {calendar.min_notice_minutes} minutes' notice")])
        if start > latest_start(calendar, now):
            raise InvalidRequest([("start_time", f"is more than {calendar.max_days_ahead} days ahead")])
        end = self._end(request, calendar)
        columns = calendar.team if coach is None else (coach.column,)
        if coach is not None and coach.column not in calendar.team:
            raise InvalidRequest([("coach_id", f"{coach.coach_id!r} is not booked through {calendar.calendar_id!r}")])
        off_grid = InvalidRequest(
            [("start_time", f"is not on the calendar's grid of {calendar.slot_interval} minutes")]
        )
        if start.second or start.microsecond or start.minute % CELL_MINUTES:
            raise off_grid
        groups = aligned_groups(roster.zone_groups(columns), start, calendar.slot_interval)
        if not groups and columns:
            raise off_grid
        placement = Placement.of(start, end, calendar.buffer_before, calendar.buffer_after)
        # One zone in the whole roster needs no mask in the script.
        one_zone = len(roster.zones) == 1
        zones = tuple((None if one_zone else group.number, day) for group, day in groups)
        strategy = Strategy.REQUESTED if coach is not None else calendar.assignment
        return _Plan(roster, calendar, coach, placement, zones, strategy)

    @staticmethod
    def _end(request: BookingRequest, calendar: Calendar) -> datetime:
        usual = request.start_time + timedelta(minutes=calendar.slot_duration)
        if request.end_time is None or request.end_time == usual:
            return usual
        if calendar.max_duration is None:
            raise InvalidRequest([("end_time", f"this calendar's appointments take {calendar.slot_duration} minutes")])
        minutes = (request.end_time - request.start_time) / timedelta(minutes=1)
        if minutes % CELL_MINUTES or not CELL_MINUTES <= minutes <= calendar.max_duration:
            raise InvalidRequest(
                [("end_time", f"must be a multiple of 5 minutes after the start, at most {calendar.max_duration}")]
            )
        return request.end_time

    def _admission(self, request: BookingRequest, caller: Caller, rate: RateSeen, plan: _Plan, token: str) -> Admission:
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
            turn=int(token[-4:], 16),
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

    async def _admit(self, admission: Admission, rate: RateSeen) -> ClaimReply:
        reply = await self._gate.admit(admission)
        self._counted[reply.outcome].inc()
        if admission.rate is not None:
            rate.state = RateState.after(admission.rate, reply.rate_count, reply.rate_reset_ms)
            if reply.outcome is ClaimOutcome.LIMITED:
                raise RateLimitExceeded(
                    "the requests of this window are used up", retry_after_s=max(1, -(-reply.rate_reset_ms // 1000))
                )
        return reply

    async def _commit(
        self, request: BookingRequest, caller: Caller, plan: _Plan, appointment_id: uuid.UUID, reply: ClaimReply
    ) -> Booked | None:
        """Commit a claim and settle it; None when the time turned out to be somebody else's (claim again)."""
        considered: bytes = reply.second
        appointment = self._appointment(request, plan, appointment_id, reply.first, len(considered) // 10)
        body = render(appointment)
        booking = NewBooking(
            appointment=appointment,
            idempotency_key=request.idempotency_key,
            fingerprint=bytes.fromhex(request.fingerprint),
            actor=caller.actor,
            correlation_id=caller.correlation_id,
            considered=considered,
            data=body,
        )
        try:
            committed = await self._committer.commit(booking)
        except OutcomeUnknown:
            # The claim stays pending: whether the row is there will be known to the reconciler, not to us.
            self._metrics.unknown_commits.inc()
            raise
        except BaseException:
            await self._release(request, plan, appointment)
            raise
        if committed.outcome is CommitOutcome.TAKEN:
            await self._settle(request, appointment, body)
            return Booked(str(appointment_id), body, replayed=False)
        return await self._lost(request, plan, appointment, committed)

    def _appointment(
        self, request: BookingRequest, plan: _Plan, appointment_id: uuid.UUID, column: int, considered: int
    ) -> Appointment:
        coach = plan.roster.coach_by_column[column]
        now = self._clock.now()
        return Appointment(
            org=plan.roster.org,
            appointment_id=appointment_id,
            calendar_number=plan.calendar.number or 0,
            calendar_id=plan.calendar.calendar_id,
            column=column,
            coach_id=coach.coach_id,
            contact_id=contact_id_of(plan.roster.org, request.contact_email),
            contact_email=request.contact_email,
            contact_name=request.contact_name,
            start_time=plan.placement.starts_at,
            end_time=plan.placement.ends_at,
            occupied_start=instant_of(plan.placement.occupied_start),
            occupied_end=instant_of(plan.placement.occupied_end),
            local_day=self._local_day(plan, coach),
            timezone=request.timezone,
            status=Status.SCHEDULED,
            notes=request.notes,
            metadata=request.metadata,
            version=1,
            created_at=now,
            updated_at=now,
            strategy=plan.strategy.value,
            considered=considered,
        )

    @staticmethod
    def _local_day(plan: _Plan, coach: Coach) -> int:
        number = plan.roster.zone_numbers[coach.timezone]
        return next(day for zone, day in plan.zones if zone is None or zone == number)

    async def _settle(self, request: BookingRequest, appointment: Appointment, body: bytes) -> None:
        answer = None
        if request.idempotency_key is not None:
            answer = Answer(request.idempotency_key, request.fingerprint, 201, appointment.appointment_id.hex, body)
        settlement = Settlement(
            org=appointment.org,
            token=appointment.appointment_id.hex,
            event=f"{appointment.org} {appointment.appointment_id.hex} 1",
            streams=tuple(heard_by(EventType.CREATED)),
            answer=answer,
        )
        try:
            await self._gate.settle(settlement)
        except Unavailable as problem:
            # Committed is committed: the answer is 201, and the reconciler announces it when Redis is back.
            self._metrics.unsettled.inc()
            _log.warning("booking not settled", appointment_id=str(appointment.appointment_id), error=problem.message)

    async def _lost(
        self, request: BookingRequest, plan: _Plan, appointment: Appointment, committed: Committed
    ) -> Booked | None:
        await self._release(request, plan, appointment)
        if committed.outcome is CommitOutcome.REPEATED:
            return _checked_replay(request, committed.fingerprint, committed.answer)
        if committed.outcome is CommitOutcome.LOST:
            # Redis allowed what the constraint refused: somebody is there whom the grid does not show.
            self._metrics.backstop_conflicts.inc()
            _log.warning("backstop conflict", coach_id=appointment.coach_id, start=appointment.start_time.isoformat())
            days = sorted({part.day for part in plan.placement.segments()} | {appointment.local_day})
            await self._keeper.repair(appointment.org, [appointment.column], days)
        return None

    async def _release(self, request: BookingRequest, plan: _Plan, appointment: Appointment) -> None:
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
        self, problem: BookingError, request: BookingRequest, caller: Caller, rate: RateSeen
    ) -> Booked:
        """The answer the key already has, else `problem`.

        A request that was fine when it was first made gets its answer again, whatever the rules say by now.
        """
        mark = self._mark(request, "")
        if mark is None:
            raise problem
        admission = Admission(caller.org, rate=caller.rate if rate.state is None else None, mark=mark)
        reply = await self._admit(admission, rate)
        if reply.outcome is ClaimOutcome.REPLAY:
            return _replayed(reply.first)
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

    async def _unavailable(self, plan: _Plan, revision: int) -> SlotUnavailable:
        alternatives = await self._availability.next_free(
            plan.roster, plan.calendar, plan.coach, plan.placement.starts_at, revision, most=3
        )
        return SlotUnavailable("nobody who could take this time is free", details={"alternatives": alternatives})


def contact_id_of(org: int, email: str) -> uuid.UUID:
    """A contact's id: UUIDv5 of the organization and the lower-cased address, so an address is one contact."""
    return uuid.uuid5(_CONTACTS, f"{org}:{email.lower()}")


_CONTACTS = uuid.UUID("8a2f3f0e-6c43-5d0b-9d0f-0d9d5f0a4a11")


def _replayed(body: bytes) -> Booked:
    return Booked("", body, replayed=True)


def _checked_replay(request: BookingRequest, fingerprint: bytes | None, answer: bytes | None) -> Booked:
    if fingerprint is None or answer is None or fingerprint.hex() != request.fingerprint:
        raise _reused()
    return _replayed(answer)


def _reused() -> IdempotencyKeyReused:
    return IdempotencyKeyReused("this idempotency key was used for a different request")
