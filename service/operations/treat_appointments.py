"""What is done to the appointments inside a coach's time off: each is given away, cancelled or kept by itself.

Another request may change one at the same moment: then it is looked at again, and what is said of it is what became
of it, whoever did it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from service.db.time_off import TimeOffRecord
from service.domain.appointment import Appointment, Status
from service.errors import (
    BookingError,
    InvalidRequest,
    OutcomeUnknown,
    SlotUnavailable,
    StateConflict,
    Unavailable,
    VersionMismatch,
)
from service.operations.change import ChangeAppointment
from service.operations.move import MoveAppointment
from service.operations.plan_move import MoveWish

REASON = "the coach is away"
ATTEMPTS = 5
_PAUSE_S = 0.05


class Existing(StrEnum):
    """What shall become of appointments inside: given to others where that is possible, cancelled, or kept."""

    REASSIGN = "reassign"
    CANCEL = "cancel"
    KEEP = "keep"


class Outcome(StrEnum):
    """What became of an appointment."""

    REASSIGNED = "reassigned"
    CANCELLED = "cancelled"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Affected:
    """An appointment that was inside, what became of it, and the coach who has it (or had it) now."""

    appointment_id: UUID
    outcome: Outcome
    coach_id: str


class Treatment:
    """What is done to each appointment inside one period. `undone`: some could not be given away or cancelled."""

    def __init__(
        self,
        change: ChangeAppointment,
        move: MoveAppointment,
        org: int,
        coach_id: str,
        period: TimeOffRecord,
        existing: Existing,
        actor: str,
        correlation_id: str,
    ) -> None:
        self._change = change
        self._move = move
        self._org = org
        self._coach_id = coach_id
        self._period = period
        self._existing = existing
        self._actor = actor
        self._correlation_id = correlation_id
        self.undone = False

    async def __call__(self, appointment_id: UUID) -> Affected:
        """What became of one appointment. Raises OutcomeUnknown when that is not known."""
        failed: BookingError | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
            try:
                found = await self._change.get(self._org, appointment_id)
                if self._is_treated(found):
                    return self._affected(found)
                return self._affected(await self._act(found))
            except (SlotUnavailable, InvalidRequest):  # nobody is free then, or nobody is left who could be asked
                return Affected(appointment_id, Outcome.KEPT, self._coach_id)
            except (StateConflict, VersionMismatch):
                continue  # somebody changed it meanwhile: it is looked at again
            except OutcomeUnknown as problem:
                failed = problem
            except Unavailable as problem:
                failed = failed or problem
        if isinstance(failed, OutcomeUnknown):
            raise failed
        self.undone = True
        try:
            return self._affected(await self._change.get(self._org, appointment_id))
        except Unavailable as problem:
            raise OutcomeUnknown("what became of an appointment is not known") from problem

    def _is_treated(self, found: Appointment) -> bool:
        """Whether there is nothing to do: kept as wished, or by now ended, somebody else's or at another time."""
        inside = found.start_time < self._period.end_time and found.end_time > self._period.start_time
        ours = found.status is Status.SCHEDULED and found.column == self._period.column
        return self._existing is Existing.KEEP or not (inside and ours)

    async def _act(self, found: Appointment) -> Appointment:
        reason = self._period.reason or REASON
        # One that was moved out of the period since it was looked at stays where and what it is.
        versions = frozenset({found.version})
        if self._existing is Existing.CANCEL:
            return await self._change.cancel(
                self._org,
                found.appointment_id,
                reason=reason,
                actor=self._actor,
                correlation_id=self._correlation_id,
                versions=versions,
            )
        return await self._move(
            self._org,
            found.appointment_id,
            MoveWish(others_only=True),
            actor=self._actor,
            correlation_id=self._correlation_id,
            versions=versions,
            reason=reason,
        )

    def _affected(self, now: Appointment) -> Affected:
        outcome = Outcome.KEPT
        if now.status is Status.CANCELLED:
            outcome = Outcome.CANCELLED
        elif now.column != self._period.column:
            outcome = Outcome.REASSIGNED
        return Affected(now.appointment_id, outcome, now.coach_id)
