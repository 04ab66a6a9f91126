"""An appointment is shown one way, and only a scheduled one may become something else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import orjson
import pytest

from service.domain.appointment import LIVE, Appointment, Status, become, confirm, etag_of, in_utc, render, render_in
from service.errors import StateConflict

NOW = datetime(2026, 7, 1, 8, 0, 0, 123_456, tzinfo=UTC)
START = datetime(2026, 7, 2, 16, 30, tzinfo=UTC)
SCHEDULED = Appointment(
    org=1,
    appointment_id=UUID(int=7),
    calendar_number=3,
    calendar_id="cal-3",
    column=4,
    coach_id="coach-5",
    contact_id=UUID(int=8),
    contact_email="ann@example.com",
    contact_name="Ann Ö",
    start_time=START,
    end_time=START + timedelta(minutes=30),
    occupied_start=START - timedelta(minutes=10),
    occupied_end=START + timedelta(minutes=35),
    local_day=20_000,
    timezone=None,
    status=Status.SCHEDULED,
    notes="bring tea",
    metadata={"a": [1, None]},
    version=1,
    created_at=NOW,
    updated_at=NOW,
    strategy="balanced",
    considered=4,
)


def _shown(**changes: Any) -> dict[str, Any]:
    return orjson.loads(render(msgspec.structs.replace(SCHEDULED, **changes)))


def test_it_is_shown_with_the_contracts_fields_and_none_of_the_inside() -> None:
    assert _shown() == {
        "appointment_id": str(UUID(int=7)),
        "calendar_id": "cal-3",
        "coach_id": "coach-5",
        "contact_id": str(UUID(int=8)),
        "contact_email": "ann@example.com",
        "contact_name": "Ann Ö",
        "start_time": "2026-07-02T16:30:00Z",
        "end_time": "2026-07-02T17:00:00Z",
        "timezone": "UTC",
        "status": "scheduled",
        "notes": "bring tea",
        "metadata": {"a": [1, None]},
        "version": 1,
        "created_at": "2026-07-01T08:00:00.123456Z",
        "updated_at": "2026-07-01T08:00:00.123456Z",
        "confirmed_at": None,
        "cancelled_at": None,
        "assignment": {"strategy": "balanced", "reason": "owed most by score among 4 free"},
    }


def test_its_times_are_in_the_zone_it_was_booked_for_and_the_books_in_utc() -> None:
    shown = _shown(timezone="America/New_York")
    assert shown["start_time"] == "2026-07-02T12:30:00-04:00"
    assert shown["timezone"] == "America/New_York"
    assert shown["created_at"].endswith("Z")
    assert _shown(timezone="UTC")["start_time"] == "2026-07-02T16:30:00+00:00"


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.COMPLETED, Status.NO_SHOW])
def test_a_scheduled_one_may_become_anything_final_once(status: Status) -> None:
    later = NOW + timedelta(minutes=1)
    after = become(SCHEDULED, status, later)
    assert (after.status, after.version, after.updated_at) == (status, 2, later)
    assert after.cancelled_at == (later if status is Status.CANCELLED else None)
    for again in Status:
        with pytest.raises(StateConflict, match=status.value) as refused:
            become(after, again, later)
        assert refused.value.details == {"status": status.value}
    with pytest.raises(StateConflict, match="cannot be confirmed"):
        confirm(after, later)


def test_confirming_sets_the_time_and_keeps_it_scheduled() -> None:
    after = confirm(SCHEDULED, NOW)
    assert (after.status, after.confirmed_at, after.version) == (Status.SCHEDULED, NOW, 2)
    assert become(after, Status.CANCELLED, NOW).confirmed_at == NOW


def test_all_but_the_cancelled_and_the_void_hold_their_time() -> None:
    assert set(Status) - LIVE == {Status.CANCELLED, Status.VOID}


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo", "America/St_Johns"])
def test_of_what_an_event_keeps_the_times_alone_are_put_in_utc(zone: str | None) -> None:
    shown = '","start_time":"2026-07-03T01:30:00+09:00'
    booked = msgspec.structs.replace(
        SCHEDULED,
        timezone=zone,
        contact_name=shown,
        notes=shown,
        metadata={"start_time": "2026-07-03T01:30:00+09:00", "n": 2**63},
    )
    assert in_utc(render(booked)) == render_in(booked, None)


def test_an_entity_tag_names_the_version() -> None:
    assert etag_of(3) == '"v3"'
