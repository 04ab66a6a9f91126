"""Forgetting repairs of the grid, once no claim of before them can be left."""

from __future__ import annotations

from service.claims.grid import GridStore
from service.db.gate import GateStore

_LEAST_S = 60.0


class ForgetRepairs:
    """Removes old notes. `claim_ttl_ms` is how long a claim may be pending before the reconciler ends it."""

    def __init__(self, store: GateStore, grid: GridStore, claim_ttl_ms: int) -> None:
        self._store = store
        self._grid = grid
        self._older_s = max(_LEAST_S, 10 * claim_ttl_ms / 1000)

    async def __call__(self) -> None:
        """Forget what is old, unless the reconciler is behind. Raises Unavailable or OutcomeUnknown."""
        now_ms = await self._grid.now_ms()
        # A claim is settled, released, lost with its epoch, or overdue here: then it may be older than any repair.
        if all(entry.deadline_ms > now_ms for entry in (await self._grid.pending()).values()):
            await self._store.forget(self._older_s)
