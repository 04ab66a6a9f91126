"""Who may have held which time of a coach, and how long: appointments, and claims of requests under way.

A hold is as short as the history proves. It is longer than that only

- where a request has no definite answer: its claim or release stays pending up to its deadline and one round of the
  reconciler (`HOLD_S`) after the request was given up, and the server may have pursued it for as long as it has
  patience (`PATIENCE_S`) when the client did not wait for the end;
- where a hold ends within a fault that can keep Redis from hearing of it, or within `SETTLING_S` after its heal (the
  deadline, a round, the start of a process): it may last until then; a process that stops asking Redis, as its
  log says, is such a fault too;
- where a request uses a key again: it may claim what it asks for until Postgres tells that the key has its answer;
- where Redis is put back to a state of before: what ended up to `ROLLBACK_S` before the fault may be held again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from tests.faults.final import Final
from tests.faults.history import FaultSpan, History, Operation
from tests.faults.machine import CLAIM_TTL_MS
from tests.faults.timeline import Change, Place, Timeline

# How long a claim may be pending, the pause between two rounds of the reconciler, and a second for the round itself.
HOLD_S = CLAIM_TTL_MS / 1000 + 0.5 + 1.0
PATIENCE_S = 5.0
SETTLING_S = HOLD_S + 2.0
ROLLBACK_S = {"redis_rollback": 20.0, "kill_redis": 2.0, "flushall": 2.0}
# What a broken way to the CRM, or a client that goes away, cannot do to the grid.
HARMLESS = ("crm_", "client_disconnects", "script_flush")


@dataclass(frozen=True)
class Hold:
    """A coach's time that may have been taken from `begins` to `ends`, and whose it is."""

    owner: str
    occupied: tuple[datetime, datetime]
    day: date
    begins: float
    ends: float


class Troubles:
    """The spans of a run in which, and shortly after which, Redis may not know what Postgres does."""

    def __init__(self, spans: Sequence[FaultSpan]) -> None:
        wanted = [span for span in spans if not span.name.startswith(HARMLESS)]
        self._spans = sorted((s.began - ROLLBACK_S.get(s.name, 0.0), s.began, s.healed + SETTLING_S) for s in wanted)

    def touch(self, begins: float, ends: float) -> bool:
        """Whether some of the time lies in one."""
        return any(began <= ends and begins <= over for _, began, over in self._spans)

    def extend(self, ends: float) -> float:
        """Until when a hold that ends at `ends` may last."""
        again = True
        while again:
            again = False
            for back, _, over in self._spans:
                if back <= ends < over:
                    ends, again = over, True
        return ends


class Holds:
    """All holds of a run, to be asked for by coach and moment."""

    def __init__(self, history: History, final: Final, timeline: Timeline, spans: Sequence[FaultSpan]) -> None:
        self.troubles = Troubles(spans)
        self._final = final
        self._at: dict[tuple[str, str, int], list[Hold]] = defaultdict(list)
        ends = [operation.answered or operation.invoked for operation in history.operations]
        self._first, self._last = min((op.invoked for op in history.operations), default=0.0), max(ends, default=0.0)
        self._rivals = _rivals(history)
        self._first_use: dict[tuple[str, str | None], float] = {}
        for operation in sorted(history.operations, key=lambda operation: operation.invoked):
            if operation.key is not None:
                self._first_use.setdefault((operation.org, operation.key), operation.invoked)
        self._changes: dict[tuple[str, str], list[Change]] = defaultdict(list)
        for change in timeline.changes:
            self._changes[change.org, change.appointment_id].append(change)
        self._made = {c.operation.number: c for c in timeline.changes if c.operation is not None and c.committed}
        for changes in self._changes.values():
            self._hold_appointment(changes)
        for operation in history.of_kind("book", "move"):
            self._hold_claims(operation)

    def of(self, org: str, coach_id: str, begins: float, ends: float) -> Iterator[Hold]:
        """Holds of a coach at some moment of a time; one may come more than once."""
        for second in range(int(begins), int(ends) + 1):
            for hold in self._at[org, coach_id, second]:
                if hold.begins <= ends and begins <= hold.ends:
                    yield hold

    def changes_of(self, org: str, appointment_id: str | None) -> Sequence[Change]:
        """The versions of an appointment."""
        return self._changes.get((org, appointment_id or ""), ())

    def _add(self, place: Place, owner: str, begins: float, ends: float) -> None:
        ends = min(self.troubles.extend(ends), self._last)
        hold = Hold(owner, place.occupied, place.day, max(begins, self._first), ends)
        for second in range(int(hold.begins), int(hold.ends) + 1):
            self._at[place.org, place.coach_id, second].append(hold)

    def _hold_appointment(self, changes: Sequence[Change]) -> None:
        """A place is held from when its change may have begun to when the next one is over."""
        for change, following in zip(changes, [*changes[1:], None], strict=True):
            if change.after is None:
                continue
            ends = math.inf
            if following is not None and following.after == change.after:
                ends = following.latest if following.latest < math.inf else self._last
            elif following is not None:
                ends = max(over_by(following.operation), following.earliest)
            self._add(change.after, change.appointment_id, change.earliest, ends)

    def _hold_claims(self, operation: Operation) -> None:
        """A request under way may hold the time it asks for of any coach it may get.

        One that is known to have booked or moved held what it got, and nothing else, unless there was trouble or
        another change of the same appointment (then it claims again); one that was refused found nothing to hold. But
        where Redis has lost what its key stands for, a later request with that key claims before Postgres tells.
        """
        ends = over_by(operation)
        made = self._made.get(operation.number)
        rivals = operation.kind == "move" and self.has_rival(operation)
        known = made is not None or not operation.unknown
        later = operation.invoked > self._first_use.get((operation.org, operation.key), math.inf)
        if known and not rivals and not later and not self.troubles.touch(operation.invoked, ends):
            return
        owner = made.appointment_id if made is not None else operation.target or f"request {operation.number}"
        for place in self.wanted(operation):
            self._add(place, owner, operation.invoked, ends)

    def has_rival(self, operation: Operation) -> bool:
        """Whether another request to change its appointment may have been under way at the same time."""
        return any(
            other is not operation and other.invoked <= over_by(operation) and operation.invoked <= over_by(other)
            for other in self._rivals[operation.org, operation.target or ""]
        )

    def wanted(self, operation: Operation) -> list[Place]:
        """Where a booking or a move may put its appointment: the time it asks for, of each coach it may get."""
        final, request, org = self._final, operation.request, operation.org
        calendar_id = request.get("calendar_id")
        if operation.kind == "move":
            known = self.changes_of(org, operation.target)
            calendar_id = known[0].calendar_id if known else None
        if calendar_id is None or (org, calendar_id) not in final.calendar:
            return []
        calendar = final.calendar[org, calendar_id]
        start = datetime.fromisoformat(request["start_time"])
        occupied = calendar.occupied(start, start + calendar.length)
        return [
            Place(org, coach.coach_id, start, occupied, coach.local(start).date())
            for coach in final.team[org, calendar_id]
            if request.get("coach_id") in (None, coach.coach_id) and coach.is_open(start, start + calendar.length)
        ]


def over_by(operation: Operation | None) -> float:
    """When whatever a request did, or began to do, is over at the latest, as long as nothing is broken."""
    if operation is None:
        return math.inf
    if operation.answered is None:
        return operation.invoked + PATIENCE_S + HOLD_S
    return operation.answered + (HOLD_S if operation.unknown else 0.0)


def _rivals(history: History) -> dict[tuple[str, str], list[Operation]]:
    found: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in history.of_kind("cancel", "move"):
        found[operation.org, operation.target or ""].append(operation)
    return found
