"""Coaches, calendars and the roster: everything of one organization that a claim is decided by.

A `Roster` is a snapshot with a version. The version travels with every claim and every read, so a process
that holds an old roster is told so by the grid instead of deciding by yesterday's team.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from service.domain.assignment import Strategy
from service.domain.event import Destination, heard_by
from service.domain.grid import columns_in, columns_mask
from service.domain.zones import aligned_day, zone
from service.errors import NotFound


@dataclass(frozen=True, slots=True)
class Coach:
    """A coach. `column` is its integer key and its column in every plane; `score` is in millionths."""

    column: int
    coach_id: str
    name: str
    email: str
    specialty: str | None
    timezone: str
    score: int
    max_daily_appointments: int
    active: bool


@dataclass(frozen=True, slots=True)
class Calendar:
    """What can be booked: durations and buffers in minutes, `team` the columns of its active coaches, ascending.

    `number` is None for the view over all coaches that `GET /api/availability` without a calendar offers.
    """

    number: int | None
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
    team: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ZoneGroup:
    """The columns of one zone in a team, as a row mask. `number` is the zone's index in the roster."""

    number: int
    name: str
    mask: int


@dataclass(frozen=True)
class Roster:
    """One organization's coaches and calendars at `version`; `width` is the bytes of a grid row.

    `in_calendar`: the external calendar knows its coaches; `has_endpoints`: somebody outside hears of its events.
    """

    org: int
    name: str
    version: int
    width: int
    coaches: tuple[Coach, ...]
    calendars: tuple[Calendar, ...]
    everyone: Calendar
    zones: tuple[str, ...] = field(default=())
    in_calendar: bool = False
    has_endpoints: bool = False

    def heard_by(self, event_type: str) -> tuple[Destination, ...]:
        """The destinations that must hear of such an event of the organization."""
        return heard_by(event_type, calendar=self.in_calendar, endpoints=self.has_endpoints)

    @cached_property
    def coach_by_id(self) -> dict[str, Coach]:
        """Coaches by the id the outside uses."""
        return {coach.coach_id: coach for coach in self.coaches}

    @cached_property
    def coach_by_column(self) -> dict[int, Coach]:
        """Coaches by column."""
        return {coach.column: coach for coach in self.coaches}

    @cached_property
    def calendar_by_id(self) -> dict[str, Calendar]:
        """Calendars by the id the outside uses."""
        return {calendar.calendar_id: calendar for calendar in self.calendars}

    @cached_property
    def zone_numbers(self) -> dict[str, int]:
        """Index of each zone in `zones`."""
        return {name: number for number, name in enumerate(self.zones)}

    @cached_property
    def _zone_groups(self) -> dict[object, tuple[tuple[int, ...], tuple[ZoneGroup, ...]]]:
        return {}

    def coach(self, coach_id: str) -> Coach:
        """The coach with that id. Raises NotFound."""
        found = self.coach_by_id.get(coach_id)
        if found is None:
            raise NotFound(f"no coach {coach_id!r}")
        return found

    def calendar(self, calendar_id: str) -> Calendar:
        """The calendar with that id. Raises NotFound."""
        found = self.calendar_by_id.get(calendar_id)
        if found is None:
            raise NotFound(f"no calendar {calendar_id!r}")
        return found

    def coaches_in(self, mask: int) -> list[Coach]:
        """The coaches of a row, by id."""
        found = [self.coach_by_column[column] for column in columns_in(mask, self.width)]
        return sorted(found, key=lambda coach: coach.coach_id)

    def zone_groups(self, team: tuple[int, ...]) -> tuple[ZoneGroup, ...]:
        """The team's columns by time zone (kept, for it is asked at every claim)."""
        # By which object it is, the calendar's own: to hash a team of 10,000 takes 16 µs. What is kept keeps it.
        key: object = id(team) if len(team) > 1 else team
        kept = self._zone_groups.get(key)
        if kept is None:
            by_zone: dict[str, list[int]] = {}
            for column in team:
                by_zone.setdefault(self.coach_by_column[column].timezone, []).append(column)
            groups = tuple(
                ZoneGroup(self.zone_numbers[name], name, columns_mask(columns, self.width))
                for name, columns in by_zone.items()
            )
            kept = self._zone_groups[key] = team, groups
        return kept[1]

    def team_mask(self, team: tuple[int, ...]) -> int:
        """The team as a row mask."""
        return columns_mask(team, self.width)

    @property
    def horizon_days(self) -> int:
        """The furthest any calendar of the organization can be booked, in days."""
        return max((c.max_days_ahead for c in (*self.calendars, self.everyone)), default=30)


def earliest_start(calendar: Calendar, now: datetime) -> datetime:
    """The first instant at which a booking made `now` may begin."""
    return now + timedelta(minutes=calendar.min_notice_minutes)


def latest_start(calendar: Calendar, now: datetime) -> datetime:
    """The last instant at which a booking made `now` may begin."""
    return now + timedelta(days=calendar.max_days_ahead)


def aligned_groups(groups: tuple[ZoneGroup, ...], start: datetime, interval: int) -> tuple[tuple[ZoneGroup, int], ...]:
    """The zone groups whose start grid contains `start`, each with its local day number of that start."""
    found: list[tuple[ZoneGroup, int]] = []
    for group in groups:
        day = aligned_day(start, zone(group.name), interval)
        if day is not None:
            found.append((group, day))
    return tuple(found)
