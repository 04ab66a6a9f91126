"""The service as two processes have it, for an organization that begins as a model says, by a clock that is moved."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from service.app import Services, build_time_off, open_services
from service.config import Settings
from service.db.people import CalendarRecord, CoachRecord, PeopleStore
from service.domain.calendar import Roster
from service.domain.schedule import DayWindows, Week, Window
from service.operations.change_roster import ChangeRoster
from service.operations.manage_calendars import ManageCalendars
from service.operations.manage_coaches import ManageCoaches
from service.operations.time_off import TimeOff
from tests.model.model import Model
from tests.model.values import Calendar, Coach, Hours, Windows


@dataclass
class MovedClock:
    """Shows what it is set to."""

    time: datetime

    def now(self) -> datetime:
        """That instant."""
        return self.time


class Process:
    """The operations of one process."""

    def __init__(self, services: Services) -> None:
        people = PeopleStore(services.database)
        change = ChangeRoster(
            people,
            rosters=services.rosters,
            keeper=services.keeper,
            heal=services.heal,
            grid=services.grid,
            clock=services.clock,
        )
        self.services = services
        self.coaches = ManageCoaches(people, change, services.tasks)
        self.calendars = ManageCalendars(people, change, services.tasks)
        self.time_off: TimeOff = build_time_off(services)

    async def roster(self, org: int) -> Roster:
        """The roster, as up to date as the edge has it when it lists free time."""
        services = self.services
        roster = await services.rosters.get(org)
        if await services.grid.has_roster(org) != roster.version:
            roster = await services.rosters.refresh(org, roster)
        return roster


@dataclass
class World:
    """An organization in the real service; `ids` and `periods` name what the model knows by numbers."""

    org: int
    clock: MovedClock
    processes: tuple[Process, Process]
    sql: Any
    ids: dict[int, UUID] = field(default_factory=dict)
    periods: dict[int, UUID] = field(default_factory=dict)


Beginning: TypeAlias = Callable[[Model], Awaitable[World]]


@pytest.fixture
async def begin(settings: Settings, database_url: str) -> AsyncIterator[Beginning]:
    """Makes the world a model describes."""
    async with AsyncExitStack() as stack:

        async def make(model: Model) -> World:
            clock = MovedClock(model.now)
            few_days = replace(settings, max_booking_days_ahead=model.calendars[""].horizon)
            opened = [await stack.enter_async_context(open_services(few_days, clock=clock)) for _ in range(2)]
            sql: Any = await asyncpg.connect(database_url)
            stack.push_async_callback(sql.close)
            org = await sql.fetchval("INSERT INTO organizations (name) VALUES ('model') RETURNING org_id")
            world = World(org, clock, (Process(opened[0]), Process(opened[1])), sql)
            for coach in model.coaches.values():
                await _hire(world, coach)
            for calendar in model.calendars.values():
                if calendar.calendar_id:
                    await world.processes[0].calendars.create(org, _record(calendar))
            return world

        yield make


async def _hire(world: World, coach: Coach) -> None:
    record = CoachRecord(
        coach_id=coach.coach_id,
        name=coach.coach_id,
        email=f"{coach.coach_id}@example.com",
        specialty=None,
        timezone=coach.hours.zone,
        score=coach.score,
        max_daily_appointments=coach.daily_limit,
    )
    made = await world.processes[0].coaches.create(world.org, record, Window(0, 5))
    assert made.column == coach.column
    await set_hours(world, world.processes[0], coach.coach_id, coach.hours)


def _record(calendar: Calendar) -> CalendarRecord:
    return CalendarRecord(
        calendar_id=calendar.calendar_id,
        name=calendar.calendar_id,
        slot_duration=calendar.duration,
        slot_interval=calendar.interval,
        max_duration=calendar.longest,
        buffer_before=calendar.before,
        buffer_after=calendar.after,
        min_notice_minutes=calendar.notice,
        max_days_ahead=calendar.horizon,
        assignment=calendar.strategy,
        coach_ids=tuple(calendar.team),
    )


async def set_hours(world: World, process: Process, coach_id: str, hours: Hours) -> None:
    """Replace a coach's schedule, zone included."""
    monday, tuesday, wednesday, thursday, friday, saturday, sunday = map(_windows, hours.weekly)
    week: Week = (monday, tuesday, wednesday, thursday, friday, saturday, sunday)
    overrides = {day: _windows(windows) for day, windows in hours.overrides}
    await process.coaches.replace_schedule(world.org, coach_id, week, overrides, hours.zone)


def _windows(windows: Windows) -> DayWindows:
    return tuple(Window(first, last) for first, last in windows)
