"""Moving an appointment with Postgres alone, for as long as Redis cannot be asked; see `book_ungated`."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import Any

from service.claims.messages import Search
from service.clock import Clock
from service.db.appointments import AppointmentStore, Change, ChangeOutcome
from service.db.gate import CoachDays, GateStore
from service.domain.appointment import Appointment, Versions, check_version
from service.domain.coach_grid import Claimed, Held
from service.errors import NotFound, OutcomeUnknown, Unavailable
from service.metrics import Metrics
from service.operations.book_ungated import Refused, days_of, wanted_of
from service.operations.plan_booking import columns_of
from service.operations.plan_move import MovePlan, MoveWish, plan_checked_move
from service.operations.postgres_grids import PostgresGrids
from service.operations.settle_change import SettleChange, coach_days_of

ATTEMPTS = 3

# Makes the change from where it would move and who got it.
Make = Callable[[MovePlan, Claimed], Change]


class MoveUngated:
    """Changes where an appointment is, without Redis."""

    def __init__(
        self,
        *,
        store: GateStore,
        grids: PostgresGrids,
        appointments: AppointmentStore,
        settle: SettleChange,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._grids = grids
        self._appointments = appointments
        self._settle = settle
        self._clock = clock
        self._counted = metrics.ungated.labels("move")
        self._chance = random.Random()

    async def __call__(
        self, org: int, appointment_id: uuid.UUID, wish: MoveWish, versions: Versions, make: Make
    ) -> Appointment | Refused | None:
        """The appointment after the move; None when it must be looked at again.

        Raises NotFound, InvalidRequest, VersionMismatch, StateConflict, IdempotencyInProgress, Unavailable (nothing was
        written) or OutcomeUnknown.
        """
        await self._grids.remember_deficits(org)
        unknown: OutcomeUnknown | None = None
        change: Change | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if change is not None and await self._appointments.is_ours(change):
                    return await self._told(change)
                async with self._store.alone() as connection:
                    if change is not None and await self._appointments.is_ours(change):
                        return await self._told(change)
                    found = await self._choose(connection, org, appointment_id, wish, versions, make)
                    if not isinstance(found, Change):
                        return found
                    change = found
                    if await self._appointments.change_within(connection, change) is not ChangeOutcome.DONE:
                        return None
                return await self._told(change)
            except OutcomeUnknown as problem:
                unknown = problem
            except Unavailable:
                if unknown is None and attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(self._chance.uniform(0, 0.05 * 2**attempt))
        raise unknown or AssertionError("an attempt ends by itself unless its answer was lost")

    async def _choose(
        self,
        connection: Any,
        org: int,
        appointment_id: uuid.UUID,
        wish: MoveWish,
        versions: Versions,
        make: Make,
    ) -> Change | Refused | None:
        before = await self._appointments.get_within(connection, org, appointment_id)
        if before is None:
            raise NotFound(f"no appointment {appointment_id}")
        check_version(before, versions)
        roster = await self._grids.roster(connection, org)
        considered = await self._appointments.last_considered_within(connection, org, appointment_id)
        move = plan_checked_move(before, wish, roster, considered, self._clock.now())
        if move is None:
            return None
        plan, own = move.plan, move.own
        held = Held(
            own.column,
            own.placement,
            own.local_day,
            keep=own.search is Search.KEEP,
            others=own.search is Search.OTHERS,
        )
        columns = {*columns_of(plan.calendar, plan.coach), own.column}
        grid = await self._grids.grid(connection, roster, columns, days_of(plan))
        wanted = wanted_of(plan, appointment_id.int, held)
        claimed = grid.claim(wanted)
        return Refused(plan) if claimed is None else make(move, claimed)

    async def _told(self, change: Change) -> Appointment:
        self._counted.inc()
        await self._settle.announce(change.after, change.type)
        return change.after


def repairs_of(move: MovePlan, after: Appointment) -> tuple[CoachDays, ...]:
    """The coach-days a move shows in: those it leaves and those it comes to."""
    return (coach_days_of(move.before), coach_days_of(after))
