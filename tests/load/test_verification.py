"""The promise: verification finds what was told and is not so, and what is so and was not told."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.load.api import Api
from loadtest.load.ledger import Entry, Ledger, State
from loadtest.load.verify import deliveries, overlaps, promises

DOMAIN = "run.example.com"


def row(number: int = 1, **fields: str) -> dict[str, Any]:
    return {
        "appointment_id": f"id-{number}",
        "contact_email": f"{number}@{DOMAIN}",
        "coach_id": "coach-a",
        "start_time": f"2026-12-01T{number:02}:00:00Z",
        "end_time": f"2026-12-01T{number:02}:30:00Z",
        "status": "scheduled",
        **fields,
    }


def told(state: State, number: int = 1) -> Ledger:
    """A ledger of one entry whose answer said what `row` says; an unknown one has had no answer."""
    entry = Entry(f"{number}@{DOMAIN}", "cal", row(number)["start_time"])
    if state in (State.UNKNOWN, State.REFUSED):
        entry.state = state
    else:
        entry.says(state, row(number))
    return Ledger(DOMAIN, {"key": entry})


@pytest.mark.parametrize(
    ("ledger", "rows"),
    [
        (told(State.BOOKED), [row()]),
        (told(State.BOOKED), [row(start_time="2026-12-01T02:00:00+01:00")]),
        (told(State.CANCELLED), [row(status="cancelled")]),
        (told(State.CHANGING), [row(status="cancelled")]),
        (told(State.UNKNOWN), []),
        (told(State.UNKNOWN), [row()]),
        (told(State.REFUSED), []),
        (told(State.BOOKED), [row(), row(2, contact_email="2@another-run.example.com")]),
    ],
)
def test_what_is_as_it_was_told_holds(ledger: Ledger, rows: list[dict[str, Any]]) -> None:
    assert promises(ledger, rows) == []


@pytest.mark.parametrize(
    ("ledger", "rows", "said"),
    [
        (told(State.BOOKED), [], "answered 201 and is not there"),
        (told(State.CHANGING), [], "answered 201 and is not there"),
        (told(State.BOOKED), [row(status="cancelled")], "was told as"),
        (told(State.BOOKED), [row(coach_id="coach-b")], "was told as"),
        (told(State.BOOKED), [row(start_time="2026-12-01T09:00:00Z")], "was told as"),
        (told(State.CANCELLED), [row()], "was told as"),
        (told(State.REFUSED), [row()], "nobody was told so"),
        (told(State.UNKNOWN), [row(), row(2, contact_email=f"1@{DOMAIN}")], "nobody was told so"),
        (told(State.BOOKED), [row(), row()], "shows an appointment twice"),
    ],
)
def test_what_is_otherwise_than_told_is_said(ledger: Ledger, rows: list[dict[str, Any]], said: str) -> None:
    (found,) = promises(ledger, rows)
    assert said in found


def test_one_appointment_for_two_keys_is_said() -> None:
    ledger = told(State.BOOKED)
    ledger.entries["another key"] = ledger.entries["key"]
    (found,) = promises(ledger, [row()])
    assert "two keys" in found


def test_overlaps_are_of_one_coachs_live_appointments() -> None:
    later = row(2, start_time="2026-12-01T01:29:00Z", end_time="2026-12-01T01:59:00Z")
    assert len(overlaps([later, row()])) == 1
    assert overlaps([row(), later | {"status": "cancelled"}]) == []
    assert overlaps([row(), later | {"coach_id": "coach-b"}]) == []
    assert overlaps([row(), later | {"start_time": "2026-12-01T01:30:00Z"}]) == []


class Pages(Api):
    """An API that shows one list after the other, the last one for ever."""

    def __init__(self, *shown: dict[tuple[str, str], str]) -> None:
        super().__init__("http://127.0.0.1:1")
        self._shown = list(shown)
        self.looked = 0

    def pages(self, path: str, field: str, **query: str) -> Any:
        """Newest first, with one of an older run at the end."""
        self.looked += 1
        now = self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]
        for (name, destination), state in sorted(now.items(), reverse=True):
            yield {"event_id": f"{name}.1", "destination": destination, "state": state}
        yield {"event_id": "id-0.1", "destination": "crm", "state": "dead"}


def states(crm: str, notifications: str = "delivered") -> dict[tuple[str, str], str]:
    return {("id-1", "crm"): crm, ("id-1", "notifications"): notifications}


def test_deliveries_are_waited_for() -> None:
    api = Pages(states("pending"), states("retrying"), states("delivered"))
    counted, wrong = deliveries(api, ["id-1"], within_s=60)
    assert (dict(counted), wrong, api.looked) == ({"delivered": 2}, [], 3)


def test_what_is_under_way_when_the_time_is_over_is_not_wrong() -> None:
    counted, wrong = deliveries(Pages(states("retrying")), ["id-1"], within_s=0)
    assert (dict(counted), wrong) == ({"delivered": 1, "retrying": 1}, [])


def test_a_dead_delivery_and_one_that_is_missing_are_wrong() -> None:
    _, wrong = deliveries(Pages({("id-1", "crm"): "dead"}), ["id-1"], within_s=0)
    assert len(wrong) == 2
    assert "no delivery to notifications" in wrong[0]
    assert "is dead" in wrong[1]
