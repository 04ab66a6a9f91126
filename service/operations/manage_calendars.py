"""Creating and changing calendars: what can be booked, with whom and when.

A change counts for what is booked from now on. Appointments keep their length, and the buffers they were booked
with stay around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.db.idempotency import Complete
from service.db.people import CalendarRecord, PeopleStore
from service.errors import InvalidRequest
from service.operations.change_roster import ChangeRoster
from service.operations.tracking import TrackedTasks


class ManageCalendars:
    """Reads and writes the calendars of an organization. Writes go on when the caller is cancelled."""

    def __init__(self, people: PeopleStore, change: ChangeRoster, tasks: TrackedTasks) -> None:
        self._people = people
        self._change = change
        self._tasks = tasks

    async def get(self, org: int, calendar_id: str) -> CalendarRecord:
        """One calendar. Raises NotFound."""
        return await self._people.calendar(org, calendar_id)

    async def page(self, org: int, after: int, most: int) -> list[CalendarRecord]:
        """At most `most` calendars in the order they were created, those after number `after`."""
        return await self._people.calendars(org, after, most)

    async def create(
        self, org: int, calendar: CalendarRecord, *, complete: Complete[CalendarRecord] | None = None
    ) -> CalendarRecord:
        """A calendar of the coaches `calendar.coach_ids`.

        Raises AlreadyExists, InvalidRequest for an unknown coach or a `max_duration` below the slot's, Unavailable or
        OutcomeUnknown.
        """
        _check_durations(calendar)
        return await self._tasks.run(self._create(org, calendar, complete))

    async def _create(
        self, org: int, calendar: CalendarRecord, complete: Complete[CalendarRecord] | None
    ) -> CalendarRecord:
        async with self._change(org) as change:
            number = await change.add_calendar(calendar)
            await change.assign_coaches(number, calendar.coach_ids)
            return await change.answered(complete, await change.calendar(calendar.calendar_id))

    async def change(
        self,
        org: int,
        calendar_id: str,
        fields: Mapping[str, Any],
        *,
        coach_ids: Sequence[str] | None = None,
        complete: Complete[CalendarRecord] | None = None,
    ) -> CalendarRecord:
        """Change fields of a calendar by their names in `CalendarRecord`; `coach_ids` becomes its whole team.

        Raises NotFound, and like `create`.
        """
        if not fields and coach_ids is None:
            return await self.get(org, calendar_id)
        return await self._tasks.run(self._save(org, calendar_id, fields, coach_ids, complete))

    async def _save(
        self,
        org: int,
        calendar_id: str,
        fields: Mapping[str, Any],
        coach_ids: Sequence[str] | None,
        complete: Complete[CalendarRecord] | None,
    ) -> CalendarRecord:
        async with self._change(org) as change:
            before = await change.calendar(calendar_id)
            after = msgspec.structs.replace(before, **fields)
            _check_durations(after, "max_duration" if "max_duration" in fields else "slot_duration")
            await change.save_calendar(after)
            if coach_ids is not None:
                await change.assign_coaches(before.number, coach_ids)
            return await change.answered(complete, await change.calendar(calendar_id))


def _check_durations(calendar: CalendarRecord, blamed: str = "max_duration") -> None:
    usual, most = calendar.slot_duration, calendar.max_duration
    if most is not None and most < usual:
        raise InvalidRequest([(blamed, f"slots of {usual} minutes do not fit into a max_duration of {most}")])
