"""Steps that change who works when and what can be booked, and the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from service.errors import InvalidRequest, SlotUnavailable
from service.operations.time_off import Absence
from service.operations.treat_appointments import Existing
from tests.model.conftest import Process, World, set_hours
from tests.model.model import Model
from tests.model.steps import BY, Outcome, interleaved
from tests.model.values import Hours, Period, Wish


@dataclass(frozen=True)
class GoAway:
    """Set time off under a number, and treat the appointments inside."""

    number: int
    coach: str
    period: Period
    existing: Existing

    async def do(self, world: World, process: Process) -> Any:
        wish = Absence(start=self.period[0], end=self.period[1], reason=None, existing=self.existing, source="api")
        away = await process.time_off.close(world.org, self.coach, wish, **BY)
        assert away.finished
        world.periods[self.number] = away.period.time_off_id
        numbers = {appointment_id: number for number, appointment_id in world.ids.items()}
        return {numbers[one.appointment_id]: (one.outcome.value, one.coach_id) for one in away.affected}

    def foresee(self, model: Model) -> list[Outcome]:
        if self.period[1] <= model.now:
            raise InvalidRequest([("end_time", "in the past")])
        coach = model.coaches[self.coach]
        model.coaches[self.coach] = replace(coach, away=(*coach.away, (self.number, self.period)))
        inside = model.inside(self.coach, self.period)
        if self.existing is Existing.REASSIGN:
            wishes = {number: Wish(others_only=True) for number in inside}
            return [(self._given_away(said), after) for said, after in interleaved(model, wishes)]
        for number in inside if self.existing is Existing.CANCEL else ():
            model.end(number, "cancelled")
        outcome = "cancelled" if self.existing is Existing.CANCEL else "kept"
        return [(dict.fromkeys(inside, (outcome, self.coach)), model)]

    def _given_away(self, said: Mapping[int, Any]) -> dict[int, tuple[str, str]]:
        """Those nobody else can take are kept."""
        refused = (SlotUnavailable, InvalidRequest)
        return {
            number: ("kept", self.coach) if answer in refused else ("reassigned", answer[0])
            for number, answer in said.items()
        }


@dataclass(frozen=True)
class ComeBack:
    """End a period of time off."""

    number: int
    coach: str

    async def do(self, world: World, process: Process) -> Any:
        await process.time_off.remove(world.org, self.coach, world.periods[self.number])

    def foresee(self, model: Model) -> list[Outcome]:
        coach = model.coaches[self.coach]
        away = tuple((number, period) for number, period in coach.away if number != self.number)
        model.coaches[self.coach] = replace(coach, away=away)
        return [(None, model)]


@dataclass(frozen=True)
class SetHours:
    """Replace a coach's hours, overrides and zone."""

    coach: str
    hours: Hours

    async def do(self, world: World, process: Process) -> Any:
        await set_hours(world, process, self.coach, self.hours)

    def foresee(self, model: Model) -> list[Outcome]:
        model.coaches[self.coach] = replace(model.coaches[self.coach], hours=self.hours)
        return [(None, model)]


# What the model calls the fields of a coach and of a calendar, and what the service calls them.
_COACH = {"daily_limit": "max_daily_appointments", "zone": "timezone"}
_CALENDAR = {
    "duration": "slot_duration",
    "interval": "slot_interval",
    "longest": "max_duration",
    "before": "buffer_before",
    "after": "buffer_after",
    "notice": "min_notice_minutes",
    "horizon": "max_days_ahead",
    "strategy": "assignment",
}


@dataclass(frozen=True)
class EditCoach:
    """Change a coach's score, daily limit or zone, or let it go and return."""

    coach: str
    fields: Mapping[str, Any]

    async def do(self, world: World, process: Process) -> Any:
        fields = {_COACH.get(name, name): value for name, value in self.fields.items()}
        await process.coaches.change(world.org, self.coach, fields)

    def foresee(self, model: Model) -> list[Outcome]:
        coach, fields = model.coaches[self.coach], dict(self.fields)
        if "zone" in fields:
            coach = replace(coach, hours=replace(coach.hours, zone=fields.pop("zone")))
        model.coaches[self.coach] = replace(coach, **fields)
        return [(None, model)]


@dataclass(frozen=True)
class EditCalendar:
    """Change a calendar's rules or its team."""

    calendar: str
    fields: Mapping[str, Any]

    async def do(self, world: World, process: Process) -> Any:
        fields = {_CALENDAR[name]: value for name, value in self.fields.items() if name != "team"}
        team: Sequence[str] | None = self.fields.get("team")
        await process.calendars.change(world.org, self.calendar, fields, coach_ids=team)

    def foresee(self, model: Model) -> list[Outcome]:
        calendar = replace(model.calendars[self.calendar], **self.fields)
        if calendar.longest is not None and calendar.longest < calendar.duration:
            raise InvalidRequest([("max_duration", "shorter than the slots")])
        model.calendars[self.calendar] = calendar
        return [(None, model)]


@dataclass(frozen=True)
class Wait:
    """Time goes by."""

    minutes: int

    async def do(self, world: World, process: Process) -> Any:
        world.clock.time += timedelta(minutes=self.minutes)

    def foresee(self, model: Model) -> list[Outcome]:
        model.now += timedelta(minutes=self.minutes)
        return [(None, model)]
