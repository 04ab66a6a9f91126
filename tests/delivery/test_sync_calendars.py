"""Working time that the external calendar does not offer is closed, our own excepted, and opens when it does again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web

from service.domain.calendar import Roster
from service.domain.grid import day_of, instant_of
from service.domain.schedule import Week, WeeklySchedule, Window
from service.mocks.calendar import build_calendar
from service.mocks.chance import Behaviour
from service.mocks.server import serving
from service.operations import sync_calendars
from service.operations.local_rates import RateSeen
from service.operations.sync_calendars import busy_periods
from service.outside.breaker import Breaker
from service.outside.calendar_api import Availability, CalendarSettings, OfferedSlot
from tests.delivery.bench import NOWHERE, Bench, answering
from tests.wishes import caller, wish

NEW_YORK = ZoneInfo("America/New_York")
HALF_HOUR = timedelta(minutes=30)
Period = tuple[datetime, datetime]


class Offering:
    """A calendar that offers 9 to 17 h on the weekdays asked for, except what overlaps `busy` of a coach."""

    def __init__(self) -> None:
        self.busy: dict[str, list[Period]] = {}
        self.blocked_dates: list[str] = []
        self.unknown: set[str] = set()
        self.silent: set[str] = set()
        self.fails = False
        self.asked: list[str] = []

    @property
    def app(self) -> web.Application:
        return answering(self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        coach_id = request.path.split("/")[2]
        self.asked.append(coach_id)
        if self.fails or coach_id in self.silent:
            return web.json_response({"error": "down", "retry_after": 0}, status=503)
        if coach_id in self.unknown:
            return web.json_response({"error": "no such coach"}, status=404)
        if request.path.endswith("/settings"):
            return web.json_response({"blocked_dates": self.blocked_dates})
        slots = [
            {"start_time": start.isoformat(), "end_time": (start + HALF_HOUR).isoformat(), "available": True}
            for start in starts(int(request.query["days"]))
            if all(start + HALF_HOUR <= a or start >= b for a, b in self.busy.get(coach_id, []))
        ]
        return web.json_response({"timezone": "America/New_York", "slots": slots})


def starts(days: int) -> Iterator[datetime]:
    """Every quarter of an hour at which half an hour fits into 9 to 17 h of a weekday, from today."""
    today = datetime.now(NEW_YORK).date()
    for day in (today + timedelta(days=n) for n in range(days)):
        for quarter in range(0 if day.weekday() < 5 else 31, 31):
            yield at(day, 9) + quarter * timedelta(minutes=15)


def at(day: date, hour: float) -> datetime:
    """A time of a New York day."""
    return datetime(day.year, day.month, day.day, int(hour), round(hour % 1 * 60), tzinfo=NEW_YORK).astimezone(UTC)


def a_working_day(after: int = 2) -> date:
    """A weekday at least `after` days from today."""
    day = datetime.now(NEW_YORK).date() + timedelta(days=after)
    return day + timedelta(days=max(0, 7 - day.weekday()) if day.weekday() >= 5 else 0)


async def free_of(bench: Bench, coach_id: str, day: date) -> list[datetime]:
    """The coach's free half hours of a local day."""
    s = bench.services
    roster: Roster = await s.rosters.get(bench.org)
    free = await s.availability(
        roster, roster.calendar("cal-1"), roster.coach(coach_id), at(day, 0), at(day + timedelta(days=1), 0)
    )
    return [instant_of(cell) for cell, _ in free.rows]


async def test_busy_time_elsewhere_closes_the_grid_and_opens_it_again(bench: Bench) -> None:
    day, offering = a_working_day(), Offering()
    await bench.services.keeper.fill(bench.org)
    before = await free_of(bench, "coach-1", day)
    assert len(before) == 31
    async with serving(offering.app) as url:
        sync = bench.sync(url)
        assert await sync() == 0
        offering.busy["coach-1"] = [(at(day, 11), at(day, 12.5))]
        assert await sync() == 1
        closed = await free_of(bench, "coach-1", day)
        assert set(before) - set(closed) == {at(day, 10.75) + n * timedelta(minutes=15) for n in range(7)}
        assert len(await free_of(bench, "coach-2", day)) == 31
        rows = await bench.sql("SELECT starts_at, ends_at FROM external_busy")
        assert [tuple(row) for row in rows] == [(at(day, 11), at(day, 12.5))]

        # Same beginning, other end.
        offering.busy["coach-1"] = [(at(day, 11), at(day, 12))]
        assert await sync() == 1
        assert len(await free_of(bench, "coach-1", day)) == len(closed) + 2
        offering.busy.clear()
        assert await sync() == 1
        assert await free_of(bench, "coach-1", day) == before
    assert await bench.sql("SELECT * FROM external_busy") == []


async def test_our_own_appointments_are_not_busy_time(bench: Bench) -> None:
    offering = Offering()
    async with serving(offering.app) as url:
        start = at(a_working_day(), 11)
        end = start + HALF_HOUR
        await bench.services.book(wish(start, coach_id="coach-1"), caller(bench.org), RateSeen())
        offering.busy["coach-1"] = [(start, end + timedelta(hours=1))]
        await bench.sync(url)()
        rows = await bench.sql("SELECT starts_at, ends_at FROM external_busy")
    assert [tuple(row) for row in rows] == [(end, end + timedelta(hours=1))]


async def test_a_calendar_that_fails_leaves_the_last_known_busy_times(bench: Bench) -> None:
    day, offering = a_working_day(), Offering()
    await bench.services.keeper.fill(bench.org)
    async with serving(offering.app) as url:
        sync = bench.sync(url)
        offering.busy["coach-1"] = [(at(day, 11), at(day, 12))]
        await sync()
        known = await free_of(bench, "coach-1", day)
        assert len(known) < 31
        offering.busy.clear()
        offering.fails = True
        assert await sync() == 0
        assert await free_of(bench, "coach-1", day) == known
        offering.fails = False
        assert await sync() == 1
    assert await bench.sync(NOWHERE)() == 0
    value = bench.services.metrics.registry.get_sample_value
    assert (value("booking_calendar_fetches_total", {"outcome": "failed"}) or 0) >= 6
    assert value("booking_calendar_fetches_total", {"outcome": "fetched"}) == 12


async def test_a_coach_who_is_away_to_the_end_stays_away_while_others_cannot_be_fetched(bench: Bench) -> None:
    day, offering = a_working_day(after=14), Offering()
    await bench.services.keeper.fill(bench.org)
    offering.busy["coach-1"] = [(at(day, 0), at(day, 0) + timedelta(days=60))]
    async with serving(offering.app) as url:
        sync = bench.sync(url)
        assert await sync() == 1
        assert await free_of(bench, "coach-1", day) == []
        offering.silent = {f"coach-{n}" for n in range(2, 7)}
        assert await sync() == 0
    assert await free_of(bench, "coach-1", day) == []


async def test_a_round_that_has_had_its_time_is_gone_on_with(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_calendars, "TOGETHER", 2)
    offering, rounds = Offering(), list[list[str]]()
    async with serving(offering.app) as url:
        for _ in range(4):
            offering.asked.clear()
            await bench.sync(url, within_s=0)()  # each as a process of its own
            rounds.append(sorted(set(offering.asked)))
        offering.asked.clear()
        await bench.sync(url)()
    assert rounds == [[f"coach-{n}", f"coach-{n + 1}"] for n in (1, 3, 5, 1)]
    # The four that are left, and then all, once each: availability and settings.
    assert sorted(offering.asked) == sorted(2 * [f"coach-{n}" for n in (3, 4, 5, 6, 1, 2, 3, 4, 5, 6)])


async def test_no_more_answers_are_kept_than_coaches_are_taken_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_calendars, "TOGETHER", 2)
    offering, busy, kept, applied = Offering(), bench.services.busy, list[int](), 0
    replace = busy.replace

    async def noted(*given: Any) -> Any:
        nonlocal applied
        kept.append(len(set(offering.asked)) - applied)
        found = await replace(*given)
        applied += 1
        return found

    monkeypatch.setattr(busy, "replace", noted)
    async with serving(offering.app) as url:
        await bench.sync(url)()
    assert (len(kept), max(kept)) == (6, 2)


async def test_a_coach_who_is_away_to_the_end_is_closed_when_one_of_a_later_part_is_offered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_calendars, "TOGETHER", 2)
    day, offering = a_working_day(after=14), Offering()
    await bench.services.keeper.fill(bench.org)
    for coach_id in ("coach-1", "coach-2"):
        offering.busy[coach_id] = [(at(day, 0), at(day, 0) + timedelta(days=60))]
    async with serving(offering.app) as url:
        await bench.sync(url)()
    assert await free_of(bench, "coach-1", day) == []
    assert len(await free_of(bench, "coach-3", day)) == 31


async def test_a_calendar_that_was_left_alone_is_asked_for_all_once_it_answers_for_one(bench: Bench) -> None:
    offering = Offering()
    async with serving(offering.app) as url:
        sync = bench.sync(url)
        breaker = Breaker(failures=1, pause_s=60.0)
        sync._breaker = breaker
        breaker.failed()
        await sync()
        assert offering.asked == []
        breaker._closed_off_until = 0.0
        await sync()
    assert set(offering.asked) == {f"coach-{n}" for n in range(1, 7)}


async def test_a_coach_the_calendar_does_not_know_is_not_busy_elsewhere(bench: Bench) -> None:
    day, offering = a_working_day(), Offering()
    async with serving(offering.app) as url:
        sync = bench.sync(url)
        offering.busy["coach-1"] = [(at(day, 9), at(day, 17))]
        assert await sync() == 1
        assert await free_of(bench, "coach-1", day) == []
        offering.unknown.add("coach-1")
        assert await sync() == 1
    assert len(await free_of(bench, "coach-1", day)) == 31


async def test_a_blocked_date_closes_the_whole_local_day(bench: Bench) -> None:
    day, offering = a_working_day(), Offering()
    offering.blocked_dates = [day.isoformat()]
    async with serving(offering.app) as url:
        assert await bench.sync(url)() == 6
    assert await free_of(bench, "coach-3", day) == []
    other = a_working_day(after=9)
    assert len(await free_of(bench, "coach-3", other)) == 31


async def test_a_grid_that_missed_a_change_is_compared_at_the_first_round(bench: Bench) -> None:
    day, offering = a_working_day(), Offering()
    await bench.services.keeper.fill(bench.org)
    offering.busy["coach-1"] = [(at(day, 9), at(day, 17))]
    # As a crash between the two writes leaves it: Postgres knows, the grid does not.
    async with serving(offering.app) as url:
        roster = await bench.services.rosters.get(bench.org)
        column = roster.coach("coach-1").column
        await bench.services.busy.replace(bench.org, column, at(day, 9), at(day, 17), [(at(day, 9), at(day, 17))])
        assert len(await free_of(bench, "coach-1", day)) == 31
        assert await bench.sync(url)() == 0
    assert await free_of(bench, "coach-1", day) == []


async def test_the_mocks_missing_starts_close_only_what_no_slot_covers(bench: Bench) -> None:
    day = a_working_day()
    async with serving(build_calendar(Behaviour(seed=5, failure_rate=0, delay_scale=0, frozen=True))) as url:
        await bench.sync(url)()
        offered = await bench.get(f"{url}/coaches/coach-1/availability?days=31")
    covered = {
        datetime.fromisoformat(slot["start_time"]) + n * timedelta(minutes=5)
        for slot in offered["slots"]
        for n in range(6)
    }
    free = await free_of(bench, "coach-1", day)
    assert free == [
        start
        for start in (at(day, 9) + n * timedelta(minutes=15) for n in range(31))
        if all(start + n * timedelta(minutes=5) in covered for n in range(6))
    ]
    assert 0 < len(free) < 31


# The rule by itself: a coach that works 9 to 17 h UTC every day, asked on a Monday at 12 h for three days.
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
WORKED = (Window(540, 1020),)
WEEK: Week = (WORKED, WORKED, WORKED, WORKED, WORKED, WORKED, WORKED)
DAYS = range(day_of(MONDAY) - 1, day_of(MONDAY) + 10)


def hours(day: int, start: float, end: float) -> Period:
    """A period of the n-th day from Monday."""
    return MONDAY + timedelta(days=day, hours=start), MONDAY + timedelta(days=day, hours=end)


def busy(offered: list[Period], **more: Any) -> list[Period]:
    """The rule's answer."""
    settings: dict[str, Any] = {
        "settings": CalendarSettings(),
        "schedule": WeeklySchedule(timezone="UTC", weekly=WEEK),
        "ours": [],
        "now": MONDAY + timedelta(hours=12),
        "days": DAYS,
        "asked_days": 3,
        "last_offered": max((start for start, _ in offered), default=None),
    }
    slots = tuple(OfferedSlot(start, end) for start, end in offered)
    arguments = {**settings, **more}
    return busy_periods(
        Availability(slots), arguments.pop("settings"), arguments.pop("schedule"), arguments.pop("ours"), **arguments
    )


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        pytest.param([hours(n, 9, 17) for n in range(3)], [], id="all of it offered"),
        pytest.param([hours(0, 9, 12), hours(0, 11, 17)], [], id="slots that overlap leave no gap"),
        pytest.param([hours(0, 9, 12), hours(0, 13, 17)], [hours(0, 12, 13)], id="a gap"),
        pytest.param([hours(0, 8, 10), hours(0, 16, 20)], [hours(0, 10, 16)], id="only working time is busy"),
        pytest.param([hours(0, 9, 17), hours(2, 9, 17)], [hours(1, 9, 17)], id="a day between"),
        pytest.param([hours(0, 9, 17)], [], id="no word about the days after the last one offered"),
        pytest.param([], [hours(n, 9, 17) for n in range(3)], id="nothing offered in the three days asked for"),
        pytest.param(
            [hours(n, 9, 17) for n in range(1, 5)], [hours(0, 9, 17)], id="today is answered for though nothing is left"
        ),
        pytest.param(
            [hours(0, 9, 12.02), hours(0, 13.02, 17)],
            [(hours(0, 12, 13)[0], hours(0, 12, 13)[1] + timedelta(minutes=5))],
            id="a cell that is offered in part is busy",
        ),
    ],
)
def test_busy_is_working_time_that_is_not_offered(offered: list[Period], expected: list[Period]) -> None:
    assert busy(offered) == expected


def test_the_span_ends_with_the_last_slot_offered_of_any_coach() -> None:
    assert busy([hours(0, 9, 17)], last_offered=hours(1, 9, 10)[0]) == [hours(1, 9, 17)]


def test_what_is_said_of_far_years_does_not_matter() -> None:
    offered = [hours(n, 9, 17) for n in (0, 2)]
    settings = CalendarSettings(blocked_dates=(date(1, 1, 1), date(2026, 3, 4), date(9999, 12, 31)))
    far = datetime(9999, 12, 31, 23, 30, tzinfo=UTC)
    assert busy(offered, settings=settings, last_offered=far) == [hours(1, 9, 17), hours(2, 9, 17)]
    assert busy([*offered, (far, far + timedelta(minutes=15))]) == [hours(1, 9, 17)]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_slots_of_before_today_alone_are_no_word_about_any_day(zone: str) -> None:
    """The year 1 is what some write where there is no time."""
    for instant in (datetime(1, 1, 1, tzinfo=UTC), MONDAY - timedelta(days=2)):
        availability = Availability((OfferedSlot(instant, instant),), timezone=zone)
        schedule = WeeklySchedule(timezone="UTC", weekly=WEEK)
        now = MONDAY + timedelta(hours=12)
        found = busy_periods(availability, None, schedule, [], now=now, days=DAYS, asked_days=3, last_offered=instant)
        assert found == []


def test_our_own_time_is_cut_out() -> None:
    assert busy([hours(0, 9, 10)], ours=[hours(0, 11, 11.5)]) == [hours(0, 10, 11), hours(0, 11.5, 17)]


def test_blocked_dates_are_dates_of_the_calendars_zone() -> None:
    settings = CalendarSettings(blocked_dates=(date(2026, 3, 3),), timezone="Asia/Tokyo")
    offered = [hours(n, 9, 17) for n in range(3)]
    # The third of March in Tokyo ends at 15 h UTC.
    assert busy(offered, settings=settings) == [hours(0, 15, 17), hours(1, 9, 15)]


def test_slots_that_are_not_available_are_not_offered() -> None:
    slots = (OfferedSlot(*hours(0, 9, 12)), OfferedSlot(*hours(0, 12, 17), available=False))
    found = busy_periods(
        Availability(slots),
        None,
        WeeklySchedule(timezone="UTC", weekly=WEEK),
        [],
        now=MONDAY,
        days=DAYS,
        asked_days=1,
        last_offered=MONDAY,
    )
    assert found == [hours(0, 12, 17)]
