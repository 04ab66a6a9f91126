"""Moving an appointment to another time or coach, as one step: the new place is claimed and the old one freed
together, or nothing changes.

The claim takes the appointment's own time and count out, so it may move onto a time that overlaps its own. From the
claim to the end both times are taken; then the token frees one of them, the other stays, whatever was in between.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection
from functools import partial

import msgspec
import uuid_utils
from msgspec.structs import replace

from service.claims.grid import GridStore
from service.claims.messages import Admission, Search, SlotClaim
from service.claims.scripts import ClaimOutcome, ClaimReply
from service.clock import Clock
from service.db.appointments import AppointmentStore, Change, ChangeOutcome
from service.db.idempotency import Complete
from service.domain.appointment import Appointment, Versions, check_version, render
from service.domain.assignment import draws_of
from service.domain.coach_grid import Claimed
from service.errors import GateClosed, NotFound, OutcomeUnknown, Unavailable
from service.failpoints import Reach, Step
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.book_ungated import Refused
from service.operations.claiming import LOOK_AGAIN, Claiming
from service.operations.heal_grid import HealGrid
from service.operations.local_rates import RateSeen
from service.operations.move_ungated import Make, MoveUngated, repairs_of
from service.operations.plan_move import (
    MovePlan,
    MoveWish,
    kind_of,
    moved,
    plan_checked_move,
    release_of_new,
    release_of_old,
    with_details,
)
from service.operations.rosters import Rosters
from service.operations.settle_change import SettleChange, placement_of
from service.operations.tracking import TrackedTasks

ATTEMPTS = 6
PATIENCE_S = 5.0
_PAUSE_S = 0.05

_log = get_logger("operations.move")


class MoveAppointment:
    """Changes where an appointment is, and what is noted with it."""

    def __init__(
        self,
        *,
        appointments: AppointmentStore,
        rosters: Rosters,
        claiming: Claiming,
        grid: GridStore,
        settle: SettleChange,
        ungated: MoveUngated,
        heal: HealGrid,
        tasks: TrackedTasks,
        clock: Clock,
        metrics: Metrics,
        reach: Reach | None = None,
    ) -> None:
        self._ungated = ungated
        self._heal = heal
        self._appointments = appointments
        self._rosters = rosters
        self._claiming = claiming
        self._grid = grid
        self._settle = settle
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._reach = reach

    async def __call__(
        self,
        org: int,
        appointment_id: uuid.UUID,
        wish: MoveWish,
        *,
        actor: str,
        correlation_id: str,
        versions: Versions = None,
        reason: str | None = None,
        complete: Complete[Appointment] | None = None,
    ) -> Appointment:
        """The appointment after the change; as it was when the wish changes nothing.

        Its coach is kept if that one is free at the new time, unless the wish names one. `versions` are those the
        change may be made from; `complete` makes the answer of the request's idempotency key. Raises NotFound,
        InvalidRequest, VersionMismatch, StateConflict, SlotUnavailable (with alternatives), Unavailable (nothing
        changed) or OutcomeUnknown. Goes on when the caller is cancelled.
        """
        return await self._tasks.run(
            self._move(org, appointment_id, wish, actor, correlation_id, versions, reason, complete)
        )

    async def reassign(
        self, org: int, appointment_id: uuid.UUID, *, reason: str | None, actor: str, correlation_id: str
    ) -> Appointment:
        """Give it to another free coach of its calendar, at the same time. Raises like a move."""
        wish = MoveWish(others_only=True)
        return await self(org, appointment_id, wish, actor=actor, correlation_id=correlation_id, reason=reason)

    async def _move(
        self,
        org: int,
        appointment_id: uuid.UUID,
        wish: MoveWish,
        actor: str,
        correlation_id: str,
        versions: Versions,
        reason: str | None,
        complete: Complete[Appointment] | None = None,
    ) -> Appointment:
        attempts, moving, elsewhere = 0, False, set[str]()
        clock = asyncio.get_running_loop().time
        give_up = clock() + PATIENCE_S
        while attempts < ATTEMPTS and clock() < give_up:
            before = await self._current(org, appointment_id, versions)
            move = await self._plan(before, wish)
            token = uuid.UUID(int=uuid_utils.uuid7().int)
            claimed: ClaimReply | None = None
            if move is None:
                after, considered = with_details(before, wish), None
                if render(after) == render(before):  # Python calls 1 and true equal
                    return before
                after = msgspec.structs.replace(after, version=before.version + 1, updated_at=self._clock.now())
            else:
                make = partial(self._change_ungated, wish, actor, correlation_id, reason, complete)
                done, claimed = await self._claim_or_move(move, token, wish, versions, make)
                if done is not None:
                    return done
                if claimed is None:
                    attempts += 1
                    continue
                reply = claimed
                if reply.outcome in LOOK_AGAIN:
                    await self._claiming.catch_up(move.plan, reply)
                    continue
                after = self._moved(move, wish, reply) if reply.outcome is ClaimOutcome.CLAIMED else None
                # Its own coach is taken by itself: what another move of it holds is no reason to go elsewhere. One that
                # has ended since the claim held it still.
                mine = {token.hex, *elsewhere}
                moved, moving = moving, _not_as_wished(move, reply) and await self._is_moving(before, mine, reply)
                if moving or (moved and _not_as_wished(move, reply)):
                    elsewhere.add(token.hex)  # what it has is another coach's: no reason why its own is not free
                    await self._wait_for_itself(token, before, after)
                    continue
                if after is None:
                    raise await self._claiming.taken(move.plan, reply.first)
                if self._reach:
                    await self._reach(Step.MOVE_CLAIMED)
                considered = reply.second or None
            change = Change(
                after=after,
                type=kind_of(before, after),
                token=None if move is None else token,
                actor=actor,
                correlation_id=correlation_id,
                reason=reason,
                data=render(after),
                considered=considered,
                completion=None if complete is None else complete(after),
                epoch=None if claimed is None else claimed.epoch,
                revision=None if claimed is None else claimed.revision,
            )
            if await self._commit(before, change):
                return after
            attempts += 1
        raise Unavailable("repeated attempts at this change came to no answer")

    async def _current(self, org: int, appointment_id: uuid.UUID, versions: Versions) -> Appointment:
        found = await self._appointments.get(org, appointment_id)
        if found is None:
            raise NotFound(f"no appointment {appointment_id}")
        check_version(found, versions)
        return found

    async def _plan(self, before: Appointment, wish: MoveWish) -> MovePlan | None:
        """Where it would go; None when only what is noted with it changes."""
        roster = await self._rosters.current(before.org)
        considered = await self._appointments.last_considered(before.org, before.appointment_id)
        return plan_checked_move(before, wish, roster, considered, self._clock.now())

    async def _claim_or_move(
        self, move: MovePlan, token: uuid.UUID, wish: MoveWish, versions: Versions, make: Make
    ) -> tuple[Appointment | None, ClaimReply | None]:
        """The gate's reply, or without Redis the appointment after the move; neither: it must be looked at again."""
        try:
            return None, await self._claim(move, token)
        except GateClosed:
            # Should the claim be in Redis after all, the reconciler gives it up: no event has its token.
            before = move.before
            return await self._without_redis(before.org, before.appointment_id, wish, versions, make), None

    async def _without_redis(
        self, org: int, appointment_id: uuid.UUID, wish: MoveWish, versions: Versions, make: Make
    ) -> Appointment | None:
        """Move with Postgres alone; None when it must be looked at again."""
        try:
            moved = await self._ungated(org, appointment_id, wish, versions, make)
        except OutcomeUnknown:
            self._metrics.unknown_commits.inc()
            raise
        if isinstance(moved, Refused):
            raise await self._claiming.taken(moved.plan, time.monotonic_ns())
        if moved is not None:
            self._settle.fall_behind()
        return moved

    def _change_ungated(
        self,
        wish: MoveWish,
        actor: str,
        correlation_id: str,
        reason: str | None,
        complete: Complete[Appointment] | None,
        move: MovePlan,
        claimed: Claimed,
    ) -> Change:
        after = moved(move, with_details(move.before, wish), claimed.column, len(claimed.considered), self._clock.now())
        return Change(
            after=after,
            type=kind_of(move.before, after),
            token=None,
            actor=actor,
            correlation_id=correlation_id,
            reason=reason,
            data=render(after),
            considered=claimed.packed() or None,
            completion=None if complete is None else complete(after),
            repairs=repairs_of(move, after),
        )

    async def _claim(self, move: MovePlan, token: uuid.UUID) -> ClaimReply:
        """The gate's reply: claimed, taken, or what there is to catch up with. Raises Unavailable."""
        plan = move.plan
        claim = SlotClaim(
            org=plan.roster.org,
            version=plan.roster.version,
            width=plan.roster.width,
            calendar_number=plan.calendar.number or 0,
            token=token.hex,
            placement=plan.placement,
            zones=plan.zones,
            strategy=plan.strategy,
            column=-1 if plan.coach is None else plan.coach.column,
            draws=draws_of(plan.calendar.team, token.int),
            idempotency_key=None,
            own=move.own,
        )
        reply = await self._claiming.ask(Admission(plan.roster.org, claim=claim), RateSeen())
        if reply.outcome not in {ClaimOutcome.CLAIMED, ClaimOutcome.TAKEN, *LOOK_AGAIN}:
            raise AssertionError(f"the gate answered {reply.outcome} to a move")
        return reply

    def _moved(self, move: MovePlan, wish: MoveWish, reply: ClaimReply) -> Appointment:
        chosen_among = len(reply.second) // 10
        return moved(move, with_details(move.before, wish), reply.first, chosen_among, self._clock.now())

    async def _is_moving(self, before: Appointment, tokens: Collection[str], reply: ClaimReply) -> bool:
        """Whether another move of the appointment than that of the tokens is under way, or its end not known yet.

        Raises Unavailable where that cannot be asked and the gate gave no place.
        """
        try:
            pending = await self._grid.pending()
        except GateClosed:
            return False  # who moves now goes by Postgres
        except Unavailable:
            if reply.outcome is not ClaimOutcome.CLAIMED:
                raise
            return False  # who went away now would leave its place taken
        return any(
            entry.kind == "move" and entry.appointment == before.appointment_id.hex
            for token, entry in pending.items()
            if token not in tokens
        )

    async def _commit(self, before: Appointment, change: Change) -> bool:
        """Write the change and end its claim; False when it must be looked at again."""
        after, token = change.after, change.token
        try:
            if self._reach:
                await self._reach(Step.MOVE_BEFORE_COMMIT)
            outcome = await self._appointments.change(change)
        except (OutcomeUnknown, asyncio.CancelledError):
            # Both times stay taken: which of them is free will be known to the reconciler, not to us.
            self._metrics.unknown_commits.inc()
            raise
        except Exception:
            if token is not None:
                await self._give_up(token.hex, before, after)
            raise
        if outcome is ChangeOutcome.DONE:
            await self._tell(before, change)
            return True
        if token is not None:
            await self._give_up(token.hex, before, after)
        if change.epoch is not None and outcome is ChangeOutcome.STALE:
            await self._look_behind(after)
        if outcome is ChangeOutcome.TAKEN:
            # Redis allowed what the constraint refused: somebody is there whom the grid does not show.
            self._metrics.backstop_conflicts.inc()
            _log.warning("backstop conflict", coach_id=after.coach_id, start=after.start_time.isoformat())
            await self._settle.repair(after)
        return False

    async def _tell(self, before: Appointment, change: Change) -> None:
        """Announce what was written and free the time it left."""
        after, token = change.after, change.token
        if self._reach:
            await self._reach(Step.MOVE_COMMITTED)
        await self._settle.announce(after, change.type)
        if self._reach:
            await self._reach(Step.MOVE_ANNOUNCED)
        if token is not None:
            await self._settle.free(release_of_old(token.hex, before, after), before, after)
            if self._reach:
                await self._reach(Step.MOVE_FREED)

    async def _look_behind(self, after: Appointment) -> None:
        """Repair what may have fenced the claim: the new coach-day was changed without Redis."""
        try:
            if await self._heal.coach(after.org, after.column):
                self._metrics.fenced_commits.inc()
        except Unavailable as problem:
            _log.info("coach-day not repaired", coach_id=after.coach_id, error=problem.message)

    async def _wait_for_itself(self, token: uuid.UUID, before: Appointment, after: Appointment | None) -> None:
        """Give another move of the appointment time to end, holding nothing meanwhile."""
        if after is not None:
            await self._give_up(token.hex, before, after)
        await asyncio.sleep(_PAUSE_S)

    async def _give_up(self, token: str, before: Appointment, after: Appointment) -> None:
        """Free the time a move would have had.

        What it has in common with the old time stays; whether the appointment still has that, Postgres knows. The time
        is put right before the token goes: who dies in between leaves a token that the reconciler ends.
        """
        new = placement_of(after)
        try:
            await self._settle.repair_ended(after.org, after.column, new, after.local_day, token)
        except Unavailable as problem:
            _log.info("move not given up yet", appointment_id=str(after.appointment_id), error=problem.message)
            return
        await self._settle.free(replace(release_of_new(token, before, after), frees=False), before, after)
        await self._settle.repair(before)
        await self._settle.repair(after)


def _not_as_wished(move: MovePlan, reply: ClaimReply) -> bool:
    """Whether the gate gave nothing, or another coach although its own was to be kept."""
    if reply.outcome is ClaimOutcome.TAKEN:
        return True
    return move.own.search is Search.KEEP and reply.first != move.own.column
