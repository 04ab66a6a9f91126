"""A coach is away for a while, and back again: the grid, and the appointments inside.

The period is committed first and then closed in the grid, so nothing new begins inside. What had been claimed before
is waited for; then nothing can join the appointments that are inside, and each is treated by itself. A period that
is removed opens its time again, unless other periods or the hours close it.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import uuid_utils

from service.claims.grid import GridStore, PendingEntry
from service.clock import Clock
from service.db.gate import GateStore
from service.db.idempotency import Complete
from service.db.people import PeopleStore
from service.db.time_off import Source, TimeOffRecord, TimeOffStore
from service.domain.grid import day_of, instant_of
from service.errors import GateClosed, InvalidRequest, OutcomeUnknown, Unavailable
from service.logs import get_logger
from service.operations.change import ChangeAppointment
from service.operations.heal_grid import HealGrid
from service.operations.keep_grid import GridKeeper
from service.operations.move import MoveAppointment
from service.operations.rosters import Rosters, grid_days
from service.operations.tracking import TrackedTasks
from service.operations.treat_appointments import Affected, Existing, Treatment

LONGEST = timedelta(days=366)
LAST_YEAR = 2199
AT_ONCE = 4
_PAUSE_S = 0.05
_LOOK_S = 0.02
# How long a claim is waited for past the time it may take: the reconciler ends it in that.
_MARGIN_S = 3.0

_log = get_logger("operations.time_off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A wish for time off, `[start, end)` in UTC; `source` says who wished."""

    start: datetime
    end: datetime
    reason: str | None
    existing: Existing
    source: Source


@dataclass(frozen=True, slots=True)
class Away:
    """A period that was set; `finished` is false when some of it could not be done because a server was away."""

    period: TimeOffRecord
    affected: list[Affected]
    finished: bool


class TimeOff:
    """Sets, lists and ends the time off of coaches, active or not. Writes go on when the caller is cancelled."""

    def __init__(
        self,
        *,
        people: PeopleStore,
        periods: TimeOffStore,
        change: ChangeAppointment,
        move: MoveAppointment,
        gate: GateStore,
        grid: GridStore,
        keeper: GridKeeper,
        heal: HealGrid,
        rosters: Rosters,
        tasks: TrackedTasks,
        clock: Clock,
        claim_ttl_ms: int,
    ) -> None:
        self._people = people
        self._periods = periods
        self._change = change
        self._move = move
        self._gate = gate
        self._heal = heal
        self._grid = grid
        self._keeper = keeper
        self._rosters = rosters
        self._tasks = tasks
        self._clock = clock
        self._patience_s = claim_ttl_ms / 1000 + _MARGIN_S

    async def page(
        self,
        org: int,
        coach_id: str,
        start: datetime | None,
        end: datetime | None,
        most: int,
        after: tuple[datetime, uuid.UUID] | None,
    ) -> list[TimeOffRecord]:
        """At most `most` periods that touch `[start, end)`, by start, then id, from behind `after`. Raises NotFound."""
        column = (await self._people.coach(org, coach_id)).column
        return await self._periods.page(org, column, start, end, most, after)

    async def close(
        self,
        org: int,
        coach_id: str,
        wish: Absence,
        *,
        actor: str,
        correlation_id: str,
        time_off_id: uuid.UUID | None = None,
    ) -> Away:
        """Close a period for a coach and treat the appointments inside; set again under its id, it is gone on with.

        Raises NotFound, InvalidRequest, Unavailable (nothing was written) or OutcomeUnknown: whether the period was
        written, or what became of an appointment inside it, is not known.
        """
        check_period(wish.start, wish.end)
        if wish.end <= self._clock.now():
            raise InvalidRequest([("end_time", "is in the past")])
        return await self._tasks.run(self._close(org, coach_id, wish, actor, correlation_id, time_off_id))

    async def _close(
        self, org: int, coach_id: str, wish: Absence, actor: str, correlation_id: str, time_off_id: uuid.UUID | None
    ) -> Away:
        coach = await self._people.coach(org, coach_id)
        period = await self._periods.add(
            org,
            TimeOffRecord(
                time_off_id=time_off_id or uuid.UUID(int=uuid_utils.uuid7().int),
                column=coach.column,
                start_time=wish.start,
                end_time=wish.end,
                reason=wish.reason,
                source=wish.source,
            ),
        )
        shown = await self._show(org, period)
        treat = Treatment(self._change, self._move, org, coach_id, period, wish.existing, actor, correlation_id)
        affected = await self._treat(org, period, treat)
        _log.info("time off set", org=org, coach_id=coach_id, source=wish.source, affected=len(affected))
        return Away(period, affected, shown and not treat.undone)

    async def _show(self, org: int, period: TimeOffRecord) -> bool:
        """Close the period in the grid and wait for the claims made before; False when that came to no end.

        Where Redis cannot be asked, waiting for what is being committed is enough: the period is noted as a change the
        grid was not told of, so claims made before are fenced, and who decides without Redis sees it.
        """
        now = asyncio.get_running_loop().time
        give_up = now() + self._patience_s
        while True:
            try:
                await self._put_right(org, period.column, period.start_time, period.end_time)
                claims = {token for token, entry in (await self._grid.pending()).items() if _inside(entry, org, period)}
                while claims and now() < give_up:
                    await asyncio.sleep(_LOOK_S)
                    claims &= (await self._grid.pending()).keys()
            except GateClosed:
                return await self._wait_for_commits(org)
            except Unavailable as problem:
                if now() >= give_up:
                    _log.warning("time off not shown", org=org, error=problem.message)
                    return False
                await asyncio.sleep(_PAUSE_S)
                continue
            if claims:
                _log.warning("claims not waited for", org=org, count=len(claims))
            # Somebody without Redis may have read the hours before.
            return await self._wait_for_commits(org) and not claims

    async def _wait_for_commits(self, org: int) -> bool:
        try:
            await self._gate.wait_for_commits()
        except (Unavailable, OutcomeUnknown) as problem:
            _log.warning("commits not waited for", org=org, error=problem.message)
            return False
        return True

    async def _treat(self, org: int, period: TimeOffRecord, treat: Treatment) -> list[Affected]:
        """Treat everything inside, until a look finds nothing that was not treated."""
        affected: dict[uuid.UUID, Affected] = {}
        places = asyncio.Semaphore(AT_ONCE)

        async def one(appointment_id: uuid.UUID) -> Affected:
            async with places:
                return await treat(appointment_id)

        while True:
            try:
                inside = await self._periods.appointments(
                    org, period.column, period.start_time, period.end_time, self._clock.now()
                )
                left = [found for found in inside if found not in affected]
                if not left:
                    return list(affected.values())
                results = await asyncio.gather(*map(one, left), return_exceptions=True)
            except Unavailable as problem:
                raise OutcomeUnknown(f"the appointments inside are not known: {problem.message}") from problem
            for found in results:
                if isinstance(found, BaseException):
                    raise found
                affected[found.appointment_id] = found

    async def remove(
        self,
        org: int,
        coach_id: str,
        time_off_id: uuid.UUID,
        *,
        complete: Complete[TimeOffRecord] | None = None,
    ) -> TimeOffRecord:
        """End a period; its time opens again where nothing else closes it. What it was.

        Raises NotFound, Unavailable or OutcomeUnknown. Once it is committed nothing fails: what Redis could not be told
        is logged.
        """
        return await self._tasks.run(self._remove(org, coach_id, time_off_id, complete))

    async def _remove(
        self, org: int, coach_id: str, time_off_id: uuid.UUID, complete: Complete[TimeOffRecord] | None
    ) -> TimeOffRecord:
        coach = await self._people.coach(org, coach_id)
        period = await self._periods.remove(org, coach.column, time_off_id, complete)
        try:
            await self._put_right(org, period.column, period.start_time, period.end_time)
        except Unavailable as problem:
            _log.warning("time off not reopened", org=org, coach_id=coach_id, error=problem.message)
        return period

    async def reopen(self, org: int, coach_id: str, start: datetime, end: datetime, event_id: str) -> None:
        """Open `[start, end)` again as the external calendar says; time off set over the API stays closed.

        Doing it again does no harm. Raises NotFound, Unavailable or OutcomeUnknown (do it again).
        """
        await self._tasks.run(self._reopen(org, coach_id, start, end, event_id))

    async def _reopen(self, org: int, coach_id: str, start: datetime, end: datetime, event_id: str) -> None:
        coach = await self._people.coach(org, coach_id)
        await self._periods.open(org, coach.column, start, end, lambda whole: uuid.uuid5(whole, event_id))
        await self._put_right(org, coach.column, start, end)

    async def _put_right(self, org: int, column: int, start: datetime, end: datetime) -> None:
        """Make the coach's days of the grid in a period what Postgres says."""
        roster = await self._rosters.get(org)
        if await self._grid.has_roster(org) != roster.version:
            roster = await self._rosters.refresh(org, roster)
        kept = grid_days(roster, day_of(self._clock.now()))
        # One more: past midnight somebody may be creating it from what was read before.
        last = min(kept.stop, day_of(end - timedelta(microseconds=1)))
        days = range(max(kept.start, day_of(start)), last + 1)
        if not await self._heal.coach(org, column):
            # Somebody else has repaired what was noted, or is doing so: then it is not known to be done.
            await asyncio.gather(*(self._keeper.repair(org, [column], days[lane::AT_ONCE]) for lane in range(AT_ONCE)))


def check_period(start: datetime, end: datetime) -> None:
    """Raise InvalidRequest for a period that is empty, longer than may be, or beyond the years that are planned for."""
    if end <= start:
        raise InvalidRequest([("end_time", "must be after start_time")])
    if end.year > LAST_YEAR:
        raise InvalidRequest([("end_time", f"is after the year {LAST_YEAR}")])
    if end - start > LONGEST:
        raise InvalidRequest([("end_time", f"is more than {LONGEST.days} days after start_time")])


def _inside(entry: PendingEntry, org: int, period: TimeOffRecord) -> bool:
    """Whether something pending may put an appointment inside a period."""
    if entry.kind == "release" or entry.org != org or entry.column != period.column:
        return False
    first, last = instant_of(entry.start_cell), instant_of(entry.start_cell + entry.cells)
    return first < period.end_time and last > period.start_time
