"""How the times of an appointment are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest

from service.domain.appointment import Appointment, Status, render

START, END = datetime(2026, 7, 2, 22, tzinfo=UTC), datetime(2026, 7, 2, 22, 30, tzinfo=UTC)
MADE, GONE = datetime(2026, 6, 1, 9, 4, 5, 67, UTC), datetime(2026, 6, 2, tzinfo=UTC)


def shown(timezone: str | None) -> dict[str, str]:
    appointment = Appointment(
        org=1,
        appointment_id=UUID(int=1),
        calendar_number=1,
        calendar_id="cal-1",
        column=0,
        coach_id="coach-1",
        contact_id=UUID(int=2),
        contact_email="ada@example.com",
        contact_name=None,
        start_time=START,
        end_time=END,
        occupied_start=START,
        occupied_end=END,
        local_day=20_636,
        timezone=timezone,
        status=Status.CANCELLED,
        notes=None,
        metadata={},
        version=2,
        created_at=MADE,
        updated_at=GONE,
        cancelled_at=GONE,
        strategy="balanced",
        considered=1,
    )
    return orjson.loads(render(appointment))


@pytest.mark.parametrize(
    ("timezone", "start", "end"),
    [
        (None, "2026-07-02T22:00:00Z", "2026-07-02T22:30:00Z"),
        ("UTC", "2026-07-02T22:00:00+00:00", "2026-07-02T22:30:00+00:00"),
        ("Europe/Berlin", "2026-07-03T00:00:00+02:00", "2026-07-03T00:30:00+02:00"),
    ],
)
def test_the_zone_is_that_of_the_start_and_the_end_alone(timezone: str | None, start: str, end: str) -> None:
    found = shown(timezone)
    assert (found["start_time"], found["end_time"]) == (start, end)
    assert found["created_at"] == "2026-06-01T09:04:05.000067Z"
    assert found["updated_at"] == found["cancelled_at"] == "2026-06-02T00:00:00Z"
    assert found["confirmed_at"] is None
