"""How appointments are spread over coaches, and whether that is fair by score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from service.db.appointments import AppointmentStore
from service.db.rosters import RosterStore
from service.domain.calendar import Calendar, Roster
from service.domain.earned import Earned
from service.domain.grid import day_start
from service.domain.schedule import WeeklySchedule

# So many appointments are read at a time: some megabytes, and a few milliseconds in which nobody else is served.
AT_A_TIME = 20_000


@dataclass(frozen=True, slots=True)
class Distribution:
    """The answer's parts; `rows` one a coach, in the order of their ids."""

    rows: list[dict[str, Any]]
    fairness_score: float
    jain_index: float
    total: int


class ShowDistribution:
    """Counts appointments by coach over a window of local dates."""

    def __init__(self, appointments: AppointmentStore, rosters: RosterStore) -> None:
        self._appointments = appointments
        self._rosters = rosters

    async def __call__(self, roster: Roster, calendar: Calendar | None, first_day: int, last_day: int) -> Distribution:
        """The distribution over local dates `[first_day, last_day)` (day numbers), of one calendar or of all.

        utilization = appointments / (daily limit x working days); expected_share is the share earned by score on
        the appointments the coach could have taken, of what all these coaches earned. Raises Unavailable.
        """
        columns = None if calendar is None else set(calendar.team)
        coaches = sorted(
            (c for c in roster.coaches if c.active and (columns is None or c.column in columns)),
            key=lambda coach: coach.coach_id,
        )
        number = None if calendar is None else calendar.number
        counted = await self._appointments.counted(roster.org, first_day, last_day, number)
        counts = counted.by_column
        earned = Earned({coach.column: coach.score for coach in roster.coaches})
        for first, last in _parts(counted.by_day):
            for many in await self._appointments.considered(roster.org, first, last, number):
                earned.add(many)
        schedules = await self._rosters.schedules(roster, None, first_day, last_day)
        # Of what was earned by those who are shown: others may have left the team since.
        whole = sum(earned.of(coach.column) for coach in coaches)
        total = sum(counts.get(coach.column, 0) for coach in coaches)
        dates = [day_start(day).date() for day in range(first_day, last_day)]
        weekdays = Counter(one.weekday() for one in dates)
        utilizations: list[float] = []
        for coach in coaches:
            schedule = schedules.get(coach.column)
            working = 0 if schedule is None else _working_days(schedule, dates[0], dates[-1], weekdays)
            capacity = coach.max_daily_appointments * working
            utilizations.append(counts.get(coach.column, 0) / capacity if capacity else 0.0)
        rows = [
            {
                "coach_id": coach.coach_id,
                "name": coach.name,
                "email": coach.email,
                "score": coach.score / 1_000_000,
                "appointments_count": counts.get(coach.column, 0),
                "utilization": round(utilization, 4),
                "share": round(counts.get(coach.column, 0) / total, 4) if total else 0.0,
                "expected_share": round(earned.of(coach.column) / whole, 4) if whole else 0.0,
            }
            for coach, utilization in zip(coaches, utilizations, strict=True)
        ]
        return Distribution(rows, _fairness(utilizations), _jain(utilizations), total)


def _working_days(schedule: WeeklySchedule, first: date, last: date, weekdays: Mapping[int, int]) -> int:
    """On how many dates from `first` to `last`, so many of each weekday, the coach has hours."""
    weekly = schedule.weekly
    working = sum(count for weekday, count in weekdays.items() if weekly[weekday])
    for day, windows in schedule.overrides.items():
        if first <= day <= last:
            working += bool(windows) - bool(weekly[day.weekday()])
    return working


def _parts(by_day: Mapping[int, int]) -> list[tuple[int, int]]:
    """The days `[first, last)` that are read together: as many as have AT_A_TIME appointments at most, or one."""
    parts: list[tuple[int, int]] = []
    together = 0
    for day, appointments in sorted(by_day.items()):
        together += appointments
        if parts and together <= AT_A_TIME:
            parts[-1] = (parts[-1][0], day + 1)
        else:
            parts.append((day, day + 1))
            together = appointments
    return parts


def _fairness(utilizations: Sequence[float]) -> float:
    """1 - standard deviation of utilization, not below 0."""
    if not utilizations:
        return 1.0
    mean = sum(utilizations) / len(utilizations)
    deviation = math.sqrt(sum((u - mean) ** 2 for u in utilizations) / len(utilizations))
    return round(max(0.0, 1.0 - deviation), 4)


def _jain(utilizations: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything (Jain, Chiu, Hawe, 1984)."""
    squares = sum(u * u for u in utilizations)
    if not squares:
        return 1.0
    return round(sum(utilizations) ** 2 / (len(utilizations) * squares), 4)
