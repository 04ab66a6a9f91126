"""Forgetting idempotency keys: old records go, a few at a time, and their keys may be used again.

A booking's key stays on its appointment: what was booked with it is found as long as there is the appointment.
"""

from __future__ import annotations

from service.db.idempotency import KeyRecords
from service.logs import get_logger
from service.metrics import Metrics

BATCH = 500

_log = get_logger("operations.forget_keys")


class ForgetKeys:
    """Removes records older than `retention_hours`, `batch` in one statement, so that no lock is held for long."""

    def __init__(self, records: KeyRecords, metrics: Metrics, retention_hours: int, batch: int = BATCH) -> None:
        self._records = records
        self._metrics = metrics
        self._retention_hours = retention_hours
        self._batch = batch

    async def __call__(self) -> int:
        """How many were removed. Raises Unavailable or OutcomeUnknown; the rest goes next time."""
        removed = 0
        while True:
            gone = await self._records.forget(self._retention_hours, self._batch)
            removed += gone
            self._metrics.forgotten_keys.inc(gone)
            if gone < self._batch:
                break
        if removed:
            _log.info("idempotency keys forgotten", count=removed)
        return removed
