"""C1: the rows themselves. Nothing here depends on what the clients saw, and nothing is allowed for."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise

from tests.faults.final import LIVE, AppointmentRow, Final
from tests.faults.findings import Finding


def rows_keep_the_rules(final: Final) -> list[Finding]:
    """C1: no two live appointments of a coach overlap, buffers included, and no coach has more a day than its limit.

    Times with buffers and local days are worked out anew from start, calendar and zone; a row that has others is a
    finding too, because the constraint would then guard the wrong time.
    """
    found: list[Finding] = []
    days: Counter[tuple[str, str, object]] = Counter()
    by_coach: dict[tuple[str, str], list[AppointmentRow]] = defaultdict(list)
    for row in final.appointments:
        if row.status not in LIVE:
            continue
        coach = final.coach[row.org, row.coach_id]
        occupied, day = _occupied(final, row), coach.local(row.starts_at).date()
        if row.occupied != occupied:
            found.append(Finding("C1", f"{row.appointment_id} holds {row.occupied}, with its buffers it is {occupied}"))
        if row.local_day != day:
            found.append(Finding("C1", f"{row.appointment_id} counts on {row.local_day}, its start is on {day}"))
        if not coach.is_open(row.starts_at, row.ends_at):
            found.append(Finding("C1", f"{row.appointment_id} is at {row.starts_at}, outside {row.coach_id}'s hours"))
        by_coach[row.org, row.coach_id].append(row)
        days[row.org, row.coach_id, day] += 1
    for (_, coach_id), rows in by_coach.items():
        for one, other in pairwise(sorted(rows, key=lambda row: _occupied(final, row))):
            if _occupied(final, other)[0] < _occupied(final, one)[1]:
                what = f"{coach_id}: {one.appointment_id} and {other.appointment_id} overlap at {other.starts_at}"
                found.append(Finding("C1", what))
    for (org, coach_id, day), count in days.items():
        limit = final.coach[org, coach_id].daily_limit
        if count > limit:
            found.append(Finding("C1", f"{coach_id} has {count} appointments on {day}, its limit is {limit}"))
    return found


def _occupied(final: Final, row: AppointmentRow) -> tuple[datetime, datetime]:
    return final.calendar[row.org, row.calendar_id or ""].occupied(row.starts_at, row.ends_at)
