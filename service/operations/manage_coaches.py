"""Creating, changing and deactivating coaches, and their hours.

A change is visible in the next answer about availability and touches no appointment. An appointment outside hours
that were shortened stays; its time is offered to nobody, also not after it is cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import msgspec

from service.db.idempotency import Complete
from service.db.people import CoachRecord, PeopleStore
from service.domain.schedule import DayWindows, Week, WeeklySchedule, Window
from service.operations.change_roster import ChangeRoster
from service.operations.tracking import TrackedTasks

WORKDAYS = range(5)
# What the grid is derived from; a change of the rest needs the new roster only.
_OF_THE_GRID = ("timezone", "max_daily_appointments", "active")


class ManageCoaches:
    """Reads and writes the coaches of an organization. Writes go on when the caller is cancelled."""

    def __init__(self, people: PeopleStore, change: ChangeRoster, tasks: TrackedTasks) -> None:
        self._people = people
        self._change = change
        self._tasks = tasks

    async def get(self, org: int, coach_id: str) -> CoachRecord:
        """One coach, active or not. Raises NotFound."""
        return await self._people.coach(org, coach_id)

    async def page(self, org: int, after: int, most: int, *, active: bool | None) -> list[CoachRecord]:
        """At most `most` coaches in the order they were created, those after column `after`."""
        return await self._people.coaches(org, after, most, active=active)

    async def create(
        self, org: int, coach: CoachRecord, hours: Window, *, complete: Complete[CoachRecord] | None = None
    ) -> CoachRecord:
        """A coach who works `hours` from Monday to Friday and belongs to `coach.calendar_ids`.

        Raises AlreadyExists, InvalidRequest for an unknown calendar, Unavailable or OutcomeUnknown.
        """
        return await self._tasks.run(self._create(org, coach, hours, complete))

    async def _create(
        self, org: int, coach: CoachRecord, hours: Window, complete: Complete[CoachRecord] | None
    ) -> CoachRecord:
        async with self._change(org) as change:
            column = await change.add_coach(coach)
            await change.set_hours(column, dict.fromkeys(WORKDAYS, (hours,)))
            await change.assign_calendars(column, coach.calendar_ids)
            return await change.answered(complete, await change.coach(coach.coach_id))

    async def change(
        self,
        org: int,
        coach_id: str,
        fields: Mapping[str, Any],
        *,
        hours: Window | None = None,
        calendar_ids: Sequence[str] | None = None,
        complete: Complete[CoachRecord] | None = None,
    ) -> CoachRecord:
        """Change fields of a coach by their names in `CoachRecord`; `hours` replace those of Monday to Friday.

        With another `timezone` the coach works the same hours by other clocks; appointments made before keep the local
        date they count on. With `active` false the coach leaves every team and keeps its appointments.
        Raises NotFound, AlreadyExists, InvalidRequest for an unknown calendar, Unavailable or OutcomeUnknown.
        """
        if not fields and hours is None and calendar_ids is None:
            return await self.get(org, coach_id)
        return await self._tasks.run(self._save(org, coach_id, fields, hours, calendar_ids, complete))

    async def _save(
        self,
        org: int,
        coach_id: str,
        fields: Mapping[str, Any],
        hours: Window | None,
        calendar_ids: Sequence[str] | None,
        complete: Complete[CoachRecord] | None,
    ) -> CoachRecord:
        async with self._change(org) as change:
            before = await change.coach(coach_id)
            after = msgspec.structs.replace(before, **fields)
            await change.save_coach(after)
            if any(getattr(before, name) != getattr(after, name) for name in _OF_THE_GRID):
                change.columns.add(before.column)
            if hours is not None:
                await change.set_hours(before.column, dict.fromkeys(WORKDAYS, (hours,)))
            if calendar_ids is not None:
                await change.assign_calendars(before.column, calendar_ids)
            return await change.answered(complete, await change.coach(coach_id))

    async def schedule(self, org: int, coach_id: str) -> WeeklySchedule:
        """A coach's schedule, past overrides too. Raises NotFound."""
        return await self._people.schedule(org, await self._people.coach(org, coach_id))

    async def replace_schedule(
        self,
        org: int,
        coach_id: str,
        weekly: Week,
        overrides: Mapping[date, DayWindows],
        timezone: str | None,
        *,
        complete: Complete[WeeklySchedule] | None = None,
    ) -> WeeklySchedule:
        """Replace a coach's whole schedule; a `timezone` becomes the coach's.

        Appointments made before keep the local date they count on, also when the zone changes. ValueError when windows
        of one day overlap. Raises NotFound, Unavailable or OutcomeUnknown.
        """
        return await self._tasks.run(self._replace_schedule(org, coach_id, weekly, overrides, timezone, complete))

    async def _replace_schedule(
        self,
        org: int,
        coach_id: str,
        weekly: Week,
        overrides: Mapping[date, DayWindows],
        timezone: str | None,
        complete: Complete[WeeklySchedule] | None,
    ) -> WeeklySchedule:
        async with self._change(org) as change:
            coach = await change.coach(coach_id)
            schedule = WeeklySchedule(timezone or coach.timezone, weekly, overrides)
            await change.save_coach(msgspec.structs.replace(coach, timezone=schedule.timezone))
            await change.replace_schedule(coach.column, schedule)
            return await change.answered(complete, schedule)
