"""Promise: a coach is open exactly in the working hours of its wall clock. What a clock change skips is not
offered, what it repeats is offered once, and no cell touched by time off is open."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.schedule import DayWindows, Week, WeeklySchedule, Window, open_cells, parse_windows
from service.domain.zones import zone_names

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CELL = timedelta(minutes=5)
YEARS = 3
ALL_DAY = (Window(0, 1440),)
FULL = (1 << 288) - 1
ODD_ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Asuncion",
    "America/Havana",
    "America/New_York",
    "America/Nuuk",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
)


def day_number(day: date) -> int:
    return day.toordinal() - EPOCH.toordinal()


def bits(cells: int) -> list[bool]:
    return [digit == "1" for digit in f"{cells:0288b}"]


def week(*days: DayWindows) -> Week:
    """The given days from Monday on, the rest closed."""
    monday, tuesday, wednesday, thursday, friday, saturday, sunday = (*days, *((),) * (7 - len(days)))
    return (monday, tuesday, wednesday, thursday, friday, saturday, sunday)


def only_on(day: date, windows: DayWindows, timezone: str) -> WeeklySchedule:
    return WeeklySchedule(timezone, week(), {day: windows})


def hours(schedule: WeeklySchedule, around: date) -> list[tuple[str, str]]:
    """The open runs of the UTC days around a date, as UTC times `DDTHH:MM`: cells read one at a time."""
    runs: list[tuple[str, str]] = []
    start: datetime | None = None
    first = day_number(around) - 1
    for cell in range(first * 288, (first + 3) * 288 + 1):
        day, index = divmod(cell, 288)
        is_open = day < first + 3 and bool(open_cells(schedule, day) & (1 << (287 - index)))
        instant = EPOCH + cell * CELL
        if is_open and start is None:
            start = instant
        elif not is_open and start is not None:
            runs.append((f"{start:%dT%H:%M}", f"{instant:%dT%H:%M}"))
            start = None
    return runs


def slow_open_cells(schedule: WeeklySchedule, day: int, closed: Sequence[tuple[datetime, datetime]] = ()) -> list[bool]:
    """Each cell by itself: read the clock at its first and last minute, remember what was shown before."""
    there = ZoneInfo(schedule.timezone)
    begin = EPOCH + timedelta(days=day)
    shown: set[datetime] = set()
    answer: list[bool] = []
    for cell in range(-288, 288):
        instant = begin + CELL * cell
        wall = instant.astimezone(there).replace(tzinfo=None, fold=0)
        last = (instant + timedelta(minutes=4)).astimezone(there).replace(tzinfo=None, fold=0)
        repeated = wall in shown
        shown.add(wall)
        if cell < 0:
            continue
        windows = schedule.overrides.get(wall.date(), schedule.weekly[wall.weekday()])
        within = any(
            window.start_minute <= wall.hour * 60 + wall.minute and last.hour * 60 + last.minute < window.end_minute
            for window in windows
        )
        touched = any(start < end and start < instant + CELL and instant < end for start, end in closed)
        answer.append(within and not repeated and not touched)
    return answer


def clock_changes() -> list[tuple[str, datetime, timedelta]]:
    """(zone, noon UTC, by how much) for each clock moved within the 24 hours after it in the coming years."""
    first = datetime.combine(datetime.now(UTC).date(), time(12), UTC)
    days = timedelta(days=7)
    changes: list[tuple[str, datetime, timedelta]] = []
    for name in sorted(zone_names()):
        there = ZoneInfo(name)
        offsets = [(first + days * n).astimezone(there).utcoffset() for n in range(YEARS * 53)]
        for n, (before, after) in enumerate(pairwise(offsets)):
            if before == after:
                continue
            for noon in (first + days * n + timedelta(days=d) for d in range(7)):
                one = noon.astimezone(there).utcoffset()
                other = (noon + timedelta(days=1)).astimezone(there).utcoffset()
                if one is not None and other is not None and one != other:
                    changes.append((name, noon, other - one))
    return changes


@st.composite
def day_windows(draw: st.DrawFn) -> DayWindows:
    """Up to three windows of a day, touching ones and whole days among them."""
    edges = sorted(draw(st.sets(st.integers(0, 288), max_size=6)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    windows = [Window(start * 5, end * 5) for start, end in pairs]
    if draw(st.booleans()):
        windows += [Window(a.end_minute, b.start_minute) for a, b in pairwise(windows)]
    return tuple(sorted(windows))


names = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(zone_names()))
weeks = st.tuples(*[day_windows()] * 7)
CHANGES = st.deferred(lambda: st.sampled_from(clock_changes()))


@st.composite
def closed_ranges(draw: st.DrawFn, day: int) -> list[tuple[datetime, datetime]]:
    """Ranges in, across and beside a UTC day, to the second, short and long, also empty ones."""
    begin = EPOCH + timedelta(days=day)
    ranges: list[tuple[datetime, datetime]] = []
    for _ in range(draw(st.integers(0, 4))):
        start = begin + timedelta(seconds=draw(st.integers(-90_000, 180_000)))
        length = draw(st.sampled_from((0, 1, 299, 300, 301, 3600)) | st.integers(0, 200_000))
        ranges.append((start, start + timedelta(seconds=length)))
    return ranges


@given(st.data(), names, weeks, st.dates(date(2020, 1, 1), date(2040, 12, 31)))
@settings(max_examples=250, deadline=None)
def test_open_cells_are_those_found_one_by_one(st_data: st.DataObject, name: str, weekly: Week, on: date) -> None:
    overrides = st_data.draw(
        st.dictionaries(st.integers(-2, 2).map(lambda n: on + timedelta(days=n)), day_windows(), max_size=3)
    )
    closed = st_data.draw(closed_ranges(day_number(on)))
    schedule = WeeklySchedule(name, weekly, overrides)
    expected = slow_open_cells(schedule, day_number(on), closed)
    assert bits(open_cells(schedule, day_number(on), closed=closed)) == expected


@given(CHANGES, weeks, st.integers(0, 1))
@settings(max_examples=250, deadline=None)
def test_open_cells_are_those_found_one_by_one_where_clocks_are_moved(
    change: tuple[str, datetime, timedelta], weekly: Week, later: int
) -> None:
    name, noon, _ = change
    schedule = WeeklySchedule(name, weekly)
    day = day_number(noon.date()) + later
    assert bits(open_cells(schedule, day)) == slow_open_cells(schedule, day)


def test_hours_offered_are_hours_configured_in_every_zone_on_each_clock_change_to_come() -> None:
    changes = clock_changes()
    assert len(changes) > 500
    for name, noon, by in changes:
        middle = (noon + timedelta(hours=12)).astimezone(ZoneInfo(name)).date()
        dates = [middle + timedelta(days=n) for n in range(-1, 2)]
        schedule = WeeklySchedule(name, week(), dict.fromkeys(dates, ALL_DAY))
        first = day_number(dates[0]) - 1
        offered = sum(open_cells(schedule, day).bit_count() for day in range(first, first + 5))
        skipped = max(by, timedelta()) // CELL
        assert offered == 3 * 288 - skipped, (name, noon, by)


@pytest.mark.parametrize(
    ("name", "on", "window", "expected"),
    [
        # 02:00–03:00 is skipped: two hours of three remain.
        ("America/New_York", date(2026, 3, 8), ("01:00", "04:00"), [("08T06:00", "08T08:00")]),
        ("America/New_York", date(2026, 3, 8), ("02:00", "03:00"), []),
        ("America/New_York", date(2026, 3, 8), ("09:00", "17:00"), [("08T13:00", "08T21:00")]),
        # 01:00–02:00 comes twice: the first is offered, the second is a hole in what covers it.
        ("America/New_York", date(2026, 11, 1), ("01:00", "02:00"), [("01T05:00", "01T06:00")]),
        (
            "America/New_York",
            date(2026, 11, 1),
            ("00:00", "03:00"),
            [("01T04:00", "01T06:00"), ("01T07:00", "01T08:00")],
        ),
        ("America/New_York", date(2026, 11, 1), ("09:00", "17:00"), [("01T14:00", "01T22:00")]),
        # Half an hour twice, half an hour skipped.
        (
            "Australia/Lord_Howe",
            date(2026, 4, 5),
            ("01:00", "02:30"),
            [("04T14:00", "04T15:00"), ("04T15:30", "04T16:00")],
        ),
        ("Australia/Lord_Howe", date(2026, 10, 4), ("01:30", "03:00"), [("03T15:00", "03T16:00")]),
        # Midnight is skipped; the hour before midnight comes twice.
        ("Asia/Beirut", date(2026, 3, 29), ("00:00", "02:00"), [("28T22:00", "28T23:00")]),
        ("Africa/Cairo", date(2026, 4, 24), ("00:00", "01:00"), []),
        ("Asia/Beirut", date(2026, 10, 24), ("22:00", "24:00"), [("24T19:00", "24T21:00")]),
        ("Asia/Beirut", date(2026, 10, 25), ("00:00", "01:00"), [("24T22:00", "24T23:00")]),
        # A date that never was.
        ("Pacific/Apia", date(2011, 12, 30), ("00:00", "24:00"), []),
        ("Pacific/Apia", date(2011, 12, 31), ("00:00", "01:00"), [("30T10:00", "30T11:00")]),
        # Offsets of three quarters of an hour, across a midnight of UTC, the far ends of the world.
        ("Asia/Kathmandu", date(2026, 6, 1), ("05:00", "06:00"), [("31T23:15", "01T00:15")]),
        ("America/Los_Angeles", date(2026, 6, 1), ("16:30", "17:30"), [("01T23:30", "02T00:30")]),
        ("Pacific/Kiritimati", date(2026, 6, 2), ("00:00", "24:00"), [("01T10:00", "02T10:00")]),
        ("Pacific/Pago_Pago", date(2026, 6, 1), ("13:00", "24:00"), [("02T00:00", "02T11:00")]),
    ],
)
def test_a_window_is_hours_on_the_wall_clock(
    name: str, on: date, window: tuple[str, str], expected: list[tuple[str, str]]
) -> None:
    assert hours(only_on(on, parse_windows([window]), name), on) == expected


def test_the_first_cell_of_the_day_is_the_most_significant_bit() -> None:
    day = day_number(date(2026, 6, 1))
    schedule = only_on(date(2026, 6, 1), parse_windows([("00:00", "00:05")]), "UTC")
    assert open_cells(schedule, day) == 1 << 287
    assert open_cells(only_on(date(2026, 6, 1), parse_windows([("23:55", "24:00")]), "UTC"), day) == 1


def test_the_week_begins_on_monday() -> None:
    monday = date(2026, 6, 1)
    schedule = WeeklySchedule("UTC", week(parse_windows([("09:00", "10:00")])))
    open_days = [n for n in range(14) if open_cells(schedule, day_number(monday) + n)]
    assert open_days == [0, 7]


def test_an_override_replaces_its_own_local_date_only() -> None:
    workdays = parse_windows([("09:00", "12:00")])
    monday = date(2026, 6, 1)
    overrides = {monday: parse_windows([("10:00", "11:00")]), monday + timedelta(days=1): ()}
    schedule = WeeklySchedule("Asia/Tokyo", week(*[workdays] * 5), overrides)
    # Tokyo is nine hours ahead: Monday to Wednesday.
    assert hours(schedule, date(2026, 6, 2)) == [("01T01:00", "01T02:00"), ("03T00:00", "03T03:00")]


def test_an_override_counts_by_the_local_date_not_the_date_of_utc() -> None:
    schedule = only_on(date(2026, 6, 2), ALL_DAY, "Pacific/Auckland")
    assert hours(schedule, date(2026, 6, 2)) == [("01T12:00", "02T12:00")]


@pytest.mark.parametrize(
    ("start", "end", "cells"),
    [
        ("10:00:00", "10:05:00", {120}),
        ("10:00:00", "10:00:01", {120}),
        ("10:04:59", "10:05:00", {120}),
        ("10:02:30", "10:07:30", {120, 121}),
        ("10:05:00", "10:05:00", set[int]()),
        ("00:00:00", "00:00:01", {0}),
        ("23:59:59", "23:59:59", set[int]()),
        ("23:57:00", "23:59:59", {287}),
    ],
)
def test_a_cell_that_time_off_only_touches_is_closed_whole(start: str, end: str, cells: set[int]) -> None:
    on = date(2026, 6, 1)
    closed = [tuple(datetime.combine(on, time.fromisoformat(text), UTC) for text in (start, end))]
    schedule = only_on(on, ALL_DAY, "UTC")
    kept = bits(open_cells(schedule, day_number(on), closed=[(first, last) for first, last in closed]))
    assert {index for index, is_open in enumerate(kept) if not is_open} == cells


def test_time_off_of_other_days_or_zones_closes_only_what_it_covers() -> None:
    on, day = date(2026, 6, 1), day_number(date(2026, 6, 1))
    midnight = datetime.combine(on, time(), UTC)
    schedule = only_on(on, ALL_DAY, "UTC")
    beside = [
        (midnight - timedelta(days=2), midnight),
        (midnight + timedelta(days=1), midnight + timedelta(9)),
    ]
    assert open_cells(schedule, day, closed=beside) == FULL
    assert open_cells(schedule, day, closed=[(midnight - CELL, midnight + timedelta(days=9))]) == 0
    noon = datetime(2026, 6, 1, 12, tzinfo=ZoneInfo("America/New_York"))
    kept = open_cells(schedule, day, closed=[(noon, noon + timedelta(hours=1))])
    assert FULL & ~kept == ((1 << 12) - 1) << (288 - 17 * 12)


def test_time_off_that_ends_before_it_starts_is_refused() -> None:
    on = date(2026, 6, 1)
    noon = datetime.combine(on, time(12), UTC)
    with pytest.raises(ValueError, match="ends before it starts"):
        open_cells(only_on(on, ALL_DAY, "UTC"), day_number(on), closed=[(noon, noon - CELL)])


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("9:00", "17:00", "start '9:00' is not a time HH:MM"),
        ("09:00", "17", "end '17' is not a time HH:MM"),
        ("09:00", "24:05", "end '24:05' is not a time HH:MM"),
        ("09:60", "17:00", "start '09:60' is not a time HH:MM"),
        ("-1:00", "17:00", "start '-1:00' is not a time HH:MM"),
        ("09:00\n", "17:00", r"start '09:00\\n' is not a time HH:MM"),
        ("٠٩:٠٠", "17:00", "start '٠٩:٠٠' is not a time HH:MM"),
        ("0٩:00", "17:00", "start '0٩:00' is not a time HH:MM"),
        ("", "17:00", "start '' is not a time HH:MM"),
        ("09:02", "17:00", "start 09:02 is not a multiple of 5 minutes"),
        ("09:00", "16:59", "end 16:59 is not a multiple of 5 minutes"),
        ("24:00", "24:00", "start 24:00 is not allowed, only an end may be 24:00"),
        ("17:00", "09:00", "end 09:00 is not after start 17:00"),
        ("09:00", "09:00", "end 09:00 is not after start 09:00"),
        ("22:00", "00:00", "end 00:00 is not after start 22:00"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused_saying_why(start: str, end: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Window.parse(start, end)


def test_a_refusal_does_not_repeat_a_long_text() -> None:
    with pytest.raises(ValueError, match="is not a time HH:MM") as refused:
        Window.parse("9" * 10_000, "17:00")
    assert len(str(refused.value)) < 100


def test_a_window_made_of_minutes_keeps_the_same_rules() -> None:
    assert Window.parse("00:00", "24:00") == Window(0, 1440)
    for start, end in ((-5, 60), (0, 1445), (3, 60), (1440, 1440), (60, 60)):
        with pytest.raises(ValueError, match=r"^(start|end) "):
            Window(start, end)


def test_windows_are_put_in_order_and_may_touch() -> None:
    assert parse_windows([("13:00", "17:00"), ("09:00", "12:00"), ("12:00", "13:00")]) == (
        Window(540, 720),
        Window(720, 780),
        Window(780, 1020),
    )


@pytest.mark.parametrize(
    "pairs",
    [
        [("09:00", "12:00"), ("11:55", "13:00")],
        [("11:55", "13:00"), ("09:00", "12:00")],
        [("09:00", "12:00"), ("09:00", "12:00")],
    ],
)
def test_windows_that_overlap_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"^windows 09:00–12:00 and .* overlap$"):
        parse_windows(pairs)


def test_a_schedule_refuses_unknown_zones_and_overlapping_windows() -> None:
    overlapping = (Window(0, 60), Window(30, 90))
    with pytest.raises(ValueError, match="'Mars/Olympus' is not an IANA time zone"):
        WeeklySchedule("Mars/Olympus", week())
    with pytest.raises(ValueError, match="windows 00:00–01:00 and 00:30–01:30 overlap"):
        WeeklySchedule("UTC", week((), overlapping))
    with pytest.raises(ValueError, match="windows 00:00–01:00 and 00:30–01:30 overlap"):
        WeeklySchedule("UTC", week(), {date(2026, 12, 25): overlapping})


def test_windows_of_a_schedule_may_stand_in_any_order() -> None:
    morning, noon, evening = Window(0, 60), Window(720, 780), Window(1200, 1260)
    on, day = date(2026, 6, 1), day_number(date(2026, 6, 1))
    shuffled = only_on(on, (noon, evening, morning), "UTC")
    assert open_cells(shuffled, day) == open_cells(only_on(on, (morning, noon, evening), "UTC"), day)
    with pytest.raises(ValueError, match="windows 00:00–01:00 and 00:30–01:30 overlap"):
        only_on(on, (noon, Window(30, 90), evening, morning), "UTC")


def test_a_schedule_survives_being_written_as_json() -> None:
    schedule = WeeklySchedule("Europe/Berlin", week(ALL_DAY), {date(2026, 12, 25): ()})
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=WeeklySchedule) == schedule
    with pytest.raises(msgspec.ValidationError, match="not a multiple of 5"):
        msgspec.json.decode(b'{"start_minute":1,"end_minute":60}', type=Window)
