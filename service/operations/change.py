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
from service.claims.messages import Release, Settlement
from service.claims.scripts import ReleaseOutcome
from service.clock import Clock
from service.db.appointments import AppointmentStore, Change
from service.domain.appointment import Appointment, Status, become, confirm, render
from service.domain.event import EventType, heard_by
from service.domain.grid import Placement
from service.errors import NotFound, StateConflict, Unavailable
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.keep_grid import GridKeeper
from service.operations.rosters import Rosters
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
        keeper: GridKeeper,
        tasks: TrackedTasks,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._gate = gate
        self._appointments = appointments
        self._rosters = rosters
        self._keeper = keeper
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
            if await self._appointments.change(change):
                await self._settle(before, after, kind, token)
                return after
            if token is not None:
                await self._settle_quietly(Settlement(org, token.hex, None, ()))
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

    async def _settle(self, before: Appointment, after: Appointment, kind: EventType, token: uuid.UUID | None) -> None:
        event = f"{after.org} {after.appointment_id.hex} {after.version}"
        # Announce first: a crash between the two lines announces again, never not at all.
        await self._settle_quietly(Settlement(after.org, None, event, tuple(heard_by(kind))))
        if token is None:
            return
        try:
            placement = placement_of(before)
            released = await self._gate.release(Release(before.org, token.hex, placement, before.local_day))
            if released is ReleaseOutcome.ABSENT:
                # Redis lost the note meanwhile: a day derived before the commit shows time that is free.
                days = {part.day for part in placement.segments()} | {before.local_day}
                await self._keeper.repair(before.org, [before.column], sorted(days))
        except Unavailable as problem:
            self._metrics.unsettled.inc()
            _log.warning("time not freed", appointment_id=str(before.appointment_id), error=problem.message)

    async def _settle_quietly(self, settlement: Settlement) -> None:
        try:
            await self._gate.settle(settlement)
        except Unavailable as problem:
            self._metrics.unsettled.inc()
            _log.warning("change not settled", settled_event=settlement.event, error=problem.message)


def placement_of(appointment: Appointment) -> Placement:
    """The cells an appointment takes, with the buffers it was booked with."""
    plain = Placement.of(appointment.start_time, appointment.end_time)
    framed = Placement.of(appointment.occupied_start, appointment.occupied_end)
    return Placement(plain.start, plain.end, framed.start, framed.end)
