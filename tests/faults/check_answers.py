"""C2 to C4: what was answered against what Postgres has. Correlation ids say which request made which change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from tests.faults.final import LIVE, Final
from tests.faults.findings import Finding
from tests.faults.history import WRITES, History, Operation
from tests.faults.timeline import Timeline, body_of

REMINDER = "appointment.reminder"
# What each version of an appointment looked like, by organization, appointment and version.
Versions = Mapping[tuple[str, str, int], Mapping[str, Any]]


def answers_are_true(history: History, final: Final, timeline: Timeline) -> list[Finding]:
    """C2: every change that was answered 2xx is in Postgres as it was answered, and what was booked is live.

    Every 2xx answer that shows an appointment must show one of its versions exactly. At the end the row must be the
    last version; it may be cancelled only when a request to cancel it was sent, whatever became of that request.
    """
    versions = {(event.org, event.appointment_id, event.sequence): event.data for event in final.events}
    return [
        *_answers_without_a_version(history, final, versions),
        *_rows_beside_their_events(history, final),
        *_changes_of_another_kind(timeline, versions),
    ]


def _answers_without_a_version(history: History, final: Final, versions: Versions) -> Iterator[Finding]:
    rows = {(row.org, row.appointment_id) for row in final.appointments if row.status != "void"}
    for operation in history.operations:
        body = body_of(operation)
        if body is None:
            continue
        at = operation.org, body["appointment_id"]
        known = versions.get((*at, body["version"]))
        what = f"{operation.kind} {operation.number} was answered {operation.status}"
        if at not in rows or known is None:
            yield Finding("C2", f"{what}, and {at[1]} v{body['version']} is not there", (operation.number,))
        elif dict(known) != dict(body):
            yield Finding("C2", f"{what} with another {at[1]} v{body['version']}", (operation.number,))


def _rows_beside_their_events(history: History, final: Final) -> Iterator[Finding]:
    last: dict[tuple[str, str], int] = {}
    for event in final.events:
        at = event.org, event.appointment_id
        last[at] = max(last.get(at, 0), event.sequence)
    asked_to_cancel = {(operation.org, operation.target) for operation in history.of_kind("cancel")}
    for row in final.appointments:
        at = row.org, row.appointment_id
        if row.status == "void":
            continue
        if row.version != last.get(at):
            yield Finding("C2", f"{at[1]} is at version {row.version}, its events end at {last.get(at)}")
        if row.status not in LIVE and at not in asked_to_cancel:
            yield Finding("C2", f"{at[1]} is {row.status}, and nobody asked for that")


def _changes_of_another_kind(timeline: Timeline, versions: Versions) -> Iterator[Finding]:
    for change in timeline.changes:
        data = versions.get((change.org, change.appointment_id, change.version))
        if data is None or change.operation is None:
            continue
        wrong = _not_as_asked(change.operation, data["status"], change.appointment_id, change.version)
        if wrong:
            what = f"{change.appointment_id} v{change.version}: {wrong}"
            yield Finding("C2", what, (change.operation.number,))


def _not_as_asked(operation: Operation, status: str, appointment_id: str, version: int) -> str | None:
    """How a change differs in kind from the request that made it."""
    if (operation.kind == "book") != (version == 1):
        return f"a {operation.kind} made it"
    if operation.kind in ("cancel", "move") and operation.target != appointment_id:
        return f"made by the {operation.kind} of {operation.target}"
    if (operation.kind == "cancel") != (status == "cancelled"):
        return f"a {operation.kind} made it {status}"
    return None


def refusals_left_nothing(final: Final, timeline: Timeline) -> list[Finding]:
    """C3: no change was made by a request that was refused, and none by nobody.

    By correlation id, so it is the very request: another one with the same key may well have taken effect.
    OUTCOME_UNKNOWN, a 500, IDEMPOTENCY_IN_PROGRESS and no answer refuse nothing; every other 4xx and 503 does.
    Reminders are the service's own.
    """
    found: list[Finding] = []
    for event in final.events:
        if event.type == REMINDER:
            continue
        operation = timeline.requests.get(event.correlation_id)
        if operation is None or operation.kind not in WRITES:
            found.append(Finding("C3", f"{event.event_id} ({event.type}) was made by no request"))
        elif operation.refused:
            what = f"{operation.kind} {operation.number} was answered {operation.status} {operation.error}"
            found.append(Finding("C3", f"{what}, and made {event.event_id}", (operation.number,)))
    return found


def keys_have_one_effect(history: History, final: Final, timeline: Timeline) -> list[Finding]:
    """C4: one idempotency key, one change, one answer, one request.

    All 2xx answers under a key are equal to the byte and to equal requests; the requests of a key made at most one
    change; a row has the key its request had; and 422 IDEMPOTENCY_KEY_REUSED is said only where another request was
    sent under the key that is answered 2xx or may have taken effect.
    """
    by_key: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in history.of_kind(*WRITES):
        if operation.key is not None:
            by_key[operation.org, operation.key].append(operation)
    effects: dict[tuple[str, str], set[str]] = defaultdict(set)
    made: dict[tuple[str, str], Operation] = {}
    for event in final.events:
        operation = timeline.requests.get(event.correlation_id)
        if operation is not None and operation.key is not None:
            effects[operation.org, operation.key].add(event.event_id)
        if operation is not None and event.sequence == 1:
            made[event.org, event.appointment_id] = operation
    found = [finding for at, operations in by_key.items() for finding in _of_key(at, operations, effects[at])]
    for row in final.appointments:
        operation = made.get((row.org, row.appointment_id))
        if operation is not None and row.idempotency_key != operation.key:
            what = f"{row.appointment_id} has the key {row.idempotency_key}, its request had {operation.key}"
            found.append(Finding("C4", what, (operation.number,)))
    return found


def _of_key(at: tuple[str, str], operations: Sequence[Operation], effects: Set[str]) -> Iterator[Finding]:
    name = f"{at[1]} of {at[0]}"
    numbers = tuple(operation.number for operation in operations)
    done = [operation for operation in operations if operation.succeeded]
    if len({(operation.status, operation.raw) for operation in done}) > 1:
        yield Finding("C4", f"{name} has different answers", numbers)
    if any(_asked(operation) != _asked(done[0]) for operation in done):
        yield Finding("C4", f"{name} answers different requests", numbers)
    if len(effects) > 1:
        yield Finding("C4", f"{name} made {sorted(effects)}", numbers)
    for operation in operations:
        others = [other for other in operations if _asked(other) != _asked(operation)]
        if operation.error == "IDEMPOTENCY_KEY_REUSED" and all(other.refused for other in others):
            yield Finding("C4", f"{name} was said to be used for another request", numbers)


def _asked(operation: Operation) -> tuple[str, str | None, str]:
    return operation.kind, operation.target, repr(sorted(operation.request.items()))
