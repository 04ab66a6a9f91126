"""A periodic operation that several processes offer to do and one does, once a period."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from service.claims.lease import Leases


class TakeTurns:
    """Does `work` unless it was begun less than `period_ms` ago, here or elsewhere.

    Work that was begun and broken off does not count.
    """

    def __init__(self, leases: Leases, name: str, period_ms: int, work: Callable[[], Awaitable[int]]) -> None:
        self._leases = leases
        self._name = name
        self._period_ms = period_ms
        self._work = work

    async def __call__(self) -> int:
        """What `work` returned; 0 when it was not our turn. Raises what `work` raises, and Unavailable."""
        if not await self._leases.take(self._name, self._period_ms):
            return 0
        try:
            return await self._work()
        except BaseException:
            await self._leases.give_back(self._name)
            raise
