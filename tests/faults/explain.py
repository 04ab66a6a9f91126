"""Whether some order explains what became of one coach's day.

A step adds an appointment to the day, removes one, or both at once. An order explains the steps when it respects
real time (a step that was over before another could begin comes first) and the versions of each appointment, and
when at no moment two appointments overlap or there are more than the limit. The search is Wing and Gong's with
Lowe's memory of the sets already tried ("Testing for linearizability", 2017); a step that only removes is taken as
soon as it may come, because having it earlier makes nothing impossible. The problem is hard in general: the search
is bounded, and what it did not decide is said, not passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

MOST_NODES = 100_000


@dataclass(frozen=True)
class Step:
    """A change as one coach's day sees it: what takes time after it (None: nothing any more), and when it was."""

    appointment_id: str
    version: int
    occupied: tuple[datetime, datetime] | None
    earliest: float
    latest: float
    operation: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether there is an order; if not, the steps of which none could come next where the search got furthest."""

    explained: bool
    decided: bool = True
    stuck: tuple[Step, ...] = ()


@dataclass
class _Search:
    steps: Sequence[Step]
    limit: int
    done: int = 0
    taken: list[tuple[int, tuple[datetime, datetime] | None]] = field(default_factory=list)
    live: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)

    def candidates(self) -> list[int]:
        """Steps that may come next by real time and version."""
        left = [number for number in range(len(self.steps)) if not self.done >> number & 1]
        horizon = min(self.steps[number].latest for number in left)
        first: dict[str, int] = {}
        for number in left:
            step = self.steps[number]
            known = first.get(step.appointment_id)
            if known is None or step.version < self.steps[known].version:
                first[step.appointment_id] = number
        return [n for n in left if self.steps[n].earliest <= horizon and first[self.steps[n].appointment_id] == n]

    def fits(self, number: int) -> bool:
        """Whether the step breaks no rule now."""
        step = self.steps[number]
        if step.occupied is None:
            return True
        others = [span for name, span in self.live.items() if name != step.appointment_id]
        begins, ends = step.occupied
        return len(others) < self.limit and not any(start < ends and begins < end for start, end in others)

    def take(self, number: int) -> None:
        step = self.steps[number]
        self.taken.append((number, self.live.pop(step.appointment_id, None)))
        if step.occupied is not None:
            self.live[step.appointment_id] = step.occupied
        self.done |= 1 << number

    def take_back(self) -> None:
        number, before = self.taken.pop()
        name = self.steps[number].appointment_id
        self.live.pop(name, None)
        if before is not None:
            self.live[name] = before
        self.done &= ~(1 << number)

    def choices(self) -> list[int]:
        """What to try next, the likeliest last; a removal alone when there is one."""
        able = self.candidates()
        for number in able:
            if self.steps[number].occupied is None:
                return [number]
        return sorted((n for n in able if self.fits(n)), key=lambda n: self.steps[n].latest, reverse=True)


def explain(steps: Sequence[Step], limit: int) -> Verdict:
    """Look for an order of the steps of one coach-day with at most `limit` appointments."""
    if not steps:
        return Verdict(explained=True)
    search = _Search(sorted(steps, key=lambda step: (step.latest, step.earliest, step.version)), limit)
    everything = (1 << len(steps)) - 1
    seen: set[int] = {0}
    furthest, stuck = -1, ()
    open_choices = [search.choices()]
    if not open_choices[0]:
        return Verdict(explained=False, stuck=tuple(search.steps))
    while open_choices:
        if not open_choices[-1]:
            open_choices.pop()
            if search.taken:
                search.take_back()
            continue
        search.take(open_choices[-1].pop())
        if search.done == everything:
            return Verdict(explained=True)
        if search.done in seen:
            search.take_back()
            continue
        seen.add(search.done)
        if len(seen) > MOST_NODES:
            return Verdict(explained=False, decided=False)
        choices = search.choices()
        if not choices and len(search.taken) > furthest:
            furthest, stuck = len(search.taken), tuple(search.steps[n] for n in search.candidates())
        open_choices.append(choices)
    return Verdict(explained=False, stuck=stuck)
