"""An organization whose coaches live in every zone, and a clock that is moved from year to year."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from service.app import Services, open_services
from service.config import Settings
from service.domain.zones import zone_names
from tests.dst.clocks import YEARS, Alike, Hours, Move, alike

# As much as is booked from one place of the clock: less than the longest horizon, 366 days, with room on both sides.
SPAN = timedelta(days=360)
BESIDE = timedelta(days=3)
AROUND_THE_CLOCK = Hours((((0, 1440),),) * 7)


@dataclass
class MovedClock:
    """Shows what it is set to."""

    time: datetime

    def now(self) -> datetime:
        """That instant."""
        return self.time


@dataclass(frozen=True)
class NewCoach:
    """A coach to be: its zone, hours and daily limit."""

    timezone: str
    hours: Hours
    daily_limit: int = 288


@dataclass(frozen=True)
class Zones:
    """Every zone there is, by how its clocks behave from `start` on."""

    start: datetime
    groups: list[Alike]

    @property
    def moving(self) -> list[Alike]:
        """Those whose clocks are moved."""
        return [group for group in self.groups if group.moves]

    def years(self, clock: MovedClock) -> Iterator[list[tuple[Alike, Move]]]:
        """The moves that can be booked at from one place of the clock, for which it is set; then the next."""
        begin = self.start
        while begin < self.start + YEARS:
            clock.time = begin - BESIDE
            yield [(g, move) for g in self.moving for move in g.moves if begin <= move.instant < begin + SPAN]
            begin += SPAN


@pytest.fixture(scope="session")
def zones() -> Zones:
    """The zones that the service knows."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return Zones(start, alike(zone_names(), start))


@pytest.fixture
def clock(zones: Zones) -> MovedClock:
    """The service's clock."""
    return MovedClock(zones.start)


@pytest.fixture
async def services(settings: Settings, clock: MovedClock) -> AsyncIterator[Services]:
    """Every object of a process, living by that clock."""
    async with open_services(settings, clock=clock) as opened:
        yield opened


async def organization(services: Services, coaches: Sequence[NewCoach], calendars: Sequence[tuple[str, ...]]) -> int:
    """An organization of such coaches (`k0`, `k1`, …), all in each calendar; its integer key.

    A calendar is its id and its duration, interval, buffer before and after in minutes.
    """
    async with services.database.transaction() as connection:
        org = await connection.fetchval("INSERT INTO organizations (name) VALUES ('clocks') RETURNING org_id")
        await connection.executemany(
            "INSERT INTO coaches (org_id, coach_no, coach_id, name, email, timezone, score, max_daily_appointments)"
            " VALUES ($1, $2, $3, $3, $3 || '@example.com', $4, 500000, $5)",
            [(org, no, f"k{no}", coach.timezone, coach.daily_limit) for no, coach in enumerate(coaches)],
        )
        await connection.executemany(
            "INSERT INTO weekly_windows VALUES ($1, $2, $3, $4, $5)",
            [
                (org, no, weekday, *window)
                for no, coach in enumerate(coaches)
                for weekday, windows in enumerate(coach.hours.weekly)
                for window in windows
            ],
        )
        await connection.executemany(
            "INSERT INTO schedule_overrides VALUES ($1, $2, $3, $4)",
            [
                (org, no, day, [minute for window in windows for minute in window])
                for no, coach in enumerate(coaches)
                for day, windows in coach.hours.overrides.items()
            ],
        )
        for number, (calendar_id, *minutes) in enumerate(calendars, 1):
            await connection.execute(
                "INSERT INTO calendars (org_id, calendar_no, calendar_id, name, slot_duration, slot_interval,"
                " buffer_before, buffer_after, min_notice_minutes, max_days_ahead)"
                " VALUES ($1, $2, $3, $3, $4, $5, $6, $7, 0, 366)",
                *(org, number, calendar_id, *map(int, minutes)),
            )
            await connection.executemany(
                "INSERT INTO calendar_coaches VALUES ($1, $2, $3)", [(org, number, no) for no in range(len(coaches))]
            )
    return org


def days_around(moves: Sequence[Move]) -> list[date]:
    """The UTC dates of moves and those beside them, in order: on these lie the local dates of the moves."""
    return sorted({move.instant.date() + timedelta(days=n) for move in moves for n in (-1, 0, 1)})
