"""Random states of an organization, and the plain rules by which a person would say why a coach is not free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from service.domain.calendar import Calendar, Coach, Roster

ZONES = (
    "America/New_York",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Chatham",
)
COACHES = 6
STEP = timedelta(minutes=5)
Windows = list[tuple[int, int]]


@dataclass(frozen=True)
class Taken:
    """Time that is taken from a coach, and with its buffers; `day` is the date it counts on."""

    start: datetime
    end: datetime
    occupied_start: datetime
    occupied_end: datetime
    day: date


@dataclass
class State:
    """What a person would know of each coach: by column."""

    weekly: dict[tuple[int, int], Windows]
    overrides: dict[tuple[int, date], Windows]
    time_off: list[tuple[int, datetime, datetime]]
    busy: list[tuple[int, datetime, datetime]]
    appointments: Mapping[int, list[Taken]]
    claims: Mapping[int, list[Taken]]

    def reason(self, calendar: Calendar, coach: Coach, start: datetime, now: datetime) -> str:
        """The first reason, word for word as the service should tell it."""
        wall = start.astimezone(ZoneInfo(coach.timezone))
        end = start + timedelta(minutes=calendar.slot_duration)
        if start < now + timedelta(minutes=calendar.min_notice_minutes):
            return "notice"
        if start > now + timedelta(days=calendar.max_days_ahead):
            return "horizon"
        if (wall.hour * 60 + wall.minute) % calendar.slot_interval:
            return "grid"
        column = coach.column
        if not self._works(coach, start, end, overrides=True):
            return "override" if self._works(coach, start, end, overrides=False) else "outside_hours"
        for word, periods in (("time_off", self.time_off), ("external_busy", self.busy)):
            if any(who == column and a < end and b > start for who, a, b in periods):
                return word
        return self._taken(calendar, coach, start, end, wall.date())

    def _taken(self, calendar: Calendar, coach: Coach, start: datetime, end: datetime, day: date) -> str:
        before = start - timedelta(minutes=calendar.buffer_before)
        after = end + timedelta(minutes=calendar.buffer_after)
        booked, claims = self.appointments.get(coach.column, []), self.claims.get(coach.column, [])
        counted = [sum(one.day == day for one in some) for some in (booked, claims)]
        if counted[0] >= coach.max_daily_appointments:
            return "daily_limit"
        near = [one for one in booked if one.occupied_start < after and one.occupied_end > before]
        if near:
            return "appointment" if any(one.start < end and one.end > start for one in near) else "buffer"
        if sum(counted) >= coach.max_daily_appointments:
            return "claim"
        if any(one.occupied_start < after and one.occupied_end > before for one in claims):
            return "claim"
        return "free"

    def _works(self, coach: Coach, start: datetime, end: datetime, *, overrides: bool) -> bool:
        while start < end:
            wall = start.astimezone(ZoneInfo(coach.timezone))
            windows = self.weekly.get((coach.column, wall.weekday()), [])
            if overrides:
                windows = self.overrides.get((coach.column, wall.date()), windows)
            minute = wall.hour * 60 + wall.minute
            if wall.fold or not any(a <= minute < b for a, b in windows):
                return False
            start += STEP
        return True


def windows(chance: Random) -> Windows:
    """None to two windows of a day."""
    edges = sorted(chance.sample(range(0, 1441, 15), 4))
    return chance.choice(
        [[], [(0, 1440)], [(edges[0], edges[3])], [(edges[0], edges[1]), (edges[2], edges[3])], [(540, 1020)]]
    )


async def drawn(sql: Any, org: int, chance: Random, around: datetime) -> State:
    """Everybody's zones, hours, limits and absences, and the calendars' rules, anew and at random."""
    for table in ("weekly_windows", "schedule_overrides", "time_off", "external_busy"):
        await sql.execute(f"DELETE FROM {table}")  # noqa: S608 - the words above
    state = State({}, {}, [], [], {}, {})
    for column in range(COACHES):
        await sql.execute(
            "UPDATE coaches SET timezone = $1, max_daily_appointments = $2 WHERE coach_no = $3",
            chance.choice(ZONES),
            chance.choice([0, 1, 2, 3, *[10] * 8]),
            column,
        )
        await redrawn_hours(sql, org, chance, state, column)
        for _ in range(chance.randrange(3)):
            day = (around + timedelta(days=chance.randint(-2, 2))).date()
            state.overrides[column, day] = windows(chance)
        for name, periods in (("time_off", state.time_off), ("external_busy", state.busy)):
            if chance.random() < 0.8:
                start = around + timedelta(minutes=chance.randint(-1500, 1500))
                end = start + timedelta(minutes=chance.choice([1, 7, 45, 200, 900]))
                periods.append((column, start, end))
                more = ("", "") if name == "external_busy" else (", time_off_id", ", gen_random_uuid()")
                text = f"INSERT INTO {name} (org_id, coach_no, starts_at, ends_at{more[0]})"
                await sql.execute(f"{text} VALUES ($1, $2, $3, $4{more[1]})", org, column, start, end)
    for (column, day), hours in state.overrides.items():
        minutes = [minute for window in hours for minute in window]
        await sql.execute("INSERT INTO schedule_overrides VALUES ($1, $2, $3, $4)", org, column, day, minutes)
    for number in (1, 2, 3):
        await sql.execute(
            "UPDATE calendars SET slot_interval = $1, buffer_before = $2, buffer_after = $3, min_notice_minutes = $4,"
            " max_days_ahead = $5 WHERE calendar_no = $6",
            chance.choice([15, 15, 20, 25, 60]),
            chance.choice([0, 0, 5, 30]),
            chance.choice([0, 0, 10, 45]),
            chance.choice([0, 120, 2000]),
            chance.choice([3, *[30] * 4]),
            number,
        )
    return state


async def redrawn_hours(sql: Any, org: int, chance: Random, state: State, column: int) -> None:
    """Other weekly hours for a coach."""
    await sql.execute("DELETE FROM weekly_windows WHERE coach_no = $1", column)
    for weekday in range(7):
        state.weekly[column, weekday] = windows(chance)
        for start, end in state.weekly[column, weekday]:
            await sql.execute(
                "INSERT INTO weekly_windows VALUES ($1, $2, $3, $4, $5)", org, column, weekday, start, end
            )


async def booked(sql: Any, state: State, claims: Mapping[UUID, tuple[int, Taken]]) -> None:
    """Read into the state what is booked; of the claims those that Postgres has not got."""
    appointments: dict[int, list[Taken]] = {}
    rows = await sql.fetch(
        "SELECT coach_no, starts_at, ends_at, lower(occupied) AS low, upper(occupied) AS high, local_day"
        " FROM appointments WHERE status IN ('scheduled', 'completed', 'no_show')"
    )
    for row in rows:
        taken = Taken(row["starts_at"], row["ends_at"], row["low"], row["high"], row["local_day"])
        appointments.setdefault(row["coach_no"], []).append(taken)
    state.appointments = appointments
    under_way: dict[int, list[Taken]] = {}
    for column, taken in claims.values():
        under_way.setdefault(column, []).append(taken)
    state.claims = under_way


def team(roster: Roster, calendar: Calendar) -> list[Coach]:
    """The coaches of a calendar."""
    return [roster.coach_by_column[column] for column in calendar.team]


def on_cells(instant: datetime) -> datetime:
    """The five minutes an instant lies in."""
    return datetime.fromtimestamp(int(instant.timestamp()) // 300 * 300, UTC)
