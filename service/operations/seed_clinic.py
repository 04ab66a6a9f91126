"""A clinic to look at: five doctors, ten patients and fifty appointments over the fourteen days from tomorrow on.

Everything is made by the operations that serve the API, so events, grid and deliveries are those of real bookings;
every fifth appointment is cancelled again. Each part is known by an id, an address or an idempotency key of its own:
loading again adds nothing, and ends what a broken run began.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec

from service.claims.messages import Rate
from service.clock import Clock
from service.db.appointments import AppointmentStore
from service.db.people import CalendarRecord, CoachRecord
from service.db.rosters import RosterStore
from service.domain.appointment import Status
from service.domain.assignment import Strategy
from service.domain.grid import instant_of
from service.domain.schedule import Window
from service.domain.zones import day_bounds, local_date, zone
from service.errors import AlreadyExists, SlotUnavailable
from service.operations.book import Book
from service.operations.caller import Caller
from service.operations.change import ChangeAppointment
from service.operations.create_organization import CreateOrganization
from service.operations.find_availability import FindAvailability
from service.operations.local_rates import RateSeen
from service.operations.manage_calendars import ManageCalendars
from service.operations.manage_coaches import ManageCoaches
from service.operations.manage_contacts import ManageContacts
from service.operations.plan_booking import BookingRequest
from service.operations.rosters import Rosters

CLINIC = "clinic"
TIMEZONE = "America/New_York"
DAYS = 14
APPOINTMENTS = 50
CANCELLED_EACH = 5

_GENERAL = "general"
# Id, name and minutes of each.
_CALENDARS = [
    ("cardiology", "Cardiology", 30),
    ("dermatology", "Dermatology", 15),
    ("neurology", "Neurology", 45),
    ("orthopedics", "Orthopedics", 30),
    ("pediatrics", "Pediatrics", 20),
    (_GENERAL, "General consultation", 30),
]
# Id, name, specialty and own calendar, score in millionths, opening and closing hour of each.
_DOCTORS = [
    ("dr-osei", "Dr. Ama Osei", "cardiology", 900_000, 8, 16),
    ("dr-lindqvist", "Dr. Nils Lindqvist", "dermatology", 750_000, 9, 17),
    ("dr-haddad", "Dr. Rana Haddad", "neurology", 850_000, 9, 17),
    ("dr-moreau", "Dr. Luc Moreau", "orthopedics", 700_000, 10, 18),
    ("dr-tanaka", "Dr. Yui Tanaka", "pediatrics", 800_000, 8, 16),
]
_PATIENTS = ["Ada", "Ben", "Cleo", "Dan", "Ella", "Finn", "Gus", "Hana", "Ivo", "Jo"]
_DAILY_LIMIT = 12
_INTERVAL = 15
_BUFFER_AFTER = 5
_NOTICE_MINUTES = 60
_HORIZON_DAYS = 30
# Visits to each doctor's own calendar; the rest go to the general one, where the service chooses the doctor.
_OWN_EACH = 8

STEPS = len(_CALENDARS) + len(_DOCTORS) + len(_PATIENTS) + APPOINTMENTS + APPOINTMENTS // CANCELLED_EACH

_ACTOR = "command:seed"
_SCOPES = frozenset({"write"})
_RATE = Rate("seed", 0, 60_000)

Progress = Callable[[], None]


class _Answer(msgspec.Struct):
    """What is read of the answer to a booking."""

    appointment_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class _Visit:
    """An appointment to be made: its number, calendar and patient, and where in the day it lies (0 to 1)."""

    number: int
    calendar_id: str
    patient: str
    place: float

    @property
    def key(self) -> str:
        """The idempotency key it is booked under."""
        return f"seed-clinic-{self.number:02}"


class SeedClinic:
    """Loads the clinic into an organization of its own."""

    def __init__(
        self,
        *,
        create: CreateOrganization,
        coaches: ManageCoaches,
        calendars: ManageCalendars,
        contacts: ManageContacts,
        roster_store: RosterStore,
        rosters: Rosters,
        availability: FindAvailability,
        appointments: AppointmentStore,
        book: Book,
        change: ChangeAppointment,
        clock: Clock,
    ) -> None:
        self._create = create
        self._coaches = coaches
        self._calendars = calendars
        self._contacts = contacts
        self._roster_store = roster_store
        self._rosters = rosters
        self._availability = availability
        self._appointments = appointments
        self._book = book
        self._change = change
        self._clock = clock

    async def __call__(self, progress: Progress) -> int:
        """Load what is not there; how many things were added or cancelled, 0 when all was there.

        `progress` is called STEPS times. Raises SlotUnavailable when a calendar has no free time or somebody took the
        time meanwhile, Unavailable or OutcomeUnknown; loading again goes on from there.
        """
        org = await self._organization()
        added = 0
        for calendar in _CALENDARS:
            added += await _unless_there(self._calendars.create(org, _calendar(*calendar)))
            progress()
        for coach_id, name, specialty, score, opens, closes in _DOCTORS:
            doctor = _doctor(coach_id, name, specialty, score)
            added += await _unless_there(self._coaches.create(org, doctor, Window(opens * 60, closes * 60)))
            progress()
        for name in _PATIENTS:
            added += await _unless_there(self._contacts.create(org, _address(name), f"{name} Example", None))
            progress()
        return added + await self._appoint(org, progress)

    async def _appoint(self, org: int, progress: Progress) -> int:
        """Book and cancel what was not; how many of each together."""
        added = 0
        made: list[uuid.UUID] = []
        tomorrow = local_date(self._clock.now(), zone(TIMEZONE)) + timedelta(days=1)
        for visit in _visits():
            appointment_id, new = await self._visit(org, visit, tomorrow)
            made.append(appointment_id)
            added += new
            progress()
        # Only now, so that no visit is given the time of one that was cancelled.
        for appointment_id in made[::CANCELLED_EACH]:
            added += await self._cancel(org, appointment_id)
            progress()
        return added

    async def _organization(self) -> int:
        try:
            return (await self._create(CLINIC)).org
        except AlreadyExists:
            org = await self._roster_store.organization(CLINIC)
            if org is None:
                raise
            return org

    async def _visit(self, org: int, visit: _Visit, first_day: date) -> tuple[uuid.UUID, bool]:
        """Book a visit at a free start of its day unless it was booked before: (its id, whether it is new)."""
        stored = await self._appointments.answer_of_key(org, visit.key)
        if stored is not None and stored[1] is not None:
            return _id_in(stored[1]), False
        days = await self._free_days(org, visit.calendar_id, first_day)
        starts = days[visit.number * len(days) // APPOINTMENTS]
        request = BookingRequest(
            calendar_id=visit.calendar_id,
            start_time=starts[int(visit.place * len(starts))],
            end_time=None,
            contact_email=_address(visit.patient),
            contact_name=f"{visit.patient} Example",
            notes=None,
            timezone=TIMEZONE,
            coach_id=None,
            metadata={},
            idempotency_key=visit.key,
            stands_for=hashlib.blake2b(visit.key.encode(), digest_size=16).hexdigest,
        )
        booked = await self._book(request, Caller(org, _ACTOR, _SCOPES, _RATE, visit.key), RateSeen())
        return _id_in(booked.body), not booked.replayed

    async def _free_days(self, org: int, calendar_id: str, first_day: date) -> list[list[datetime]]:
        """The free starts of a calendar from a date on, a list for each local date that has any."""
        roster = await self._rosters.get(org)
        here = zone(TIMEZONE)
        start, end = day_bounds(first_day, here)[0], day_bounds(first_day + timedelta(days=DAYS), here)[0]
        free = await self._availability(roster, roster.calendar(calendar_id), None, start, end)
        starts = [instant_of(cell) for cell, _ in free.rows]
        if not starts:
            raise SlotUnavailable(f"the calendar {calendar_id!r} has no free time in the {DAYS} days from tomorrow on")
        return [list(group) for _, group in groupby(starts, key=lambda start: local_date(start, here))]

    async def _cancel(self, org: int, appointment_id: uuid.UUID) -> bool:
        """Cancel a visit unless somebody ended it before."""
        if (await self._change.get(org, appointment_id)).status is not Status.SCHEDULED:
            return False
        await self._change.cancel(
            org, appointment_id, reason="the patient cannot come", actor=_ACTOR, correlation_id="seed-clinic-cancel"
        )
        return True


async def _unless_there(work: Coroutine[Any, Any, object]) -> bool:
    try:
        await work
    except AlreadyExists:
        return False
    return True


def _visits() -> list[_Visit]:
    """The appointments, in the order of their days.

    Five are on each of ten working days and the patients take turns, so that nobody has two on one day.
    """
    chance = random.Random(1)
    own = [calendar_id for calendar_id, *_ in _CALENDARS if calendar_id != _GENERAL] * _OWN_EACH
    calendars = own + [_GENERAL] * (APPOINTMENTS - len(own))
    chance.shuffle(calendars)
    return [
        _Visit(number, calendar_id, _PATIENTS[number % len(_PATIENTS)], chance.random())
        for number, calendar_id in enumerate(calendars)
    ]


def _calendar(calendar_id: str, name: str, minutes: int) -> CalendarRecord:
    return CalendarRecord(
        calendar_id=calendar_id,
        name=name,
        slot_duration=minutes,
        slot_interval=_INTERVAL,
        max_duration=None,
        buffer_before=0,
        buffer_after=_BUFFER_AFTER,
        min_notice_minutes=_NOTICE_MINUTES,
        max_days_ahead=_HORIZON_DAYS,
        assignment=Strategy.BALANCED,
    )


def _doctor(coach_id: str, name: str, specialty: str, score: int) -> CoachRecord:
    return CoachRecord(
        coach_id=coach_id,
        name=name,
        email=f"{coach_id}@example.com",
        specialty=specialty,
        timezone=TIMEZONE,
        score=score,
        max_daily_appointments=_DAILY_LIMIT,
        calendar_ids=(specialty, _GENERAL),
    )


def _address(patient: str) -> str:
    return f"{patient.lower()}@example.com"


def _id_in(answer: bytes) -> uuid.UUID:
    """The appointment's id in the answer to its booking."""
    return msgspec.json.decode(answer, type=_Answer).appointment_id
