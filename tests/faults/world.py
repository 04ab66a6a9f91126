"""Who books what: two organizations with calendars whose teams overlap, so that few starts have many takers.

The teams, hours and limits are chosen so that every reason for a 409 comes up: an appointment, a buffer, a limit
of the day, a coach of the other calendar's zone. Made through the command line and the API, as an operator would.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from aiohttp import ClientSession, ClientTimeout

ORGANIZATIONS = ("north", "south")
DAYS = 4
DAILY_LIMIT = 6
DURATION_MIN = 30
BUFFER_MIN = 5
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OTHER_ZONE = "America/New_York"


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
    """Make the organizations, their coaches and calendars, and say what can be asked for."""
    raise NotImplementedError
