"""Promise: a wall time means one instant or is refused, local days tile time without a gap or an overlap, and
the start grid follows the wall clock, in every IANA zone and on the days that move its clocks."""

# ruff: noqa: DTZ001 - a wall time has no offset, that is what is tested here

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.zones import (
    aligned,
    aligned_cells,
    aligned_day,
    day_bounds,
    local_date,
    run,
    stretches,
    wall_to_instant,
    zone,
    zone_names,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CELL = timedelta(minutes=5)
YEARS = 3
# Offsets of 30 and 45 minutes, a shift of 30 minutes and one of two hours, clocks moved at midnight.
ODD_ZONES = (
    "Africa/Cairo",
    "America/Asuncion",
    "America/Havana",
    "America/New_York",
    "America/Nuuk",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
)
names = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(zone_names()))
instants = st.datetimes(datetime(2020, 1, 1), datetime(2040, 12, 31), timezones=st.just(UTC))
intervals = st.integers(1, 288).map(lambda cells: cells * 5)


def day_number(day: date) -> int:
    return day.toordinal() - EPOCH.toordinal()


def bits(cells: int) -> list[bool]:
    return [digit == "1" for digit in f"{cells:0288b}"]


def clock_changes() -> list[tuple[ZoneInfo, datetime, timedelta]]:
    """(zone, noon UTC, by how much) for each clock moved within the 24 hours after it in the coming years."""
    first = datetime.combine(datetime.now(UTC).date(), time(12), UTC)
    week = timedelta(days=7)
    changes: list[tuple[ZoneInfo, datetime, timedelta]] = []
    for name in sorted(zone_names()):
        there = ZoneInfo(name)
        offsets = [(first + week * n).astimezone(there).utcoffset() for n in range(YEARS * 53)]
        for n, (before, after) in enumerate(pairwise(offsets)):
            if before == after:
                continue
            for noon in (first + week * n + timedelta(days=d) for d in range(7)):
                one = noon.astimezone(there).utcoffset()
                other = (noon + timedelta(days=1)).astimezone(there).utcoffset()
                if one is not None and other is not None and one != other:
                    changes.append((there, noon, other - one))
    return changes


def test_every_iana_name_and_link_is_a_zone() -> None:
    assert zone("Europe/Berlin").key == "Europe/Berlin"
    assert zone("US/Eastern").key == "US/Eastern"
    assert zone("UTC").key == "UTC"
    assert available_timezones() - zone_names() <= {"localtime", "posixrules", "Factory"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "europe/berlin",
        "Europe/Berlin ",
        "Europe",
        "localtime",
        "Factory",
        "posixrules",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
        "/etc/localtime",
        "../zoneinfo/UTC",
        "Europe/../UTC",
        "UTC\0",
        "x" * 10_000,
    ],
)
def test_anything_else_is_refused_as_a_zone(name: str) -> None:
    with pytest.raises(ValueError, match="is not an IANA time zone") as refused:
        zone(name)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("name", "wall"),
    [
        ("America/New_York", datetime(2026, 3, 8, 2, 0)),
        ("America/New_York", datetime(2026, 3, 8, 2, 59)),
        ("Australia/Lord_Howe", datetime(2026, 10, 4, 2, 15)),
        ("Asia/Beirut", datetime(2026, 3, 29, 0, 0)),
        ("Africa/Cairo", datetime(2026, 4, 24, 0, 30)),
        ("Antarctica/Troll", datetime(2026, 3, 29, 2, 30)),
        ("Pacific/Apia", datetime(2011, 12, 30, 12, 0)),
    ],
)
def test_a_wall_time_the_clocks_skip_does_not_exist(name: str, wall: datetime) -> None:
    with pytest.raises(ValueError, match=f"does not exist in {name}"):
        wall_to_instant(wall, zone(name))


@pytest.mark.parametrize(
    ("name", "wall", "instant"),
    [
        ("America/New_York", datetime(2026, 3, 8, 3, 0), datetime(2026, 3, 8, 7, 0, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 1, 1, 30), datetime(2026, 11, 1, 5, 30, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 1, 1, 30, fold=1), datetime(2026, 11, 1, 5, 30, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, 1, 45), datetime(2026, 4, 4, 14, 45, tzinfo=UTC)),
        ("Asia/Beirut", datetime(2026, 10, 24, 23, 0), datetime(2026, 10, 24, 20, 0, tzinfo=UTC)),
        ("Asia/Kathmandu", datetime(2026, 6, 1, 9, 0), datetime(2026, 6, 1, 3, 15, tzinfo=UTC)),
    ],
)
def test_a_wall_time_shown_twice_means_the_first(name: str, wall: datetime, instant: datetime) -> None:
    assert wall_to_instant(wall, zone(name)) == instant


def test_a_time_with_an_offset_of_its_own_is_no_wall_time() -> None:
    with pytest.raises(ValueError, match="has an offset of its own"):
        wall_to_instant(datetime(2026, 1, 1, tzinfo=UTC), zone("UTC"))


@pytest.mark.parametrize("year", [1, 1969, 2200, 9999])
def test_years_nobody_plans_for_are_refused_not_an_overflow(year: int) -> None:
    with pytest.raises(ValueError, match="not in the years 1970 to 2199"):
        day_bounds(date(year, 12, 31), zone("Pacific/Kiritimati"))
    with pytest.raises(ValueError, match="not in the years 1970 to 2199"):
        wall_to_instant(datetime(year, 1, 1), zone("Pacific/Kiritimati"))


@settings(deadline=None)
@given(names, instants)
def test_a_wall_time_leads_back_to_an_instant_that_shows_it(name: str, instant: datetime) -> None:
    wall = instant.astimezone(ZoneInfo(name)).replace(tzinfo=None)
    found = wall_to_instant(wall, zone(name))
    assert found <= instant
    assert found.astimezone(ZoneInfo(name)).replace(tzinfo=None, fold=0) == wall.replace(fold=0)


def test_a_time_without_offset_is_no_instant() -> None:
    with pytest.raises(ValueError, match="has no offset"):
        local_date(datetime(2026, 1, 1), zone("UTC"))
    with pytest.raises(ValueError, match="has no offset"):
        aligned(datetime(2026, 1, 1), zone("UTC"), 15)


@pytest.mark.parametrize(
    ("name", "day", "start", "hours"),
    [
        ("America/New_York", date(2026, 7, 1), datetime(2026, 7, 1, 4, tzinfo=UTC), 24),
        ("America/New_York", date(2026, 3, 8), datetime(2026, 3, 8, 5, tzinfo=UTC), 23),
        ("America/New_York", date(2026, 11, 1), datetime(2026, 11, 1, 4, tzinfo=UTC), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), datetime(2026, 4, 4, 13, tzinfo=UTC), 24.5),
        ("Australia/Lord_Howe", date(2026, 10, 4), datetime(2026, 10, 3, 13, 30, tzinfo=UTC), 23.5),
        ("Antarctica/Troll", date(2026, 3, 29), datetime(2026, 3, 29, 0, tzinfo=UTC), 22),
        # No midnight: the day begins at 01:00.
        ("America/Asuncion", date(2023, 10, 1), datetime(2023, 10, 1, 4, tzinfo=UTC), 23),
        ("Asia/Beirut", date(2026, 3, 29), datetime(2026, 3, 28, 22, tzinfo=UTC), 23),
        ("Africa/Cairo", date(2026, 4, 24), datetime(2026, 4, 23, 22, tzinfo=UTC), 23),
        # The last hour before midnight twice.
        ("Asia/Beirut", date(2026, 10, 24), datetime(2026, 10, 23, 21, tzinfo=UTC), 25),
        ("Africa/Cairo", date(2026, 10, 29), datetime(2026, 10, 28, 21, tzinfo=UTC), 25),
        # A date that never was.
        ("Pacific/Apia", date(2011, 12, 30), datetime(2011, 12, 30, 10, tzinfo=UTC), 0),
        ("Pacific/Apia", date(2011, 12, 29), datetime(2011, 12, 29, 10, tzinfo=UTC), 24),
        ("Pacific/Apia", date(2011, 12, 31), datetime(2011, 12, 30, 10, tzinfo=UTC), 24),
    ],
)
def test_a_local_day_lasts_as_long_as_its_clocks_make_it(name: str, day: date, start: datetime, hours: float) -> None:
    assert day_bounds(day, zone(name)) == (start, start + timedelta(hours=hours))


def test_local_days_tile_time_in_every_zone_around_each_clock_change_to_come() -> None:
    changes = clock_changes()
    assert len(changes) > 500
    for there, noon, by in changes:
        middle = local_date(noon + timedelta(hours=12), there)
        days = [middle + timedelta(days=n) for n in range(-2, 3)]
        bounds = [day_bounds(day, there) for day in days]
        for day, (start, end) in zip(days, bounds, strict=True):
            assert local_date(start, there) == day, (there, day)
            assert local_date(end - timedelta(seconds=1), there) == day, (there, day)
            assert local_date(start - timedelta(seconds=1), there) < day, (there, day)
        assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]], (there, middle)
        assert bounds[-1][1] - bounds[0][0] == timedelta(days=5) - by, (there, middle)


@settings(deadline=None)
@given(names, instants)
def test_an_instant_lies_within_its_local_day(name: str, instant: datetime) -> None:
    start, end = day_bounds(local_date(instant, zone(name)), zone(name))
    assert start <= instant < end


@pytest.mark.parametrize("interval", [*range(5, 65, 5), 90, 1440])
@pytest.mark.parametrize("name", ODD_ZONES)
def test_the_start_grid_is_counted_from_midnight_on_the_wall_clock(name: str, interval: int) -> None:
    there = ZoneInfo(name)
    for day in range(day_number(date(2026, 3, 6)), day_number(date(2026, 4, 7))):
        begin = EPOCH + timedelta(days=day)
        walls = [(begin + CELL * cell).astimezone(there) for cell in range(288)]
        expected = [(wall.hour * 60 + wall.minute) % interval == 0 for wall in walls]
        assert bits(aligned_cells(day, there, interval)) == expected, (name, begin, interval)


@settings(deadline=None)
@given(names, instants, intervals)
def test_one_start_and_the_day_of_starts_agree(name: str, instant: datetime, interval: int) -> None:
    midnight = datetime.combine(instant.date(), time(), UTC)
    cell = (instant - midnight) // CELL
    on_cell = midnight + CELL * cell
    starts = bits(aligned_cells(day_number(instant.date()), zone(name), interval))
    assert starts[cell] == aligned(on_cell, zone(name), interval)
    local_day = day_number(local_date(on_cell, zone(name)))
    assert aligned_day(on_cell, zone(name), interval) == (local_day if starts[cell] else None)
    assert not aligned(on_cell + timedelta(seconds=1), zone(name), interval)
    assert not aligned(on_cell + timedelta(microseconds=1), zone(name), interval)


def test_an_interval_that_does_not_divide_the_day_begins_anew_at_midnight() -> None:
    there = zone("UTC")
    assert aligned(datetime(2026, 1, 1, 23, 45, tzinfo=UTC), there, 75)
    assert aligned(datetime(2026, 1, 2, 0, 0, tzinfo=UTC), there, 75)
    assert not aligned(datetime(2026, 1, 2, 1, 0, tzinfo=UTC), there, 75)


@pytest.mark.parametrize("interval", [-15, 0, 4, 7, 1445])
def test_an_interval_off_the_grid_is_refused(interval: int) -> None:
    with pytest.raises(ValueError, match="minutes is no multiple of 5"):
        aligned(EPOCH, zone("UTC"), interval)
    with pytest.raises(ValueError, match="minutes is no multiple of 5"):
        aligned_cells(20_000, zone("UTC"), interval)


@given(st.integers(0, 288), st.integers(0, 288))
def test_a_run_sets_exactly_its_cells(one: int, other: int) -> None:
    first, end = sorted((one, other))
    assert bits(run(first, end)) == [first <= cell < end for cell in range(288)]


def test_stretches_cover_each_cell_once_and_say_which_date_it_shows() -> None:
    for there, noon, _ in clock_changes():
        for day in (day_number(noon.date()), day_number(noon.date()) + 1):
            covered = 0
            for stretch in stretches(day, there):
                assert not covered & stretch.cells
                covered |= stretch.cells
                first = 288 - stretch.cells.bit_length()
                wall = (EPOCH + timedelta(days=day) + CELL * first).astimezone(there)
                assert (wall.date(), wall.weekday()) == (stretch.local_day, stretch.weekday)
                assert wall.hour * 12 + wall.minute // 5 == first - stretch.shift
            assert covered == run(0, 288), (there, day)


def test_a_cell_in_which_the_clock_is_moved_belongs_to_no_stretch() -> None:
    # Casey station went from 00:01 to 03:01 at 16:01 UTC.
    covered = 0
    for stretch in stretches(day_number(date(2020, 10, 3)), zone("Antarctica/Casey")):
        covered |= stretch.cells
    assert covered == run(0, 288) & ~run(192, 193)


def test_an_offset_that_is_no_whole_number_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="Africa/Monrovia is not whole cells away from UTC"):
        stretches(day_number(date(1971, 1, 1)), zone("Africa/Monrovia"))
