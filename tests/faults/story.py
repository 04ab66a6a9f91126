"""Histories written by hand: a run in which everything is as it must be, to be bent by the tests of the checks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.check_counters import ROUTES, SERIES
from tests.faults.clients import correlation_of
from tests.faults.final import AppointmentRow, CalendarRow, CoachRow, EventRow, Final, Labels
from tests.faults.history import History, Operation

ORG = "north"
CALENDAR = CalendarRow(ORG, "cal", 30, 30, 0, 5, frozenset({0, 1}))
EVERY_DAY = tuple((weekday, 0, 1440) for weekday in range(7))
COACHES = (CoachRow(ORG, 0, "c0", "UTC", 2, EVERY_DAY), CoachRow(ORG, 1, "c1", "UTC", 2, EVERY_DAY))
DAY = datetime(2030, 1, 7, tzinfo=UTC)
_HOOKS = {"appointment.created": "created", "appointment.cancelled": "cancelled"}


def at(hour: float) -> datetime:
    """A moment of the day that everything happens on."""
    return DAY + timedelta(hours=hour)


@dataclass
class Story:
    """Requests, each with its place in time, and what they made. `final()` is the end they came to."""

    history: History = field(default_factory=History)
    rows: dict[str, AppointmentRow] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)
    receipts: dict[str, list[float]] = field(default_factory=dict)
    bodies: dict[str, set[tuple[str, bytes]]] = field(default_factory=dict)

    def ask(self, kind: str, request: dict[str, Any], began: float, **more: Any) -> Operation:
        """A request without an answer yet."""
        operation = self.history.begin(0, ORG, kind, request, **more)
        operation.invoked = began
        return operation

    def answer(self, operation: Operation, ended: float, status: int, body: Any) -> Operation:
        """Its answer."""
        self.history.end(operation, status, body, {}, json.dumps(body).encode())
        operation.answered = ended
        return operation

    def refuse(
        self, operation: Operation, ended: float, status: int = 409, error: str = "SLOT_UNAVAILABLE"
    ) -> Operation:
        """Its refusal."""
        return self.answer(operation, ended, status, {"error": error})

    def wish(self, hour: float, coach: str | None = None, **more: Any) -> dict[str, Any]:
        """The body of a booking."""
        asked = {"coach_id": coach} if coach else {}
        return {"calendar_id": "cal", "start_time": at(hour).isoformat(), **asked, **more}

    def booked(
        self, hour: float, coach: str, began: float, ended: float | None, *, key: str | None = None, name: str = ""
    ) -> Operation:
        """A booking that took effect; `ended` None: its answer was lost."""
        operation = self.ask("book", self.wish(hour), began, key=key)
        self.change(operation, name or f"a{operation.number}", hour, coach, "appointment.created")
        return operation if ended is None else self.answer(operation, ended, 201, self.events[-1].data)

    def cancelled(self, booking: Operation, began: float, ended: float | None) -> Operation:
        """A cancellation that took effect."""
        row = self.rows[booking.body["appointment_id"]]
        operation = self.ask("cancel", {}, began, target=row.appointment_id)
        hour = (row.starts_at - DAY) / timedelta(hours=1)
        self.change(operation, row.appointment_id, hour, row.coach_id, "appointment.cancelled")
        return operation if ended is None else self.answer(operation, ended, 200, self.events[-1].data)

    def moved(self, booking: Operation, hour: float, coach: str, began: float, ended: float) -> Operation:
        """A move that took effect."""
        name = booking.body["appointment_id"]
        operation = self.ask("move", {"start_time": at(hour).isoformat()}, began, target=name)
        self.change(operation, name, hour, coach, "appointment.rescheduled")
        return self.answer(operation, ended, 200, self.events[-1].data)

    def change(self, operation: Operation, name: str, hour: float, coach: str, kind: str) -> None:
        """The next version of an appointment in Postgres, and the CRM's word for it."""
        known = self.rows.get(name)
        version = known.version + 1 if known else 1
        status = "cancelled" if kind == "appointment.cancelled" else "scheduled"
        start, end = at(hour), at(hour) + CALENDAR.length
        data = {
            "appointment_id": name,
            "calendar_id": "cal",
            "coach_id": coach,
            "start_time": start.isoformat(),
            "end_time": end.isoformat(),
            "status": status,
            "version": version,
        }
        self.rows[name] = AppointmentRow(
            org=ORG,
            appointment_id=name,
            calendar_id="cal",
            coach_no=int(coach[1:]),
            coach_id=coach,
            starts_at=start,
            ends_at=end,
            occupied=CALENDAR.occupied(start, end),
            local_day=start.date(),
            status=status,
            version=version,
            idempotency_key=known.idempotency_key if known else operation.key,
        )
        event = EventRow(ORG, name, version, kind, DAY, correlation_of(operation.number), data)
        self.events.append(event)
        told = json.dumps({"appointment_id": name, "coach_id": coach}).encode()
        self.receipts[event.event_id] = [operation.invoked + 0.5]
        self.bodies[event.event_id] = {(f"/webhooks/appointment-{_HOOKS.get(kind, 'updated')}", told)}

    def final(self, **other: Any) -> Final:
        """The end state, with some of it replaced."""
        metrics: Counter[tuple[str, Labels]] = Counter({("booking_http_requests_in_flight", ()): 1})
        for operation in self.history.operations:
            if operation.status is not None:
                method, route = ROUTES[operation.kind]
                labels = (("method", method), ("route", route), ("status", str(operation.status)))
                metrics[SERIES, labels] += 1
        well = Final(
            coaches=COACHES,
            calendars=(CALENDAR,),
            appointments=tuple(self.rows.values()),
            events=tuple(self.events),
            deliveries={(event.appointment_id, event.sequence, "crm"): "delivered" for event in self.events},
            metrics=dict(metrics),
            verify_text="holds",
            activity=({"state": "idle", "transaction_s": None, "query": ""},),
            most_connections=1,
            receipts=self.receipts,
            receipt_bodies=self.bodies,
            probes=(("GET /livez", 200, 0.1),),
            processes={"api": 2, "worker": 1},
            expected_processes={"api": 2, "worker": 1},
        )
        return replace(well, **other)
