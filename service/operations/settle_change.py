"""Ending a change that Postgres has: everybody hears of it, and the time it left is free.

Announced first: a crash between the two announces again, never not at all. Whatever Redis cannot be told now
stays pending there, and the reconciler tells it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from itertools import islice

from service.claims.gate import Gate
from service.claims.messages import Release, Settlement
from service.claims.scripts import ReleaseOutcome, SettleOutcome
from service.db.gate import CoachDays, GateStore
from service.domain.appointment import Appointment
from service.domain.event import EventType, heard_by
from service.domain.grid import Placement
from service.errors import GateClosed, OutcomeUnknown, Unavailable
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.keep_grid import GridKeeper, ended_time
from service.operations.rosters import Rosters
from service.operations.tracking import TrackedTasks

MOST_LATE = 10_000
TOLD_AT_ONCE = 128
# Redis may refuse for ever what it is told, as from a user that may not write to a stream: then ever less often.
TOLD_AGAIN_S, LONGEST_PAUSE_S = 0.5, 30.0
REPAIRED_AT_ONCE = 2
# A repair takes a millisecond or two, and an outage of Postgres would leave one for each of thousands of coach-days.
MOST_AHEAD = 100

_log = get_logger("operations.settle_change")


class SettleChange:
    """Tells Redis what became of a change. Never fails: the change is what Postgres says."""

    def __init__(
        self,
        *,
        gate: Gate,
        store: GateStore,
        keeper: GridKeeper,
        rosters: Rosters,
        tasks: TrackedTasks,
        metrics: Metrics,
    ) -> None:
        self._gate = gate
        self._store = store
        self._keeper = keeper
        self._rosters = rosters
        self._tasks = tasks
        self._metrics = metrics
        # What Redis could not be told, and whose coach-days may have to be put right then; whatever is lost of it, the
        # sweeper and the reconciler find.
        self._late: deque[tuple[Settlement, Appointment | None]] = deque(maxlen=MOST_LATE)
        self._telling = asyncio.Lock()
        self._telling_again = False
        self._ending = asyncio.Event()
        self._to_repair: dict[CoachDays, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(REPAIRED_AT_ONCE)

    async def announce(self, after: Appointment, kind: EventType) -> None:
        """Tell every destination that must hear of the change."""
        event = f"{after.org} {after.appointment_id.hex} {after.version}"
        await self.settle(Settlement(after.org, None, event, await self.streams(after.org, kind)))

    async def streams(self, org: int, kind: str) -> tuple[str, ...]:
        """Whose streams such an event of an organization enters.

        A change passes no claim that would tell us of a newer roster, so Redis is asked. Where nobody can say whether
        there are endpoints and a calendar, there may be some: an event too many is looked at and dropped.
        """
        try:
            roster = await self._rosters.current(org)
        except Unavailable:
            return heard_by(kind, calendar=True, endpoints=True)
        return roster.heard_by(kind)

    async def drop(self, before: Appointment, token: str) -> None:
        """Forget a noted release whose change was not made, because somebody else's came first.

        What they freed may have been taken for ours meanwhile by a repair that saw the note: it is looked at again,
        and once more when Redis could only be told to forget the note after that.
        """
        await self._tell(Settlement(before.org, token, None, ()), before)
        await self.repair(before)

    async def free(self, release: Release, *places: Appointment) -> None:
        """Free the time a token holds. Where Redis has lost it, the coach-days of `places` are put right from Postgres.

        `places` are the states of the appointment whose times the change touched. Past its deadline a token is left
        to the reconciler.
        """
        try:
            released = await self._gate.release(release)
        except Unavailable as problem:
            self._metrics.unsettled.inc()
            _log.info("time not freed", token=release.token, error=problem.message)
            for place in places:
                await self._note(coach_days_of(place))
            return
        if released is ReleaseOutcome.LATE:
            _log.info("time left to the reconciler", token=release.token)
        elif released is not ReleaseOutcome.RELEASED:
            # A day derived between the loss and the commit shows what was so before.
            for place in places:
                await self.repair(place)

    async def repair(self, appointment: Appointment) -> None:
        """Make the coach-days an appointment shows in what Postgres says."""
        await self.repair_days(appointment.org, appointment.column, placement_of(appointment), appointment.local_day)

    def repair_soon(self, appointment: Appointment) -> None:
        """`repair`, which nobody waits for.

        It is hardly ever needed: where many wait for their turn it is left to the comparison, lest those whom somebody
        waits for come behind all of them.
        """
        if len(self._to_repair) < MOST_AHEAD:
            self._in_turn(coach_days_of(appointment))

    async def repair_days(self, org: int, column: int, placement: Placement, local_day: int) -> None:
        """Make the coach-days that a time shows in, and the one it counts on, what Postgres says."""
        days = {day for day, _, _ in placement.occupied_runs()} | {local_day}
        await asyncio.shield(self._in_turn(CoachDays(org, column, min(days), max(days))))

    def fall_behind(self) -> None:
        """Something was changed without Redis: let its grid be told."""
        self._gate.fall_behind()

    async def repair_ended(self, org: int, column: int, placement: Placement, local_day: int, token: str) -> None:
        """Make coach-days what Postgres says, as if what is pending under a token were not. Raises Unavailable."""
        days = {day for day, _, _ in placement.occupied_runs()} | {local_day}
        async with self._turn:
            ended = [ended_time(token, side) for side in ("new", "old")]
            await self._keeper.repair(org, [column], sorted(days), ended=ended)

    def _in_turn(self, place: CoachDays) -> asyncio.Task[None]:
        """The repair that waits for its turn.

        When hours change, hundreds are fenced at once: whoever waits does it for all who come meanwhile.
        """
        waiting = self._to_repair.get(place)
        if waiting is None:
            waiting = self._to_repair[place] = self._tasks.begin(self._repair_in_turn(place))
        return waiting

    async def _repair_in_turn(self, place: CoachDays) -> None:
        async with self._turn:
            del self._to_repair[place]  # who comes from here on may bring what was not yet there to be read
            try:
                await self._keeper.repair(place.org, [place.column], range(place.first, place.last + 1))
            except Unavailable:
                await self._note(place)

    async def _note(self, days: CoachDays) -> None:
        """Leave the repair to whoever finds Redis back."""
        try:
            await self._store.note(days)
            self._gate.fall_behind()
        except (Unavailable, OutcomeUnknown) as problem:
            _log.warning("coach-days not repaired", org=days.org, column=days.column, error=problem.message)

    async def settle(self, settlement: Settlement) -> None:
        """Tell Redis of a committed change, now or when it can be told again."""
        await self._tell(settlement, None)

    async def _tell(self, settlement: Settlement, place: Appointment | None) -> None:
        try:
            await self._gate.settle(settlement)
        except Unavailable as problem:
            self._put_off(settlement, place, problem)

    def settle_soon(self, settlement: Settlement, booked: Appointment) -> asyncio.Future[None]:
        """Tell Redis of a committed booking in a moment, as `settle` does; done when it was told or put off.

        Where Redis has lost the claim meanwhile, a day derived between that and the commit misses the booking: its
        coach-day is put right.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(outcome: asyncio.Future[SettleOutcome]) -> None:
            problem = outcome.exception()
            if problem is not None:
                self._put_off(settlement, booked, problem)
            elif outcome.result() is SettleOutcome.ABSENT:
                self._tasks.begin(self.repair(booked))
            ended.set_result(None)

        self._gate.settle_soon(settlement, told)
        return ended

    def _put_off(self, settlement: Settlement, place: Appointment | None, problem: BaseException) -> None:
        self._metrics.unsettled.inc()
        if not self._late:  # the first of an outage stands for all
            _log.warning("changes not settled", settled_event=settlement.event, error=str(problem))
        self._late.append((settlement, place))
        if not self._telling_again:
            self._telling_again = True
            self._tasks.begin(self._tell_again())

    async def _tell_again(self) -> None:
        """Tell Redis soon where it was but for a moment that it could not be told; after an outage others do."""
        pause_s = TOLD_AGAIN_S
        try:
            while self._late:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause_s)
                try:
                    await self.tell_late()
                except Unavailable as problem:
                    if isinstance(problem, GateClosed) and self._gate.behind:
                        self.fall_behind()  # whoever catches up tells this first, also when that was done already
                        return
                    if self._ending.is_set():
                        return
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                    _log.info("changes not settled yet", error=problem.message, again_in_s=pause_s)
        finally:
            self._telling_again = False

    def end(self) -> None:
        """The process stops: Redis is told once more, and what it does not take then is left to others."""
        self._ending.set()

    async def tell_late(self) -> None:
        """Tell Redis what it could not be told before. Raises Unavailable."""
        async with self._telling:
            while self._late:
                some = list(islice(self._late, TOLD_AT_ONCE))
                outcomes = await asyncio.gather(*(self._gate.settle(settlement) for settlement, _ in some))
                for (settlement, place), outcome in zip(some, outcomes, strict=True):
                    self._late.popleft()
                    # Of a booking only when its claim was lost; of a note that was forgotten, whatever came of it.
                    if place is not None and (outcome is SettleOutcome.ABSENT or settlement.event is None):
                        self._tasks.begin(self.repair(place))


def placement_of(appointment: Appointment) -> Placement:
    """The cells an appointment takes, with the buffers it was booked with."""
    plain = Placement.of(appointment.start_time, appointment.end_time)
    framed = Placement.of(appointment.occupied_start, appointment.occupied_end)
    return Placement(plain.start, plain.end, framed.start, framed.end)


def coach_days_of(appointment: Appointment) -> CoachDays:
    """The coach-days an appointment shows in."""
    days = {day for day, _, _ in placement_of(appointment).occupied_runs()} | {appointment.local_day}
    return CoachDays(appointment.org, appointment.column, min(days), max(days))
