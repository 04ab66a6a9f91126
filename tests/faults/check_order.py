"""C5: each coach's day is explained by some order of what took effect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import date

from tests.faults.explain import Step, explain
from tests.faults.final import Final
from tests.faults.findings import Finding
from tests.faults.timeline import Timeline

CoachDay = tuple[str, str, date]


def days_are_explained(final: Final, timeline: Timeline) -> list[Finding]:
    """C5: for each coach and local day some order that respects real time keeps the rules at every moment.

    A change without an answer may lie at any moment after its request was sent: nothing else says when. A search
    that came to no end is a finding, not a pass.
    """
    found: list[Finding] = []
    for (org, coach_id, day), steps in sorted(steps_of(timeline).items()):
        verdict = explain(steps, final.coach[org, coach_id].daily_limit)
        if verdict.explained:
            continue
        numbers = sorted({step.operation for step in verdict.stuck if step.operation is not None})
        why = "no order explains it" if verdict.decided else "whether an order explains it was not decided"
        stuck = ", ".join(f"{step.appointment_id} v{step.version}" for step in verdict.stuck[:4])
        found.append(Finding("C5", f"{coach_id} on {day}: {why} ({len(steps)} steps; {stuck})", tuple(numbers)))
    return found


def steps_of(timeline: Timeline) -> Mapping[CoachDay, list[Step]]:
    """The changes as each coach's day sees them."""
    days: dict[CoachDay, list[Step]] = defaultdict(list)
    for change in timeline.changes:
        touched = {place.coach_day for place in (change.before, change.after) if place is not None}
        for coach_day in touched:
            here = change.after is not None and change.after.coach_day == coach_day
            days[coach_day].append(
                Step(
                    appointment_id=change.appointment_id,
                    version=change.version,
                    occupied=change.after.occupied if here and change.after is not None else None,
                    earliest=change.earliest,
                    latest=change.latest,
                    operation=None if change.operation is None else change.operation.number,
                )
            )
    return days
