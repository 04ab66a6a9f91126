"""The shapes of coaches, schedules, calendars and contacts, and pages of them.

A field that is left out of a change stays as it is; null empties the fields that may be empty.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Literal

import msgspec
import uuid_utils
from msgspec import UNSET, Meta, UnsetType

from service.api.parsing import query_integer
from service.api.shapes import Name, SlotShape
from service.domain.schedule import clock_time
from service.errors import InvalidRequest, NotFound

# The end is said with a lookahead: `$` lets a line feed pass.
GivenId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._~\-]+(?![\s\S])")]
Ids = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=2000)]
Email = Annotated[str, Meta(max_length=254, description="unique in the organization, in any case of letters")]
ZoneName = Annotated[str, Meta(max_length=64, description="IANA time zone")]
Specialty = Annotated[str, Meta(min_length=1, max_length=200)]
Phone = Annotated[str, Meta(min_length=1, max_length=50)]
Score = Annotated[float, Meta(ge=0, le=1)]
DailyLimit = Annotated[int, Meta(ge=0, le=288)]
LocalTime = Annotated[str, Meta(max_length=16, description="HH:MM by the coach's clocks")]
SlotMinutes = Annotated[int, Meta(ge=5, le=1440, multiple_of=5)]
BufferMinutes = Annotated[int, Meta(ge=0, le=240, multiple_of=5)]
NoticeMinutes = Annotated[int, Meta(ge=0, le=366 * 1440)]
DaysAhead = Annotated[int, Meta(ge=1, le=366)]
USUAL_PAGE = 50
LARGEST_PAGE = 200
PAGE_PARAMETERS = (
    ("limit", f"rows a page, 1 to {LARGEST_PAGE}, default {USUAL_PAGE}"),
    ("cursor", "`next_cursor` of the page before"),
)
_ID = re.compile(r"[A-Za-z0-9._~\-]{1,128}")


class CreateCoach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new coach, who works the given hours from Monday to Friday."""

    coach_id: GivenId | None = None
    name: Name
    email: Email
    specialty: Specialty | None = None
    timezone: ZoneName = "UTC"
    score: Score = 0.5
    max_daily_appointments: DailyLimit = 10
    working_hours_start: LocalTime | None = None
    working_hours_end: LocalTime | None = None
    calendar_ids: Ids = []


class ChangeCoach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a coach. `calendar_ids` is then all of them; working hours come in pairs."""

    name: Name | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    specialty: Specialty | UnsetType | None = UNSET
    timezone: ZoneName | UnsetType = UNSET
    score: Score | UnsetType = UNSET
    max_daily_appointments: DailyLimit | UnsetType = UNSET
    working_hours_start: LocalTime | UnsetType = UNSET
    working_hours_end: LocalTime | UnsetType = UNSET
    calendar_ids: Ids | UnsetType = UNSET
    active: bool | UnsetType = UNSET


class CoachShape(msgspec.Struct, frozen=True, kw_only=True):
    """A coach."""

    coach_id: str
    name: str
    email: str
    specialty: str | None
    timezone: str
    score: float
    max_daily_appointments: int
    active: bool
    calendar_ids: list[str]
    created_at: datetime
    updated_at: datetime


class CoachPage(msgspec.Struct, frozen=True):
    """Coaches in the order they were created."""

    coaches: list[CoachShape]
    next_cursor: str | None


class WindowShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hours of one local day, `HH:MM`, multiples of 5 minutes; the end may be 24:00."""

    start: LocalTime
    end: LocalTime


class WeekShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The windows of each weekday; none: closed."""

    monday: list[WindowShape] = []
    tuesday: list[WindowShape] = []
    wednesday: list[WindowShape] = []
    thursday: list[WindowShape] = []
    friday: list[WindowShape] = []
    saturday: list[WindowShape] = []
    sunday: list[WindowShape] = []


class OverrideShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The windows of one date instead of its weekday's; none: closed."""

    date: date
    windows: list[WindowShape]


class ReplaceSchedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole schedule: weekdays left out are closed; a `timezone` becomes the coach's."""

    timezone: ZoneName | None = None
    weekly: WeekShape
    overrides: list[OverrideShape] = []


class ScheduleShape(msgspec.Struct, frozen=True, kw_only=True):
    """When a coach works."""

    coach_id: str
    timezone: str
    weekly: WeekShape
    overrides: list[OverrideShape]


class CoachDayShape(msgspec.Struct, frozen=True, kw_only=True):
    """Free slots of one coach on one local date."""

    slots: list[SlotShape]
    total_available: int
    to: str
    timezone: str
    from_: str = msgspec.field(name="from")


class CreateCalendar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new calendar; minutes that are left out are the settings'."""

    calendar_id: GivenId | None = None
    name: Name
    slot_duration: SlotMinutes | None = None
    slot_interval: SlotMinutes | None = None
    max_duration: SlotMinutes | None = None
    buffer_before: BufferMinutes | None = None
    buffer_after: BufferMinutes | None = None
    min_notice_minutes: NoticeMinutes | None = None
    max_days_ahead: DaysAhead | None = None
    assignment: Literal["balanced", "score"] = "balanced"
    coach_ids: Ids = []


class ChangeCalendar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a calendar; `coach_ids` is then its whole team."""

    name: Name | UnsetType = UNSET
    slot_duration: SlotMinutes | UnsetType = UNSET
    slot_interval: SlotMinutes | UnsetType = UNSET
    max_duration: SlotMinutes | UnsetType | None = UNSET
    buffer_before: BufferMinutes | UnsetType = UNSET
    buffer_after: BufferMinutes | UnsetType = UNSET
    min_notice_minutes: NoticeMinutes | UnsetType = UNSET
    max_days_ahead: DaysAhead | UnsetType = UNSET
    assignment: Literal["balanced", "score"] | UnsetType = UNSET
    coach_ids: Ids | UnsetType = UNSET


class CalendarShape(msgspec.Struct, frozen=True, kw_only=True):
    """A calendar; minutes and days. `coach_ids` are its active coaches."""

    calendar_id: str
    name: str
    slot_duration: int
    slot_interval: int
    max_duration: int | None
    buffer_before: int
    buffer_after: int
    min_notice_minutes: int
    max_days_ahead: int
    assignment: str
    coach_ids: list[str]
    created_at: datetime
    updated_at: datetime


class CalendarPage(msgspec.Struct, frozen=True):
    """Calendars in the order they were created."""

    calendars: list[CalendarShape]
    next_cursor: str | None


class CreateContact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new contact."""

    email: Email
    name: Name | None = None
    phone: Phone | None = None


class ContactShape(msgspec.Struct, frozen=True, kw_only=True):
    """A contact."""

    contact_id: str
    email: str
    name: str | None
    phone: str | None
    created_at: datetime


class ContactPage(msgspec.Struct, frozen=True):
    """Contacts in the order of their ids."""

    contacts: list[ContactShape]
    next_cursor: str | None


def page_size(query: Mapping[str, str]) -> int:
    """How many rows a list's page may have. Raises InvalidRequest."""
    return query_integer("limit", query.get("limit", str(USUAL_PAGE)), 1, LARGEST_PAGE)


def cursor_of(kind: str, last: str) -> str:
    """The cursor of the page after the row `last` of a list."""
    return base64.urlsafe_b64encode(f"{kind}:{last}".encode()).decode().rstrip("=")


def row_before(kind: str, query: Mapping[str, str]) -> str | None:
    """The row that a request's cursor stands for; None without one. Raises InvalidRequest for another list's."""
    cursor = query.get("cursor")
    if cursor is None:
        return None
    try:
        found, _, last = (
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), "-_", validate=True).decode().partition(":")
        )
    except (binascii.Error, ValueError):
        found, last = "", ""
    if found != kind or not last:
        raise unknown_cursor()
    return last


def number_before(kind: str, query: Mapping[str, str], first: int) -> int:
    """The number that a request's cursor stands for, `first` without one. Raises InvalidRequest."""
    last = row_before(kind, query)
    if last is None:
        return first
    if not re.fullmatch("[0-9]{1,9}", last):
        raise unknown_cursor()
    return int(last)


def unknown_cursor() -> InvalidRequest:
    """The refusal of a cursor that no page of this list gave."""
    return InvalidRequest([("cursor", "is not a cursor of this list")])


def path_id(path: Mapping[str, str], name: str, what: str) -> str:
    """An id of a path; one that no object can have is simply not found."""
    if not _ID.fullmatch(path[name]):
        raise NotFound(f"no {what} {path[name][:128]!r}")
    return path[name]


def given_or_new(field: str, given: str | None, *reserved: str) -> str:
    """The id a client chose, or a new one. Raises InvalidRequest for one that no path could name."""
    if given in (".", "..", *reserved):
        raise InvalidRequest([(field, f"{given!r} means something else in a path")])
    return given or str(uuid_utils.uuid7())


def window_shape(start_minute: int, end_minute: int) -> WindowShape:
    """A window as it is shown."""
    return WindowShape(clock_time(start_minute), clock_time(end_minute))
