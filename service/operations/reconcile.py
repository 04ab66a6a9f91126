"""Ending what a crash left: claims, moves and releases that are pending past their deadline.

A claim whose row is in Postgres is settled; one whose row is not gets a tombstone under its id, so that an
insert still on its way loses, and is then released. A release whose event is in Postgres frees the time; one
whose event is not is dropped. A move whose event is in Postgres frees the time it left; one whose event is not gets
a tombstone under its token, so that its commit is fenced whenever it comes, and frees the time it would have had.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from service.claims.gate import Gate
from service.claims.grid import GridStore, PendingEntry
from service.claims.messages import Answer, Release, Settlement, Side
from service.db.appointments import AppointmentStore
from service.db.gate import GateStore
from service.domain.appointment import Status
from service.domain.event import EventType
from service.domain.grid import Placement, instant_of
from service.errors import BookingError
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.settle_change import SettleChange

# A fault leaves hundreds, each a dozen waits for Postgres and Redis, and the time of each is hidden until it is ended.
ENDED_AT_ONCE = 8

_log = get_logger("operations.reconcile")


class Reconcile:
    """One round over everything that is overdue."""

    def __init__(
        self,
        *,
        gate: Gate,
        store: GateStore,
        grid: GridStore,
        appointments: AppointmentStore,
        settle: SettleChange,
        metrics: Metrics,
    ) -> None:
        self._gate = gate
        self._store = store
        self._grid = grid
        self._appointments = appointments
        self._settle = settle
        self._metrics = metrics

    async def __call__(self) -> int:
        """End what is overdue; how many claims and releases that was. Raises Unavailable when Redis is not there."""
        entries = await self._grid.pending()
        if not entries:
            return 0
        now_ms = await self._grid.now_ms()
        overdue = [(token, entry) for token, entry in entries.items() if entry.deadline_ms <= now_ms]
        some = asyncio.Semaphore(ENDED_AT_ONCE)
        failed: list[str] = []
        await asyncio.gather(*(self._try_to_end(token, entry, some, failed) for token, entry in overdue))
        return len(overdue) - len(failed)

    async def show_pending(self) -> None:
        """Count what is pending, whoever ends it: a figure of the last turn would stay as it was until the next."""
        self._metrics.pending.set(await self._grid.count_pending())

    async def _try_to_end(self, token: str, entry: PendingEntry, some: asyncio.Semaphore, failed: list[str]) -> None:
        async with some:
            try:
                how = await self._end(token, entry)
            except BookingError as problem:
                # One that cannot be ended now stays pending and is looked at in the next round.
                if not failed:  # the first of a round stands for all: there may be thousands
                    _log.warning("not reconciled", token=token, error=problem.message)
                failed.append(token)
                return
        self._metrics.reconciled.labels(how).inc()
        _log.info("reconciled", token=token, kind=entry.kind, how=how)

    async def _end(self, token: str, entry: PendingEntry) -> str:
        match entry.kind:
            case "claim":
                return await self._claim(token, entry)
            case "move":
                return await self._move(token, entry)
            case _:
                return await self._release(token, entry)

    async def _claim(self, token: str, entry: PendingEntry) -> str:
        appointment_id = UUID(hex=token)
        row = await self._appointments.claim_committed(entry.org, appointment_id)
        if row is None:
            if await self._bury(token, entry):
                return await self._give_up(token, entry)
            row = await self._appointments.claim_committed(entry.org, appointment_id)
        if row is None or row["status"] == Status.VOID:
            return await self._give_up(token, entry)
        answer = None
        if row["idempotency_key"] is not None:
            answer = Answer(row["idempotency_key"], row["fingerprint"].hex(), 201, token, row["data"])
        streams = await self._settle.streams(entry.org, EventType.CREATED)
        await self._gate.settle(Settlement(entry.org, token, f"{entry.org} {token} 1", streams, answer))
        # Cancelled or moved before its claim was settled: a repair in between took the claim's time for taken.
        await self._put_right(entry)
        return "claim settled"

    async def _give_up(self, token: str, entry: PendingEntry) -> str:
        await self._gate.release(_dropped(token, entry, frees=True))
        # Whoever booked its time without Redis, and was shown to the grid before the release, was freed with it. Such a
        # time the constraint keeps until it is taken again; the count is right, for a row of this id never is counted.
        await self._put_right(entry)
        return "claim released"

    async def _move(self, token: str, entry: PendingEntry) -> str:
        appointment_id, move = UUID(hex=entry.appointment), UUID(hex=token)
        event = await self._appointments.event_of_token(entry.org, appointment_id, move)
        if event is None:
            # What has not been committed by now shall not be any more, however long its process stands still: its place
            # of the day is given away. The commit looks for the tombstone when it has the gate's lock, so one that did
            # not see it is over when the lock was waited for, and is seen here.
            await self._bury(token, entry)
            await self._store.wait_for_commits()
            event = await self._appointments.event_of_token(entry.org, appointment_id, move)
        committed = event is not None
        if event is not None:
            sequence, kind = event
            told = f"{entry.org} {entry.appointment} {sequence}"
            await self._gate.settle(Settlement(entry.org, None, told, await self._settle.streams(entry.org, kind)))
        await self._drop(token, entry, Side.OLD if committed else Side.NEW)
        return "move carried out" if committed else "move dropped"

    async def _bury(self, token: str, entry: PendingEntry) -> bool:
        """Put a tombstone under the token; False when a row is there already."""
        return await self._appointments.bury_claim(
            entry.org,
            UUID(hex=token),
            entry.column,
            instant_of(entry.start_cell),
            instant_of(entry.start_cell + entry.cells),
            entry.local_day,
        )

    async def _drop(self, token: str, entry: PendingEntry, side: Side = Side.NEW) -> None:
        """End the overdue token of a change; its time becomes what Postgres says.

        The appointment itself may be there, moved without Redis by the same request. So nothing is freed that would
        have to be taken again: not for a moment may a day count one too few.
        """
        for column, placement, local_day in _times(entry):
            await self._settle.repair_ended(entry.org, column, placement, local_day, token)
        await self._gate.release(_dropped(token, entry, side, frees=False))
        # A repair in between may have taken its time for pending once more.
        await self._put_right(entry)

    async def _put_right(self, entry: PendingEntry) -> None:
        """Make the coach-days of an entry that has ended what Postgres says."""
        for column, placement, local_day in _times(entry):
            await self._settle.repair_days(entry.org, column, placement, local_day)

    async def _release(self, token: str, entry: PendingEntry) -> str:
        event = await self._appointments.event_of_token(entry.org, UUID(hex=entry.appointment), UUID(hex=token))
        if event is None:
            await self._gate.settle(Settlement(entry.org, token, None, ()))
            await self._put_right(entry)
            return "release dropped"
        sequence, kind = event
        told = f"{entry.org} {entry.appointment} {sequence}"
        await self._gate.settle(Settlement(entry.org, None, told, await self._settle.streams(entry.org, kind)))
        await self._drop(token, entry)
        return "release carried out"


def _placement(first: int, cells: int) -> Placement:
    return Placement(first, first + cells, first, first + cells)


def _dropped(token: str, entry: PendingEntry, side: Side = Side.NEW, *, frees: bool) -> Release:
    return Release(
        org=entry.org,
        token=token,
        placement=_placement(entry.start_cell, entry.cells),
        local_day=entry.local_day,
        idempotency_key=entry.idempotency_key or None,
        side=side,
        frees=frees,
    )


def _times(entry: PendingEntry) -> list[tuple[int, Placement, int]]:
    """(column, cells, local day) of each time an entry holds."""
    times = [(entry.column, _placement(entry.start_cell, entry.cells), entry.local_day)]
    if entry.old_column is not None:
        times.append((entry.old_column, _placement(entry.old_start_cell, entry.old_cells), entry.old_local_day))
    return times
