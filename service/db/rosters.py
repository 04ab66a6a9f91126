"""Rosters and schedules: the organization's coaches, calendars and hours as domain values."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from service.db.connection import Database
from service.db.statements import statement
from service.domain.assignment import APPOINTMENT_UNITS, Strategy, deficit_deltas, unpack_considered
from service.domain.calendar import Calendar, Coach, Roster
from service.domain.grid import cell_of, day_start, row_bytes
from service.domain.schedule import Week, WeeklySchedule, Window

# Beyond that, adding up what each did to the deficits is no work to be done in passing.
MANY_LIVE = 100_000
# So many are added up at a time: a few milliseconds in which nobody else is served.
AT_A_TIME = 200


@dataclass(frozen=True, slots=True)
class DefaultSlot:
    """The slot offered where no calendar says otherwise: minutes, days."""

    duration: int
    interval: int
    buffer_after: int
    min_notice_minutes: int
    max_days_ahead: int


@dataclass(frozen=True, slots=True)
class CoachDay:
    """A live appointment of a coach: its id in hex, its occupied cells `[first_cell, last_cell)`, absolute."""

    column: int
    appointment: str
    first_cell: int
    last_cell: int


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """Whether a change is committed, and where its appointment is live: (column, first cell, end cell) or None."""

    committed: bool
    live: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class DaySource:
    """Everything one day of the grid is derived from.

    `schedules` by column; `closed` the times a coach is away although it works; `placements` what touches the UTC
    day; `counted` what counts on the local date with the same number; `changes` what the record says of changes that
    are pending in Redis, by token.
    """

    schedules: dict[int, WeeklySchedule]
    closed: dict[int, list[tuple[datetime, datetime]]]
    placements: list[CoachDay]
    counted: list[CoachDay]
    changes: dict[str, RecordedChange]


class RosterStore:
    """Reads rosters, and what days of the grid are derived from."""

    def __init__(self, database: Database, default_slot: DefaultSlot, *, calendar_organization: str) -> None:
        """`calendar_organization` names that of the coaches the external calendar knows."""
        self._database = database
        self._default = default_slot
        self._calendar_organization = calendar_organization
        self._in_calendar: int | None = None

    async def organizations(self) -> list[tuple[int, str]]:
        """(integer key, name) of every organization."""
        return [(row["org_id"], row["name"]) for row in await self._database.fetch("all_organizations")]

    async def organization(self, name: str) -> int | None:
        """The integer key of an organization by its name."""
        row = await self._database.first("organization_by_name", name)
        return None if row is None else row["org_id"]

    async def in_calendar(self, org: int) -> bool:
        """Whether the external calendar knows its coaches: in another organization an id may be somebody else's."""
        if self._in_calendar is None:
            self._in_calendar = await self.organization(self._calendar_organization)
        return org == self._in_calendar

    async def load(self, org: int) -> Roster:
        """The roster as it is now, as a whole: where a change was committed between the reads, they are made again."""
        head = await self._head(org)
        while True:
            coaches = tuple(_coach(row) for row in await self._database.fetch("roster_coaches", org))
            calendars = tuple(_calendar(row) for row in await self._database.fetch("roster_calendars", org))
            after = await self._head(org)
            if after["roster_version"] == head["roster_version"]:
                break
            head = after
        default = self._default
        everyone = Calendar(
            number=None,
            calendar_id="",
            name="All coaches",
            slot_duration=default.duration,
            slot_interval=default.interval,
            max_duration=None,
            buffer_before=0,
            buffer_after=0,
            min_notice_minutes=default.min_notice_minutes,
            max_days_ahead=default.max_days_ahead,
            assignment=Strategy.BALANCED,
            team=tuple(coach.column for coach in coaches if coach.active),
        )
        return Roster(
            org=org,
            name=head["name"],
            version=head["roster_version"],
            width=row_bytes(head["columns"]),
            coaches=coaches,
            calendars=calendars,
            everyone=everyone,
            zones=tuple(sorted({coach.timezone for coach in coaches})),
            in_calendar=head["name"] == self._calendar_organization,
            has_endpoints=head["has_endpoints"],
        )

    async def version_within(self, connection: Any, org: int) -> int:
        """The version of an organization's roster as a transaction sees it."""
        return await connection.fetchval(statement("roster_version"), org)

    async def version(self, org: int) -> int:
        """The version of an organization's roster."""
        head = await self._head(org)
        return head["roster_version"]

    async def _head(self, org: int) -> Any:
        head = await self._database.first("roster_head", org)
        if head is None:
            raise LookupError(f"no organization {org}")
        return head

    async def schedules(
        self, roster: Roster, columns: Sequence[int] | None, first_day: int, last_day: int
    ) -> dict[int, WeeklySchedule]:
        """Weekly schedules by column, with the overrides of the local dates around those UTC days."""
        async with self._database.snapshot() as connection:
            return await self._schedules(connection, roster, columns, first_day, last_day)

    async def _schedules(
        self, connection: Any, roster: Roster, columns: Sequence[int] | None, first_day: int, last_day: int
    ) -> dict[int, WeeklySchedule]:
        wanted = None if columns is None else list(columns)
        chosen = None if columns is None else frozenset(columns)
        windows: dict[int, list[list[Window]]] = {}
        for row in await connection.fetch(statement("weekly_windows"), roster.org, wanted):
            column: int = row["coach_no"]
            weekday: int = row["weekday"]
            if column not in windows:
                windows[column] = _empty_week()
            windows[column][weekday].append(Window(row["start_minute"], row["end_minute"]))
        overrides: dict[int, dict[date, tuple[Window, ...]]] = {}
        first, last = day_start(first_day - 2).date(), day_start(last_day + 2).date()
        for row in await connection.fetch(statement("schedule_overrides"), roster.org, wanted, first, last):
            pairs = row["windows"]
            overrides.setdefault(row["coach_no"], {})[row["local_date"]] = tuple(
                Window(a, b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)
            )
        return {
            coach.column: WeeklySchedule(
                timezone=coach.timezone,
                weekly=_week(windows.get(coach.column, _empty_week())),
                overrides=overrides.get(coach.column, {}),
            )
            for coach in roster.coaches
            if coach.active and (chosen is None or coach.column in chosen)
        }

    async def columns_to_repair(self, org: int) -> set[int]:
        """The columns with days that were changed without the grid and are not put right there yet."""
        return {row["coach_no"] for row in await self._database.fetch("columns_to_repair", org)}

    async def day_source(
        self, roster: Roster, day: int, columns: Sequence[int] | None = None, changes: Sequence[tuple[str, str]] = ()
    ) -> DaySource:
        """What the columns (all when None) of one day are derived from, as of one moment.

        Of two moments an appointment committed in between would be known by its count and missing from the cells.
        Appointments of coaches who came after the roster are left out: its rows may have no column for them.
        `changes` are (token, appointment) of changes that are pending in Redis, 32 hex digits each.
        """
        async with self._database.snapshot() as connection:
            return await self.day_source_within(connection, roster, day, columns, changes)

    async def day_source_within(
        self,
        connection: Any,
        roster: Roster,
        day: int,
        columns: Sequence[int] | None = None,
        changes: Sequence[tuple[str, str]] = (),
    ) -> DaySource:
        """`day_source` as a transaction sees it."""
        wanted = None if columns is None else list(columns)
        start, end = day_start(day), day_start(day + 1)
        closed: dict[int, list[tuple[datetime, datetime]]] = {}
        for row in await connection.fetch(statement("closed_periods"), roster.org, wanted, start, end):
            closed.setdefault(row["coach_no"], []).append((row["starts_at"], row["ends_at"]))
        placed = await connection.fetch(statement("live_placements"), roster.org, wanted, start, end)
        counted = await connection.fetch(statement("live_counts"), roster.org, wanted, start.date())
        schedules = await self._schedules(connection, roster, columns, day, day)
        recorded: list[Any] = []
        if changes:
            tokens, appointments = zip(*changes, strict=True)
            recorded = await connection.fetch(
                statement("recorded_changes"), roster.org, [*map(UUID, tokens)], [*map(UUID, appointments)]
            )
        return DaySource(
            schedules,
            closed,
            [_coach_day(row) for row in placed if row["coach_no"] in roster.coach_by_column],
            [_coach_day(row) for row in counted if row["coach_no"] in roster.coach_by_column],
            {row["token"].hex: _recorded(row) for row in recorded},
        )

    async def has_many_live(self, org: int) -> bool:
        """Whether the organization has more live appointments than are added up in passing. Raises Unavailable."""
        row = await self._database.first("has_many_live", org, MANY_LIVE)
        return row is not None and row["many"]

    async def deficits(self, roster: Roster) -> dict[int, int]:
        """What each coach is owed by Postgres' account, in millionths of an appointment; sums to 0.

        Added up when the connection has been given back: Postgres would end a transaction that waits so long.
        """
        owed: dict[int, int] = {}
        for number, row in enumerate(await self._database.fetch("considered_of_live", roster.org), 1):
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
            considered = unpack_considered(row["considered"])
            if sum(c.share for c in considered) != APPOINTMENT_UNITS:
                continue
            for column, delta in deficit_deltas(row["coach_no"], considered).items():
                owed[column] = owed.get(column, 0) + delta
        return owed


def _coach_day(row: Any) -> CoachDay:
    return CoachDay(
        row["coach_no"], row["appointment_id"].hex, cell_of(row["occupied_from"]), cell_of(row["occupied_to"])
    )


def _recorded(row: Any) -> RecordedChange:
    if row["coach_no"] is None:
        return RecordedChange(row["committed"], None)
    live = (row["coach_no"], cell_of(row["occupied_from"]), cell_of(row["occupied_to"]))
    return RecordedChange(row["committed"], live)


def _empty_week() -> list[list[Window]]:
    return [[] for _ in range(7)]


def _week(days: list[list[Window]]) -> Week:
    monday, tuesday, wednesday, thursday, friday, saturday, sunday = (tuple(day) for day in days)
    return monday, tuesday, wednesday, thursday, friday, saturday, sunday


def _coach(row: Any) -> Coach:
    return Coach(
        column=row["coach_no"],
        coach_id=row["coach_id"],
        name=row["name"],
        email=row["email"],
        specialty=row["specialty"],
        timezone=row["timezone"],
        score=row["score"],
        max_daily_appointments=row["max_daily_appointments"],
        active=row["active"],
    )


def _calendar(row: Any) -> Calendar:
    return Calendar(
        number=row["calendar_no"],
        calendar_id=row["calendar_id"],
        name=row["name"],
        slot_duration=row["slot_duration"],
        slot_interval=row["slot_interval"],
        max_duration=row["max_duration"],
        buffer_before=row["buffer_before"],
        buffer_after=row["buffer_after"],
        min_notice_minutes=row["min_notice_minutes"],
        max_days_ahead=row["max_days_ahead"],
        assignment=Strategy(row["assignment"]),
        team=tuple(row["team"]),
    )
