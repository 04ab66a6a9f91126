"""Writes down what came of attempts, of many with one commit."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from service.batching import Batcher
from service.db.deliveries import DeliveryRecord, DeliveryStore
from service.delivery.patience import patiently

# So long a record waits for those of attempts that are still under way.
GATHERING_S = 0.25
MOST_AT_ONCE = 256


class DeliveryRecorder:
    """Records deliveries, those of several destinations together.

    While other attempts are under way a record waits for theirs, but no longer than GATHERING_S: nobody waits for it,
    and a crash in that time repeats deliveries, as one just before a commit does.
    """

    def __init__(self, store: DeliveryStore, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self._attempts = 0
        self._batcher: Batcher[DeliveryRecord, None] = Batcher(
            self._write,
            most=MOST_AT_ONCE,
            gathering_s=GATHERING_S,
            enough=MOST_AT_ONCE,
            more_to_come=lambda: self._attempts > 0,
        )

    @contextmanager
    def attempt(self) -> Generator[None]:
        """An attempt is made within; what came of it is to be recorded after it."""
        self._attempts += 1
        try:
            yield
        finally:
            self._attempts -= 1

    async def record(self, record: DeliveryRecord) -> None:
        """Write a record down, however long Postgres takes."""
        await patiently("record deliveries", lambda: self._batcher.submit(record), self._chance)

    async def _write(self, records: list[DeliveryRecord]) -> Sequence[None]:
        await self._store.record(records)
        return [None] * len(records)
