"""Changing an appointment that exists: cancel and confirm.

A change that frees time is noted in Redis before its commit, under a token of its own that the event records.
So a crash in between cannot leave the time taken for ever, and a late or repeated release frees nobody else's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

import uuid_utils

from service.claims.gate import Gate
from service.claims.messages import Release
from service.clock import Clock
from service.db.appointments import AppointmentStore, Change, ChangeOutcome
from service.domain.appointment import Appointment, Status, become, confirm, render
from service.domain.event import EventType
from service.errors import NotFound, StateConflict, Unavailable
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.rosters import Rosters
from service.operations.settle_change import SettleChange, placement_of
from service.operations.tracking import TrackedTasks

ATTEMPTS = 5

_log = get_logger("operations.change")


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
    ) -> None:
        self._gate = gate
        self._appointments = appointments
        self._rosters = rosters
        self._settle = settle
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics

    async def get(self, org: int, appointment_id: uuid.UUID) -> Appointment:
        """One appointment. Raises NotFound."""
        found = await self._appointments.get(org, appointment_id)
        if found is None:
            raise NotFound(f"no appointment {appointment_id}")
        return found

    async def cancel(
        self, org: int, appointment_id: uuid.UUID, *, reason: str | None, actor: str, correlation_id: str
    ) -> Appointment:
        """Cancel; an appointment that is cancelled already is returned as it is.

        Raises NotFound, StateConflict, Unavailable or OutcomeUnknown. Goes on when the caller is cancelled.
        """
        return await self._tasks.run(
            self._change(org, appointment_id, EventType.CANCELLED, reason, actor, correlation_id, Status.CANCELLED)
        )

    async def confirm(self, org: int, appointment_id: uuid.UUID, *, actor: str, correlation_id: str) -> Appointment:
        """Record that the contact confirmed; one confirmed already is returned as it is. Raises like `cancel`."""
        return await self._tasks.run(
            self._change(org, appointment_id, EventType.CONFIRMED, None, actor, correlation_id, None)
        )

    async def finish(
        self, org: int, appointment_id: uuid.UUID, status: Status, *, actor: str, correlation_id: str
    ) -> Appointment:
        """Record how it ended: completed or no_show; one that ended so already is returned as it is.

        Its time stays taken. Raises like `cancel`.
        """
        kind = EventType.COMPLETED if status is Status.COMPLETED else EventType.NO_SHOW
        return await self._tasks.run(self._change(org, appointment_id, kind, None, actor, correlation_id, status))

    async def _change(
        self,
        org: int,
        appointment_id: uuid.UUID,
        kind: EventType,
        reason: str | None,
        actor: str,
        correlation_id: str,
        status: Status | None,
    ) -> Appointment:
        step: Callable[[Appointment, datetime], Appointment] = (
            confirm if status is None else lambda appointment, now: become(appointment, status, now)
        )
        for _ in range(ATTEMPTS):
            before = await self.get(org, appointment_id)
            if before.status is status or (
                kind is EventType.CONFIRMED and before.status is Status.SCHEDULED and before.confirmed_at is not None
            ):
                return before
            after = step(before, self._clock.now())
            token = uuid.UUID(int=uuid_utils.uuid7().int) if status is Status.CANCELLED else None
            if token is not None:
                await self._note_release(before, token)
            change = Change(
                after=after,
                type=kind,
                token=token,
                actor=actor,
                correlation_id=correlation_id,
                reason=reason,
                data=render(after),
            )
            if await self._appointments.change(change) is ChangeOutcome.DONE:
                await self._settle.announce(after, kind)
                if token is not None:
                    release = Release(org, token.hex, placement_of(before), before.local_day)
                    await self._settle.free(release, before)
                return after
            if token is not None:
                await self._settle.drop(before, token.hex)
        raise StateConflict("the appointment kept changing; look at it and try again")

    async def _note_release(self, appointment: Appointment, token: uuid.UUID) -> None:
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
            # Cancelling must not need Redis: the time stays hidden until the grid is compared with Postgres.
            self._metrics.unsettled.inc()
            _log.warning("release not noted", appointment_id=str(appointment.appointment_id), error=problem.message)
