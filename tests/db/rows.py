"""Bookings as the record takes them, written without a grid: what only Postgres refuses is refused here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import uuid_utils

from service.db.commit import BookingCommitter, NewBooking
from service.db.connection import prepare_connection
from service.domain.appointment import Appointment, Status, render
from service.operations.plan_booking import contact_id_of

ORG = 1
MONDAY = datetime(2027, 1, 4, 15, 0, tzinfo=UTC)
FINGERPRINT = bytes(16)


def booking(
    start: datetime = MONDAY,
    minutes: int = 30,
    *,
    column: int = 0,
    before: int = 0,
    after: int = 0,
    key: str | None = None,
    appointment_id: UUID | None = None,
    **changes: Any,
) -> NewBooking:
    """A booking of cal-1 with a coach, as an operation would commit it."""
    end = start + timedelta(minutes=minutes)
    appointment = Appointment(
        org=ORG,
        appointment_id=appointment_id or UUID(int=uuid_utils.uuid7().int),
        calendar_number=1,
        calendar_id="cal-1",
        column=column,
        coach_id=f"coach-{column + 1}",
        contact_id=contact_id_of(ORG, "ann@example.com"),
        contact_email="ann@example.com",
        contact_name=None,
        start_time=start,
        end_time=end,
        occupied_start=start - timedelta(minutes=before),
        occupied_end=end + timedelta(minutes=after),
        local_day=int(start.timestamp()) // 86_400,
        timezone=None,
        status=Status.SCHEDULED,
        notes=None,
        metadata={},
        version=1,
        created_at=MONDAY,
        updated_at=MONDAY,
        strategy="balanced",
        considered=1,
    )
    appointment = msgspec.structs.replace(appointment, **changes)
    return NewBooking(
        appointment=appointment,
        idempotency_key=key,
        fingerprint=None if key is None else FINGERPRINT,
        actor="tests",
        correlation_id="corr-1",
        considered=b"",
        data=b"{}" if "\ud800" in (appointment.notes or "") else render(appointment),
    )


@asynccontextmanager
async def committing(url: str) -> AsyncIterator[tuple[BookingCommitter, list[int]]]:
    """A committer and the sizes of the batches it has sent."""
    sizes: list[int] = []
    committer = BookingCommitter(url, observe=sizes.append)
    try:
        yield committer, sizes
    finally:
        await committer.close()


@asynccontextmanager
async def looking_into(url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at rows and to put obstacles into the database."""
    connection: Any = await asyncpg.connect(url)
    await prepare_connection(connection)
    try:
        yield connection
    finally:
        await connection.close()
