"""C7, C8, C9 and C11: what the world was told, what is left, whether Redis equals Postgres, and whether all is well."""

from __future__ import annotations

import json
from typing import Any

from tests.faults.clients import correlation_of
from tests.faults.final import EventRow, Final
from tests.faults.findings import Finding
from tests.faults.history import History
from tests.faults.timeline import Timeline

REMINDER = "appointment.reminder"
SLOWEST_PROBE_S = 2.0
OLDEST_TRANSACTION_S = 5.0
LONGEST_PAUSE_S = 1.0
_HOOKS = {
    "appointment.created": "/webhooks/appointment-created",
    "appointment.cancelled": "/webhooks/appointment-cancelled",
}
_OTHER_HOOK = "/webhooks/appointment-updated"


def everything_is_heard(final: Final, timeline: Timeline) -> list[Finding]:
    """C7: the CRM has every event, always the same under one id, and heard of nothing that is not in Postgres.

    It may hear an event more than once. Not before its request was sent; an answer that said "delivered" is one the
    CRM gave. Reminders are not the CRM's.
    """
    found: list[Finding] = []
    events = {event.event_id: event for event in final.events if event.type != REMINDER}
    for event_id, event in events.items():
        state = final.deliveries.get((event.appointment_id, event.sequence, "crm"))
        times = final.receipts.get(event_id, [])
        if not times:
            found.append(Finding("C7", f"the CRM never took {event_id} ({event.type}); its delivery is {state}"))
            continue
        if state != "delivered":
            found.append(Finding("C7", f"the CRM took {event_id}, its delivery is {state}"))
        operation = timeline.requests.get(event.correlation_id)
        if operation is not None and min(times) < operation.invoked:
            found.append(Finding("C7", f"the CRM took {event_id} before it was asked for", (operation.number,)))
        bodies = final.receipt_bodies.get(event_id, set())
        if len(bodies) > 1:
            found.append(Finding("C7", f"the CRM was told {len(bodies)} different things under {event_id}"))
        for path, body in bodies:
            if _not_said(event, path, json.loads(body)):
                found.append(Finding("C7", f"the CRM was told {path} {body!r} as {event_id}, a {event.type}"))
    untrue = sorted(set(final.receipts) - set(events))
    found += [Finding("C7", f"the CRM was told of {event_id}, which is not in Postgres") for event_id in untrue]
    return found


def _not_said(event: EventRow, path: str, body: dict[str, Any]) -> bool:
    if path != _HOOKS.get(event.type, _OTHER_HOOK) or body.get("appointment_id") != event.appointment_id:
        return True
    return event.type == "appointment.created" and body.get("coach_id") != event.data["coach_id"]


def nothing_is_left(final: Final) -> list[Finding]:
    """C8: streams, their due sets and events on their way, pending claims and owed repairs are gone; no letter is dead.

    Not counted are marks of repairs under way: what a killed process leaves of them expires, and is in nobody's way.

    Nothing is allowed for: the CRM takes everything and attempts are not scarce, so a dead letter is a lost one.
    """
    return [Finding("C8", f"{count} left in {name}") for name, count in sorted(final.leftovers.items()) if count]


def comparison_holds(final: Final) -> list[Finding]:
    """C9: `booking verify` compared the grid and the deficits with Postgres, and all of it holds."""
    if final.verify_code == 0 and final.verify_text.splitlines()[-1:] == ["holds"]:
        return []
    return [Finding("C9", f"booking verify ended with {final.verify_code}: {final.verify_text[-600:]}")]


def all_is_well(history: History, final: Final) -> list[Finding]:
    """C11: every endpoint answers well and soon, no transaction is stuck, no connection, task or process is lost.

    A GET of /metrics sees itself in flight, so that gauge must be 1. A 500 is a finding at any time: whatever is broken
    outside, the service has a word for it, and only a fault of its own is a crash.
    """
    crashed = [operation for operation in history.operations if operation.status == 500]
    found = [
        Finding("C11", f"{one.kind} {one.number} ({correlation_of(one.number)}) was answered 500", (one.number,))
        for one in crashed
    ]
    found += [
        Finding("C11", f"{what} was answered {status or 'nothing'} after {seconds:.1f} s")
        for what, status, seconds in final.probes
        if not 200 <= status < 300 or seconds > SLOWEST_PROBE_S
    ]
    if not final.probes:
        found.append(Finding("C11", "no endpoint was asked"))
    for one in final.activity:
        age = one["transaction_s"] or 0.0
        idle = (one["state"] or "").startswith("idle in transaction")  # also between two statements, for a moment
        if age > (LONGEST_PAUSE_S if idle else OLDEST_TRANSACTION_S):
            found.append(Finding("C11", f"a transaction of {age:.1f} s is {one['state']}: {one['query'][:100]}"))
    if len(final.activity) > final.most_connections:
        found.append(Finding("C11", f"{len(final.activity)} connections, at most {final.most_connections} are wanted"))
    in_flight = final.value("booking_http_requests_in_flight")
    if in_flight != 1:
        found.append(Finding("C11", f"{in_flight:g} requests are in flight where there is one"))
    for name, wanted in final.expected_processes.items():
        alive = final.processes.get(name, 0)
        if alive != wanted:
            found.append(Finding("C11", f"{alive} {name} processes are alive, {wanted} should be"))
    return found
