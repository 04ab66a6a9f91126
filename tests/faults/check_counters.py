"""C10: the service's counters against what the clients know and what Postgres has."""

from __future__ import annotations

from collections import Counter

from tests.faults.final import Final
from tests.faults.findings import Finding
from tests.faults.history import History

# How each kind of operation is counted.
ROUTES = {
    "book": ("POST", "/api/appointments"),
    "cancel": ("POST", "/api/appointments/<appointment_id>/cancel"),
    "move": ("PATCH", "/api/appointments/<appointment_id>"),
    "get": ("GET", "/api/appointments/<appointment_id>"),
    "availability": ("GET", "/api/availability"),
}
SERIES = "booking_http_requests_total"


def counters_agree(history: History, final: Final) -> list[Finding]:
    """C10: answers that clients got <= counted answers <= those and the requests that got none, by route and status.

    A request is counted before its answer is sent, so what was answered is counted although its process was killed
    the moment after. A request without an answer may have been counted, under any status, or not. A refusal that
    never reached its route is counted under the route "(none)". Events and rows agree exactly.
    """
    found: list[Finding] = []
    for kind, (method, route) in ROUTES.items():
        operations = history.of_kind(kind)
        known = Counter(str(operation.status) for operation in operations if operation.status is not None)
        unanswered = sum(operation.status is None for operation in operations)
        counted = {
            dict(labels)["status"]: value
            for (series, labels), value in final.metrics.items()
            if series == SERIES and dict(labels)["method"] == method and dict(labels)["route"] == route
        }
        for status in sorted({*known, *counted}):
            elsewhere = final.value(SERIES, method=method, route="(none)", status=status)
            count = counted.get(status, 0)
            if count + elsewhere < known[status]:
                found.append(Finding("C10", f"{kind}: {known[status]} were answered {status}, {count:g} are counted"))
        too_many = sum(max(0.0, count - known[status]) for status, count in counted.items())
        if too_many > unanswered:
            what = f"{kind}: {too_many:g} more answers are counted than were got, {unanswered} requests got none"
            found.append(Finding("C10", what))
    made = sum(event.type == "appointment.created" for event in final.events)
    rows = sum(row.status != "void" for row in final.appointments)
    if made != rows:
        found.append(Finding("C10", f"{made} appointments were created by events, {rows} are in the table"))
    sequences: dict[str, list[int]] = {}
    for event in final.events:
        sequences.setdefault(event.appointment_id, []).append(event.sequence)
    for appointment_id, numbers in sequences.items():
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            found.append(Finding("C10", f"{appointment_id} has the events {sorted(numbers)}"))
    return found
