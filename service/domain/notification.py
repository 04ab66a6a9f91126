"""What the contact of an appointment is told, in plain words.

Nothing of the inside is in it but the appointment's id: no coach or calendar ids, no notes, no reasons; those may
be meant for others.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec

from service.domain.event import EventType


class Kind(StrEnum):
    """Why the contact is written to."""

    CONFIRMATION = "confirmation"
    CHANGE = "change"
    CANCELLATION = "cancellation"
    REMINDER = "reminder"


_KINDS: dict[str, Kind] = {
    EventType.CREATED: Kind.CONFIRMATION,
    EventType.RESCHEDULED: Kind.CHANGE,
    EventType.REASSIGNED: Kind.CHANGE,
    EventType.CANCELLED: Kind.CANCELLATION,
    EventType.REMINDER: Kind.REMINDER,
}
_OPENING = {
    Kind.CONFIRMATION: "your appointment is booked.",
    Kind.CHANGE: "your appointment has changed.",
    Kind.CANCELLATION: "your appointment has been cancelled. You need not come.",
    Kind.REMINDER: "this is a reminder of your appointment.",
}
_TITLE = {
    Kind.CONFIRMATION: "Booked",
    Kind.CHANGE: "Changed",
    Kind.CANCELLATION: "Cancelled",
    Kind.REMINDER: "Reminder",
}
_ABOUT_THE_FILE = {
    Kind.CONFIRMATION: "The attached file puts it into your calendar.",
    Kind.CHANGE: "The attached file updates it in your calendar.",
    Kind.CANCELLATION: "The attached file takes it out of your calendar.",
    Kind.REMINDER: "If it is not in your calendar yet, the attached file puts it there.",
}
_LONGEST_NAME = 200


def kind_of(event_type: str) -> Kind | None:
    """The kind of notification an event makes, or None for one the contact does not hear of."""
    return _KINDS.get(event_type)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to tell: where the appointment stands now, and for a change where it stood.

    Names are single lines, as `one_line` makes them. `zone` is the one the contact reads times in.
    """

    kind: Kind
    appointment_id: str
    contact_name: str | None
    calendar_name: str
    coach_name: str
    start: datetime
    end: datetime
    zone: ZoneInfo
    earlier_start: datetime | None = None
    earlier_end: datetime | None = None
    earlier_coach_name: str | None = None

    @property
    def title(self) -> str:
        """What the appointment is called in a calendar."""
        return f"{self.calendar_name} with {self.coach_name}"

    @property
    def subject(self) -> str:
        """The subject of a message about it."""
        return f"{_TITLE[self.kind]}: {self.title}, {_day(self.start, self.zone)}"

    @property
    def text(self) -> str:
        """The message."""
        greeting = f"Hello {self.contact_name}," if self.contact_name else "Hello,"
        lines = [
            greeting,
            "",
            _OPENING[self.kind],
            "",
            f"What: {self.calendar_name}",
            f"With: {self.coach_name}",
            f"When: {show_period(self.start, self.end, self.zone)}",
        ]
        if self.kind is Kind.CHANGE:
            lines += self._before()
        lines += ["", _ABOUT_THE_FILE[self.kind], "", f"Appointment {self.appointment_id}"]
        return "\n".join(lines) + "\n"

    def _before(self) -> list[str]:
        """What it was before, as far as that is another."""
        lines: list[str] = []
        start, end = self.earlier_start, self.earlier_end
        if start is not None and end is not None and (start, end) != (self.start, self.end):
            lines.append(f"Before the change: {show_period(start, end, self.zone)}")
        if self.earlier_coach_name is not None and self.earlier_coach_name != self.coach_name:
            lines.append(f"Before the change with: {self.earlier_coach_name}")
        return lines


def one_line(text: str) -> str:
    """Somebody's text as one line of printable characters that fits a heading."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:_LONGEST_NAME]


def show_period(start: datetime, end: datetime, zone: ZoneInfo) -> str:
    """Two instants as a person of that zone reads them, with the zone's name."""
    begin, finish = start.astimezone(zone), end.astimezone(zone)
    until = f"{finish:%H:%M}" if begin.date() == finish.date() else f"{_day(end, zone)}, {finish:%H:%M}"
    name = "UTC" if zone.key == "UTC" else f"{zone.key}, {_offset(begin)}"
    return f"{_day(start, zone)}, {begin:%H:%M} to {until} ({name})"


def _day(instant: datetime, zone: ZoneInfo) -> str:
    local = instant.astimezone(zone)
    return f"{local:%A}, {local.day} {local:%B} {local.year}"


def _offset(local: datetime) -> str:
    text = f"{local:%z}"
    return f"UTC{text[:3]}:{text[3:5]}"
