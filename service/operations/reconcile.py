"""Ending what a crash left: claims and releases that are pending past their deadline.

A claim whose row is in Postgres is settled; one whose row is not gets a tombstone under its id, so that an
insert still on its way loses, and is then released. A release whose event is in Postgres frees the time; one
whose event is not is dropped.
"""

from __future__ import annotations

from uuid import UUID

from service.claims.gate import Gate
from service.claims.grid import GridStore, PendingEntry
from service.claims.messages import Answer, Release, Settlement
from service.db.appointments import AppointmentStore
from service.domain.appointment import Status
from service.domain.event import EventType, heard_by
from service.domain.grid import Placement, instant_of
from service.errors import BookingError
from service.logs import get_logger
from service.metrics import Metrics

_log = get_logger("operations.reconcile")


class Reconcile:
    """One round over everything that is overdue."""

    def __init__(self, *, gate: Gate, grid: GridStore, appointments: AppointmentStore, metrics: Metrics) -> None:
        self._gate = gate
        self._grid = grid
        self._appointments = appointments
        self._metrics = metrics

    async def __call__(self) -> int:
        """End what is overdue; how many claims and releases that was. Raises Unavailable when Redis is not there."""
        entries = await self._grid.pending()
        self._metrics.pending.set(len(entries))
        if not entries:
            return 0
        now_ms = await self._grid.now_ms()
        ended = 0
        for token, entry in entries.items():
            if entry.deadline_ms > now_ms:
                continue
            try:
                how = await (self._claim(token, entry) if entry.kind == "claim" else self._release(token, entry))
            except BookingError as problem:
                # One that cannot be ended now stays pending and is looked at in the next round.
                _log.warning("not reconciled", token=token, error=problem.message)
                continue
            self._metrics.reconciled.labels(how).inc()
            _log.info("reconciled", token=token, kind=entry.kind, how=how)
            ended += 1
        return ended

    async def _claim(self, token: str, entry: PendingEntry) -> str:
        appointment_id = UUID(hex=token)
        row = await self._appointments.claim_committed(entry.org, appointment_id)
        if row is None:
            buried = await self._appointments.bury_claim(
                entry.org,
                appointment_id,
                entry.column,
                instant_of(entry.start_cell),
                instant_of(entry.start_cell + entry.cells),
                entry.local_day,
            )
            if buried:
                await self._gate.release(_freed(token, entry))
                return "claim released"
            row = await self._appointments.claim_committed(entry.org, appointment_id)
        if row is None or row["status"] == Status.VOID:
            await self._gate.release(_freed(token, entry))
            return "claim released"
        answer = None
        if row["idempotency_key"] is not None:
            answer = Answer(row["idempotency_key"], row["fingerprint"].hex(), 201, token, row["data"])
        await self._gate.settle(
            Settlement(entry.org, token, f"{entry.org} {token} 1", tuple(heard_by(EventType.CREATED)), answer)
        )
        return "claim settled"

    async def _release(self, token: str, entry: PendingEntry) -> str:
        event = await self._appointments.event_of_token(entry.org, UUID(hex=entry.appointment), UUID(hex=token))
        if event is None:
            await self._gate.settle(Settlement(entry.org, token, None, ()))
            return "release dropped"
        sequence, kind = event
        await self._gate.settle(
            Settlement(entry.org, None, f"{entry.org} {entry.appointment} {sequence}", tuple(heard_by(kind)))
        )
        await self._gate.release(_freed(token, entry))
        return "release carried out"


def _freed(token: str, entry: PendingEntry) -> Release:
    first, last = entry.start_cell, entry.start_cell + entry.cells
    return Release(
        org=entry.org,
        token=token,
        placement=Placement(first, last, first, last),
        local_day=entry.local_day,
        idempotency_key=entry.idempotency_key or None,
    )
