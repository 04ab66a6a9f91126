"""Changing the state of an appointment that exists: cancel, confirm, complete, no-show.

A change that frees time is noted in Redis before its commit, under a token of its own that the event records.
So a crash in between cannot leave the time taken for ever, and a late or repeated release frees nobody else's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

import uuid_utils

from service.claims.gate import Gate
from service.claims.messages import Release
from service.clock import Clock
from service.db.appointments import AppointmentStore, Change, ChangeOutcome
from service.db.gate import CoachDays
from service.db.idempotency import Complete
from service.domain.appointment import Appointment, Status, Versions, become, check_version, confirm, render
from service.domain.event import EventType
from service.errors import NotFound, Unavailable
from service.failpoints import Reach, Step
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.rosters import Rosters
from service.operations.settle_change import SettleChange, coach_days_of, placement_of
from service.operations.tracking import TrackedTasks

ATTEMPTS = 5

_log = get_logger("operations.change")


@dataclass(frozen=True, slots=True)
class _Step:
    """One change of state: the event it is, the status it leads to (None: confirmed), who made it and why.

    `complete` makes the answer of the request's idempotency key, which is written with the change.
    """

    kind: EventType
    status: Status | None
    reason: str | None
    actor: str
    correlation_id: str
    versions: Versions
    complete: Complete[Appointment] | None

    def was_made(self, appointment: Appointment) -> bool:
        """Whether the appointment is so already."""
        if self.status is not None:
            return appointment.status is self.status
        return appointment.status is Status.SCHEDULED and appointment.confirmed_at is not None

    def make(self, appointment: Appointment, now: datetime) -> Appointment:
        """The appointment after it. Raises StateConflict."""
        return confirm(appointment, now) if self.status is None else become(appointment, self.status, now)


class ChangeAppointment:
    """Reads appointments and changes their state."""

    def __init__(
        self,
        *,
        gate: Gate,
        appointments: AppointmentStore,
        rosters: Rosters,
        settle: SettleChange,
        tasks: TrackedTasks,
        clock: Clock,
        metrics: Metrics,
        reach: Reach | None = None,
    ) -> None:
        self._gate = gate
        self._appointments = appointments
        self._rosters = rosters
        self._settle = settle
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._reach = reach

    async def get(self, org: int, appointment_id: uuid.UUID) -> Appointment:
        """One appointment. Raises NotFound."""
        found = await self._appointments.get(org, appointment_id)
        if found is None:
            raise NotFound(f"no appointment {appointment_id}")
        return found

    async def cancel(
        self,
        org: int,
        appointment_id: uuid.UUID,
        *,
        reason: str | None,
        actor: str,
        correlation_id: str,
        versions: Versions = None,
        complete: Complete[Appointment] | None = None,
    ) -> Appointment:
        """Cancel; an appointment that is cancelled already is returned as it is.

        `versions` are those the change may be made from, None for any; `complete` makes the answer of the request's
        idempotency key. Raises NotFound, VersionMismatch, StateConflict, Unavailable or OutcomeUnknown. Goes on when
        the caller is cancelled.
        """
        step = _Step(EventType.CANCELLED, Status.CANCELLED, reason, actor, correlation_id, versions, complete)
        return await self._tasks.run(self._change(org, appointment_id, step))

    async def confirm(
        self,
        org: int,
        appointment_id: uuid.UUID,
        *,
        actor: str,
        correlation_id: str,
        versions: Versions = None,
        complete: Complete[Appointment] | None = None,
    ) -> Appointment:
        """Record that the contact confirmed; one confirmed already is returned as it is. Raises like `cancel`."""
        step = _Step(EventType.CONFIRMED, None, None, actor, correlation_id, versions, complete)
        return await self._tasks.run(self._change(org, appointment_id, step))

    async def finish(
        self,
        org: int,
        appointment_id: uuid.UUID,
        status: Status,
        *,
        actor: str,
        correlation_id: str,
        versions: Versions = None,
        complete: Complete[Appointment] | None = None,
    ) -> Appointment:
        """Record how it ended: completed or no_show; one that ended so already is returned as it is.

        Its time stays taken. Raises like `cancel`.
        """
        kind = EventType.COMPLETED if status is Status.COMPLETED else EventType.NO_SHOW
        step = _Step(kind, status, None, actor, correlation_id, versions, complete)
        return await self._tasks.run(self._change(org, appointment_id, step))

    async def _change(self, org: int, appointment_id: uuid.UUID, step: _Step) -> Appointment:
        for _ in range(ATTEMPTS):
            before = await self.get(org, appointment_id)
            check_version(before, step.versions)
            if step.was_made(before):
                return before
            after = step.make(before, self._clock.now())
            token = uuid.UUID(int=uuid_utils.uuid7().int) if step.status is Status.CANCELLED else None
            repairs: tuple[CoachDays, ...] = ()
            if token is not None and not await self._note_release(before, token):
                # Redis will not hear of it from us: whoever finds it back puts the coach-days right. Should the note
                # be there after all, it must free nothing then: the event does not carry its token.
                token, repairs = None, (coach_days_of(before),)
            if self._reach and token is not None:
                await self._reach(Step.CHANGE_NOTED)
            change = Change(
                after=after,
                type=step.kind,
                token=token,
                actor=step.actor,
                correlation_id=step.correlation_id,
                reason=step.reason,
                data=render(after),
                completion=None if step.complete is None else step.complete(after),
                repairs=repairs,
            )
            if await self._appointments.change(change) is ChangeOutcome.DONE:
                if self._reach:
                    await self._reach(Step.CHANGE_COMMITTED)
                await self._settle.announce(after, step.kind)
                if self._reach:
                    await self._reach(Step.CHANGE_ANNOUNCED)
                if repairs:
                    self._gate.fall_behind()
                if token is not None:
                    release = Release(org, token.hex, placement_of(before), before.local_day)
                    await self._settle.free(release, before)
                    if self._reach:
                        await self._reach(Step.CHANGE_FREED)
                return after
            if token is not None:
                await self._settle.drop(before, token.hex)
        raise Unavailable("repeated attempts at this change came to no answer")

    async def _note_release(self, appointment: Appointment, token: uuid.UUID) -> bool:
        """Note in Redis that the appointment's time will be free; False when Redis cannot be told."""
        roster = await self._rosters.get(appointment.org)
        considered = await self._appointments.last_considered(appointment.org, appointment.appointment_id)
        try:
            await self._gate.note_release(
                appointment.org,
                token.hex,
                appointment.appointment_id.hex,
                appointment.column,
                placement_of(appointment),
                appointment.local_day,
                roster.width,
                considered,
            )
        except Unavailable as problem:
            # Cancelling must not need Redis.
            self._metrics.unsettled.inc()
            _log.info("release not noted", appointment_id=str(appointment.appointment_id), error=problem.message)
            return False
        return True
