"""Coaches, calendars and contacts in Postgres: reading them, and changing what a roster is made of.

A change happens inside `PeopleStore.change`: it counts the roster's version up first and so holds the
organization's row until its commit. Two changes of one organization wait for each other, what one reads the
other cannot overwrite, and versions are committed in their order. Bookings do not wait: a foreign key's lock goes
with the one this takes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from service.db.connection import Database
from service.db.idempotency import Complete, Result, complete_within
from service.db.statements import statement
from service.domain.assignment import Strategy
from service.domain.schedule import DayWindows, Week, WeeklySchedule, Window
from service.errors import AlreadyExists, InvalidRequest, NotFound

# Constraint -> (field, what is told of it).
_TAKEN = {
    "coaches_one_per_id": ("coach_id", "this coach_id is taken"),
    "coaches_one_per_email": ("email", "another coach has this e-mail address"),
    "calendars_one_per_id": ("calendar_id", "this calendar_id is taken"),
}
_FULL = "coaches_column_fits"


class CoachRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A coach as stored; `column` is -1 before it has one, `score` in millionths, calendars by their outside ids."""

    column: int = -1
    coach_id: str
    name: str
    email: str
    specialty: str | None
    timezone: str
    score: int
    max_daily_appointments: int
    active: bool = True
    calendar_ids: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None


class CalendarRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A calendar as stored; minutes and days; `coach_ids` are its active coaches, by their outside ids."""

    number: int = 0
    calendar_id: str
    name: str
    slot_duration: int
    slot_interval: int
    max_duration: int | None
    buffer_before: int
    buffer_after: int
    min_notice_minutes: int
    max_days_ahead: int
    assignment: Strategy
    coach_ids: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None


class ContactRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A contact."""

    contact_id: UUID
    email: str
    name: str | None
    phone: str | None
    created_at: datetime


class RosterChange:
    """One transaction that changes an organization's roster, which has `version` once it is committed.

    `columns` gathers the coaches whose open hours or daily limit the grid has to be told of.
    """

    def __init__(self, connection: Any, org: int, version: int) -> None:
        self._connection = connection
        self._org = org
        self.version = version
        self.columns: set[int] = set()

    async def answered(self, complete: Complete[Result] | None, result: Result) -> Result:
        """`result`, whose answer is committed with the change or not at all. Raises IdempotencyInProgress."""
        return await complete_within(self._connection, complete, result)

    async def coach(self, coach_id: str) -> CoachRecord:
        """A coach as it is now. Raises NotFound."""
        return _found_coach(await self._row("get_coach", coach_id), coach_id)

    async def calendar(self, calendar_id: str) -> CalendarRecord:
        """A calendar as it is now. Raises NotFound."""
        return _found_calendar(await self._row("get_calendar", calendar_id), calendar_id)

    async def add_coach(self, coach: CoachRecord) -> int:
        """A new coach in a column of its own, which is returned; it has no hours and belongs to no calendar yet."""
        row = await self._row("add_coach", coach.coach_id, *_coach_values(coach))
        column: int = row["coach_no"]
        self.columns.add(column)
        return column

    async def save_coach(self, coach: CoachRecord) -> None:
        """Everything of a coach but its id, its hours and its calendars."""
        await self._row("save_coach", coach.column, *_coach_values(coach))

    async def assign_calendars(self, column: int, calendar_ids: Sequence[str]) -> None:
        """Make a coach belong to exactly these calendars. Raises InvalidRequest for one that is unknown."""
        numbers = await self._numbers("calendar_numbers", calendar_ids, "calendar_ids", "calendar")
        await self._row("leave_calendars", column)
        await self._row("join_calendars", column, numbers)

    async def set_hours(self, column: int, days: Mapping[int, DayWindows]) -> None:
        """Replace the windows of some weekdays (Monday 0)."""
        self.columns.add(column)
        await self._row("clear_weekdays", column, list(days))
        windows = [(day, w.start_minute, w.end_minute) for day, day_windows in days.items() for w in day_windows]
        await self._row("add_windows", column, *([list(part) for part in zip(*windows, strict=True)] or [[], [], []]))

    async def replace_schedule(self, column: int, schedule: WeeklySchedule) -> None:
        """Replace a coach's windows and overrides."""
        await self.set_hours(column, dict(enumerate(schedule.weekly)))
        await self._row("clear_overrides", column)
        await self._connection.executemany(
            statement("add_override"),
            [
                (self._org, column, day, [minute for w in windows for minute in (w.start_minute, w.end_minute)])
                for day, windows in schedule.overrides.items()
            ],
        )
        await self._row("touch_coach", column)

    async def add_calendar(self, calendar: CalendarRecord) -> int:
        """A new calendar without coaches; its number."""
        row = await self._row("add_calendar", calendar.calendar_id, *_calendar_values(calendar))
        number: int = row["calendar_no"]
        return number

    async def save_calendar(self, calendar: CalendarRecord) -> None:
        """Everything of a calendar but its id and its team."""
        await self._row("save_calendar", calendar.number, *_calendar_values(calendar))

    async def assign_coaches(self, number: int, coach_ids: Sequence[str]) -> None:
        """Make these coaches the team of a calendar. Raises InvalidRequest for one that is unknown."""
        columns = await self._numbers("coach_numbers", coach_ids, "coach_ids", "coach")
        await self._row("empty_team", number)
        await self._row("fill_team", number, columns)

    async def _numbers(self, name: str, ids: Sequence[str], field: str, what: str) -> list[int]:
        rows = await self._connection.fetch(statement(name), self._org, list(ids))
        known: dict[str, int] = {row["id"]: row["number"] for row in rows}
        unknown = [one for one in ids if one not in known]
        if unknown:
            raise InvalidRequest([(field, f"there is no {what} {one!r}") for one in unknown])
        return sorted(known.values())

    async def run(self, name: str, *arguments: Any) -> Any:
        """The first row of a named statement about the organization, inside the transaction."""
        return await self._row(name, *arguments)

    async def _row(self, name: str, *arguments: Any) -> Any:
        return await self._connection.fetchrow(statement(name), self._org, *arguments)


class PeopleStore:
    """Reads and changes coaches, calendars and contacts. Raises Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def change(self, org: int) -> AsyncGenerator[RosterChange]:
        """A transaction in which the organization's roster is changed; committed when the block ends.

        Raises AlreadyExists for an id or address that is taken, Unavailable (nothing is written) or OutcomeUnknown.
        """
        try:
            async with self._database.transaction() as connection:
                version: int = await connection.fetchval(statement("bump_roster_version"), org)
                yield RosterChange(connection, org, version)
        except asyncpg.UniqueViolationError as problem:
            taken = _TAKEN.get(problem.constraint_name or "")
            if taken is None:
                raise
            raise AlreadyExists(taken[1], details={"field": taken[0]}) from problem
        except asyncpg.CheckViolationError as problem:
            if problem.constraint_name != _FULL:
                raise
            raise InvalidRequest([("coach_id", "the organization cannot have more coaches")]) from problem

    async def coach(self, org: int, coach_id: str) -> CoachRecord:
        """One coach, active or not. Raises NotFound."""
        return _found_coach(await self._database.first("get_coach", org, coach_id), coach_id)

    async def coaches(self, org: int, after: int, most: int, *, active: bool | None) -> list[CoachRecord]:
        """At most `most` coaches in order of column, those after column `after`."""
        return [_coach(row) for row in await self._database.fetch("list_coaches", org, after, most, active)]

    async def schedule(self, org: int, coach: CoachRecord) -> WeeklySchedule:
        """A coach's whole schedule, past overrides too."""
        days: list[list[Window]] = [[] for _ in range(7)]
        for row in await self._database.fetch("weekly_windows", org, [coach.column]):
            weekday: int = row["weekday"]
            days[weekday].append(Window(row["start_minute"], row["end_minute"]))
        overrides: dict[date, DayWindows] = {}
        for row in await self._database.fetch("schedule_overrides", org, [coach.column], date.min, date.max):
            pairs = row["windows"]
            windows = tuple(Window(start, end) for start, end in zip(pairs[::2], pairs[1::2], strict=True))
            overrides[row["local_date"]] = windows
        week: Week = tuple(tuple(day) for day in days)  # pyright: ignore[reportAssignmentType]  seven of them
        return WeeklySchedule(coach.timezone, week, overrides)

    async def calendar(self, org: int, calendar_id: str) -> CalendarRecord:
        """One calendar. Raises NotFound."""
        return _found_calendar(await self._database.first("get_calendar", org, calendar_id), calendar_id)

    async def calendars(self, org: int, after: int, most: int) -> list[CalendarRecord]:
        """At most `most` calendars in order of number, those after number `after`."""
        return [_calendar(row) for row in await self._database.fetch("list_calendars", org, after, most)]

    async def contact(self, org: int, contact_id: UUID) -> ContactRecord:
        """One contact. Raises NotFound."""
        row = await self._database.first("get_contact", org, contact_id)
        if row is None:
            raise NotFound(f"no contact {str(contact_id)!r}")
        return _contact(row)

    async def contacts(self, org: int, after: UUID | None, most: int) -> list[ContactRecord]:
        """At most `most` contacts in order of id, those after `after`."""
        return [_contact(row) for row in await self._database.fetch("list_contacts", org, after, most)]

    async def add_contact(
        self,
        org: int,
        contact_id: UUID,
        email: str,
        name: str | None,
        phone: str | None,
        complete: Complete[ContactRecord] | None = None,
    ) -> ContactRecord | None:
        """A new contact; None when there is one under that id. Raises OutcomeUnknown and IdempotencyInProgress too."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(statement("add_contact"), org, contact_id, email, name, phone)
            return None if row is None else await complete_within(connection, complete, _contact(row))


def _coach_values(coach: CoachRecord) -> tuple[Any, ...]:
    plain = (coach.name, coach.email, coach.specialty, coach.timezone)
    return (*plain, coach.score, coach.max_daily_appointments, coach.active)


def _calendar_values(calendar: CalendarRecord) -> tuple[Any, ...]:
    times = (calendar.slot_duration, calendar.slot_interval, calendar.max_duration)
    around = (calendar.buffer_before, calendar.buffer_after, calendar.min_notice_minutes, calendar.max_days_ahead)
    return (calendar.name, *times, *around, calendar.assignment.value)


def _found_coach(row: Any | None, coach_id: str) -> CoachRecord:
    if row is None:
        raise NotFound(f"no coach {coach_id!r}")
    return _coach(row)


def _found_calendar(row: Any | None, calendar_id: str) -> CalendarRecord:
    if row is None:
        raise NotFound(f"no calendar {calendar_id!r}")
    return _calendar(row)


def _coach(row: Any) -> CoachRecord:
    fields: dict[str, Any] = dict(row)
    fields["column"] = fields.pop("coach_no")
    fields["calendar_ids"] = tuple(fields["calendar_ids"])
    return CoachRecord(**fields)


def _calendar(row: Any) -> CalendarRecord:
    fields: dict[str, Any] = dict(row)
    fields["number"] = fields.pop("calendar_no")
    fields["assignment"] = Strategy(fields["assignment"])
    fields["coach_ids"] = tuple(fields["coach_ids"])
    return CalendarRecord(**fields)


def _contact(row: Any) -> ContactRecord:
    return ContactRecord(
        contact_id=UUID(int=row["contact_id"].int),
        email=row["email"],
        name=row["name"],
        phone=row["phone"],
        created_at=row["created_at"],
    )
