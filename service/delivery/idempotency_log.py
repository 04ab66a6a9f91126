"""Writes which keys stand for bookings into the table of every write's keys; their answers are with the bookings."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

from service.db.connection import POISONED
from service.db.deliveries import AnswerStore, KeptAnswer
from service.delivery.patience import patiently
from service.delivery.stream import MOST_AT_ONCE, Entry, Stream
from service.logs import get_logger

_log = get_logger("delivery.idempotency_log")


class IdempotencyLog:
    """Takes entries (key, org, fingerprint, status, appointment_id) in batches, a statement each."""

    name = "idempotency"

    def __init__(self, answers: AnswerStore, chance: random.Random) -> None:
        self._answers = answers
        self._chance = chance

    async def room(self) -> int:
        """Always the same: a batch is done before the next is read."""
        return MOST_AT_ONCE

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        """Keep the keys, then finish their entries. A key that cannot be kept is buried alone."""
        kept: list[tuple[Entry, KeptAnswer]] = []
        for entry in entries:
            answer = _answer(entry)
            if answer is None:
                await self._bury(stream, entry, "the entry is no record of a key")
            else:
                kept.append((entry, answer))
        if kept:
            await self._keep(stream, kept)

    async def drain(self, timeout_s: float) -> int:  # noqa: ARG002  the shape of `Work`
        """Nothing is left under way between two batches."""
        return 0

    async def _keep(self, stream: Stream, kept: list[tuple[Entry, KeptAnswer]]) -> None:
        answers = [answer for _, answer in kept]
        try:
            await patiently("keep keys of bookings", lambda: self._answers.save(answers), self._chance)
        except POISONED as problem:
            # Postgres cannot hold one of them: each alone, so that the others are kept.
            if len(kept) == 1:
                await self._bury(stream, kept[0][0], f"cannot be kept: {type(problem).__name__}")
                return
            for one in kept:
                await self._keep(stream, [one])
            return
        await asyncio.gather(*(stream.finish(entry) for entry, _ in kept))

    async def _bury(self, stream: Stream, entry: Entry, error: str) -> None:
        _log.error("key of a booking not kept", entry=entry.entry_id, error=error)
        org = entry.fields.get("org", b"?").decode(errors="replace")
        await stream.bury(entry, 1, error, event=f"{org} {entry.entry_id}")


def _answer(entry: Entry) -> KeptAnswer | None:
    fields = entry.fields
    try:
        appointment = fields.get("appointment_id", b"").decode()
        return KeptAnswer(
            org=int(fields["org"]),
            key=fields["key"].decode(),
            fingerprint=bytes.fromhex(fields["fingerprint"].decode()),
            status=int(fields["status"]),
            appointment_id=UUID(hex=appointment) if appointment else None,
        )
    except (KeyError, ValueError):
        return None
