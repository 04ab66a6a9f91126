"""Who books what: two organizations with calendars whose teams overlap, so that few starts have many takers.

The teams, hours and limits are chosen so that every reason for a 409 comes up: an appointment, a buffer, a limit
of the day, a coach of the other calendar's zone. Made through the command line and the API, as an operator would.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from aiohttp import ClientSession, ClientTimeout

ORGANIZATIONS = ("north", "south")
# Whose coaches the external calendar knows.
IN_CALENDAR = ORGANIZATIONS[0]
DAYS = 4
DAILY_LIMIT = 6
DURATION_MIN = 30
BUFFER_MIN = 5
# Starts in UTC, minutes of the day: within the hours of every coach for a part of it.
FIRST_MIN, LAST_MIN = 10 * 60, 18 * 60
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OTHER_ZONE = "America/New_York"
# Of each organization: zone, first and last hour. Two are never closed, one lives elsewhere.
COACHES = (
    ("UTC", "00:00", "24:00"),
    ("UTC", "00:00", "24:00"),
    ("UTC", "08:00", "18:00"),
    ("UTC", "08:00", "18:00"),
    (OTHER_ZONE, "08:00", "18:00"),
)
# Calendar: which coaches, interval, buffers before and after. Two coaches are in both teams.
CALENDARS = (("wide", (0, 1, 2, 3), 30, 0, BUFFER_MIN), ("zoned", (2, 3, 4), 15, BUFFER_MIN, 0))


class Installation(Protocol):
    """What the world is made in: `tests.api.stack.Stack`, or a machine that has one."""

    @property
    def url(self) -> str:
        """Where the API is."""
        ...

    async def cli(self, *words: str) -> Any:
        """Run a `booking` command: `code`, `out`, `err`."""
        ...


@dataclass(frozen=True)
class CalendarWorld:
    """One calendar: its id, who it is booked through, and the starts that clients ask for (UTC)."""

    calendar_id: str
    coach_ids: tuple[str, ...]
    starts: tuple[datetime, ...]


@dataclass(frozen=True)
class OrganizationWorld:
    """One organization: its name, a key with all scopes and no limit, its calendars."""

    name: str
    key: str
    calendars: tuple[CalendarWorld, ...]


@dataclass(frozen=True)
class World:
    """All organizations of a run."""

    organizations: tuple[OrganizationWorld, ...]

    def of(self, name: str) -> OrganizationWorld:
        """The organization of that name."""
        return next(one for one in self.organizations if one.name == name)


async def make_world(installation: Installation) -> World:
    """Make the organizations, their coaches and calendars, and say what can be asked for.

    `installation` answers over HTTP. Raises AssertionError when something could not be made.
    """
    return World(tuple(await asyncio.gather(*(_organization(installation, name) for name in ORGANIZATIONS))))


async def _organization(installation: Installation, name: str) -> OrganizationWorld:
    ended = await installation.cli("org", "create", "--name", name, "--with-key", "--rate-limit", "0")
    assert ended.code == 0, ended.err
    key = ended.out.split()[-1]
    headers = {"X-API-Key": key}
    async with ClientSession(installation.url, headers=headers, timeout=ClientTimeout(total=20)) as session:
        return await _furnish(session, name, key)


async def _furnish(session: ClientSession, name: str, key: str) -> OrganizationWorld:
    for number, (zone, opens, closes) in enumerate(COACHES):
        coach = coach_id(name, number)
        await _make(
            session,
            "/api/coaches",
            {
                "coach_id": coach,
                "name": f"Coach {number} of {name}",
                "email": f"{coach}@example.com",
                "timezone": zone,
                "score": 0.5 + number / 10,
                "max_daily_appointments": DAILY_LIMIT,
            },
        )
        weekly = {day: [{"start": opens, "end": closes}] for day in WEEKDAYS}
        async with session.put(f"/api/coaches/{coach}/schedule", json={"timezone": zone, "weekly": weekly}) as answer:
            assert answer.status == 200, await answer.text()
    calendars: list[CalendarWorld] = []
    for calendar, team, interval, before, after in CALENDARS:
        members = tuple(coach_id(name, number) for number in team)
        await _make(
            session,
            "/api/calendars",
            {
                "calendar_id": f"{name}-{calendar}",
                "name": f"{calendar} of {name}",
                "slot_duration": DURATION_MIN,
                "slot_interval": interval,
                "buffer_before": before,
                "buffer_after": after,
                "min_notice_minutes": 0,
                "max_days_ahead": 30,
                "coach_ids": list(members),
            },
        )
        calendars.append(CalendarWorld(f"{name}-{calendar}", members, starts(interval)))
    return OrganizationWorld(name, key, tuple(calendars))


def coach_id(organization: str, number: int) -> str:
    """What a coach is called."""
    return f"{organization}-coach-{number}"


def starts(interval: int) -> tuple[datetime, ...]:
    """The starts clients ask for, from tomorrow on; where the grid allows it also the two around midnight."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    minutes = list(range(FIRST_MIN, LAST_MIN, interval))
    if interval == DURATION_MIN:
        # Their buffers lie in the next day.
        minutes += [0, 24 * 60 - DURATION_MIN]
    days = [today + timedelta(days=1 + number) for number in range(DAYS)]
    return tuple(sorted(day + timedelta(minutes=minute) for day in days for minute in minutes))


async def _make(session: ClientSession, path: str, body: dict[str, Any]) -> None:
    async with session.post(path, json=body) as answer:
        assert answer.status == 201, await answer.text()
