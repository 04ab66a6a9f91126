"""C6: every 409 SLOT_UNAVAILABLE had a reason at one moment of its request."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.final import Final
from tests.faults.findings import Finding
from tests.faults.history import FaultSpan, History, Operation
from tests.faults.holds import Hold, Holds
from tests.faults.timeline import Place, Timeline

Span = tuple[float, float]


def refusals_had_a_reason(
    history: History, final: Final, timeline: Timeline, spans: Sequence[FaultSpan]
) -> list[Finding]:
    """C6: at one and the same moment of the request every coach who is open then may have been taken.

    Taken means that an appointment or a claim may have held some of the time, or that appointments and claims may
    have reached the daily limit; `holds.py` says how long each may hold. One moment for all coaches, because the
    gate decides at one moment. What a move holds itself is no reason against it.
    """
    holds = Holds(history, final, timeline, spans)
    found: list[Finding] = []
    for operation in history.of_kind("book", "move"):
        if operation.error != "SLOT_UNAVAILABLE" or operation.answered is None:
            continue
        places = holds.wanted(operation)
        if operation.kind == "move" and not holds.changes_of(operation.org, operation.target):
            continue  # C2 says that its appointment is missing
        moments: list[Span] = [(operation.invoked, operation.answered)]
        free: list[str] = []
        for place in places:
            taken = _taken(holds, final, operation, place)
            moments = _both(moments, taken)
            if not taken:
                free.append(place.coach_id)
        if not moments:
            why = f"{', '.join(free)} free all the while" if free else "there was always somebody free"
            what = f"{operation.kind} {operation.number} of {operation.request} found nobody, and {why}"
            found.append(Finding("C6", what, (operation.number,)))
    return found


def _taken(holds: Holds, final: Final, operation: Operation, place: Place) -> list[Span]:
    """When, during the request, the coach may have been taken."""
    begins, ends = operation.invoked, operation.answered or operation.invoked
    own = operation.target or f"request {operation.number}"
    near = {hold for hold in holds.of(place.org, place.coach_id, begins, ends) if hold.owner != own}
    blocked = [(max(begins, h.begins), min(ends, h.ends)) for h in near if _meet(h.occupied, place.occupied)]
    limit = final.coach[place.org, place.coach_id].daily_limit
    same_day = [hold for hold in near if hold.day == place.day]
    return _union(blocked + _full(same_day, limit, begins, ends))


def _full(holds: Sequence[Hold], limit: int, begins: float, ends: float) -> list[Span]:
    """When at least `limit` different owners may have counted on the day."""
    if len({hold.owner for hold in holds}) < limit:
        return []
    moments = sorted({begins, *(hold.begins for hold in holds if begins <= hold.begins <= ends)})
    spans: list[Span] = []
    for moment in moments:
        there = [hold for hold in holds if hold.begins <= moment <= hold.ends]
        if len({hold.owner for hold in there}) >= limit:
            # Until one too many of them is gone.
            last: dict[str, float] = {}
            for hold in there:
                last[hold.owner] = max(hold.ends, last.get(hold.owner, hold.ends))
            spans.append((moment, min(ends, sorted(last.values(), reverse=True)[limit - 1])))
    return spans


def _meet(one: tuple[object, object], other: tuple[object, object]) -> bool:
    return one[0] < other[1] and other[0] < one[1]  # type: ignore[operator]


def _union(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for begins, ends in sorted(spans):
        if joined and begins <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], ends))
        else:
            joined.append((begins, ends))
    return joined


def _both(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The moments that lie in both."""
    return [(max(a, c), min(b, d)) for a, b in some for c, d in others if max(a, c) <= min(b, d)]
