"""Every change that took effect, with the earliest and the latest moment at which it can have.

Postgres' events say which changes there were and, by their correlation ids, which request made each; so nothing is
left open about *whether* a request without an answer took effect, only about *when*. Bounds of a change:

- not before its request was sent, nor before a GET was sent that still showed the version before it;
- not after any answer that shows its version or a later one, whoever got it.

Answered changes that Postgres does not have are changes as well: what was answered must be explained too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from tests.faults.clients import correlation_of
from tests.faults.final import Final
from tests.faults.history import WRITES, History, Operation


@dataclass(frozen=True)
class Place:
    """Where an appointment is: whose, when with its buffers, and the local day it counts on."""

    org: str
    coach_id: str
    starts_at: datetime
    occupied: tuple[datetime, datetime]
    day: date

    @property
    def coach_day(self) -> tuple[str, str, date]:
        """What the rules are kept for."""
        return self.org, self.coach_id, self.day


@dataclass(frozen=True)
class Change:
    """One version of an appointment: where it was and is (None: nowhere), and when that may have happened."""

    org: str
    appointment_id: str
    calendar_id: str
    version: int
    before: Place | None
    after: Place | None
    earliest: float
    latest: float
    operation: Operation | None
    committed: bool


@dataclass(frozen=True)
class Timeline:
    """All changes, in the order of appointments and versions."""

    changes: tuple[Change, ...]
    # correlation id -> the request
    requests: Mapping[str, Operation]


def body_of(operation: Operation) -> Mapping[str, Any] | None:
    """The appointment a 2xx answer shows, or None."""
    if operation.kind not in (*WRITES, "get") or not operation.succeeded or not isinstance(operation.body, dict):
        return None
    return operation.body if "appointment_id" in operation.body else None


def place_of(final: Final, org: str, data: Mapping[str, Any]) -> Place | None:
    """Where an appointment that looks like `data` is; None when it takes no time."""
    if data["status"] in ("cancelled", "void"):
        return None
    coach, calendar = final.coach[org, data["coach_id"]], final.calendar[org, data["calendar_id"]]
    start, end = (datetime.fromisoformat(data[name]) for name in ("start_time", "end_time"))
    return Place(org, coach.coach_id, start, calendar.occupied(start, end), coach.local(start).date())


def timeline_of(history: History, final: Final) -> Timeline:
    """Every change of the run."""
    requests = {correlation_of(operation.number): operation for operation in history.operations}
    versions: dict[tuple[str, str], dict[int, tuple[Mapping[str, Any], Operation | None, bool]]] = defaultdict(dict)
    for event in final.events:
        maker = requests.get(event.correlation_id)
        versions[event.org, event.appointment_id][event.sequence] = (event.data, maker, True)
    latest: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    still: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for operation in history.operations:
        body = body_of(operation)
        if body is None or operation.answered is None:
            continue
        appointment, version = (operation.org, body["appointment_id"]), body["version"]
        versions[appointment].setdefault(version, (body, operation, False))
        seen = latest[appointment]
        seen[version] = min(seen.get(version, math.inf), operation.answered)
        if operation.kind == "get":
            shown = still[appointment]
            shown[version] = max(shown.get(version, -math.inf), operation.invoked)
    changes: list[Change] = []
    for appointment, found in sorted(versions.items()):
        changes += _of_appointment(final, appointment, found, latest[appointment], still[appointment])
    return Timeline(tuple(changes), requests)


def _of_appointment(
    final: Final,
    appointment: tuple[str, str],
    found: Mapping[int, tuple[Mapping[str, Any], Operation | None, bool]],
    latest: Mapping[int, float],
    still: Mapping[int, float],
) -> list[Change]:
    org, appointment_id = appointment
    before: Place | None = None
    changes: list[Change] = []
    for version in sorted(found):
        data, operation, committed = found[version]
        after = place_of(final, org, data)
        sent = operation.invoked if operation is not None else -math.inf
        changes.append(
            Change(
                org=org,
                appointment_id=appointment_id,
                calendar_id=data["calendar_id"],
                version=version,
                before=before,
                after=after,
                earliest=max([sent, *(at for shown, at in still.items() if shown < version)]),
                latest=min([at for shown, at in latest.items() if shown >= version], default=math.inf),
                operation=operation,
                committed=committed,
            )
        )
        before = after
    return changes
