"""What happens next, by chance: mostly what is possible or nearly so, that conflicts are frequent."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.domain.appointment import Status
from service.domain.assignment import Strategy
from service.operations.treat_appointments import Existing
from tests.model.edits import ComeBack, EditCalendar, EditCoach, GoAway, SetHours, Wait
from tests.model.model import Model
from tests.model.steps import Book, Confirm, End, Move, MoveAtOnce, Step
from tests.model.values import STEP, Calendar, Coach, Hours, Windows, Wish

ZONES = ("America/New_York", "Asia/Kolkata", "Europe/Berlin", "Australia/Lord_Howe")
DAYS = 4
# As many appointments inside time off are given away at once; the orders they may go in are all looked at.
MOST_GIVEN_AWAY = 3


def beginning(chance: random.Random, clocks: str) -> Model:
    """An organization in several zones, on an ordinary day, or hours before one's clocks go `forward` or `back`."""
    zones = chance.sample(ZONES, 3)
    # A day that does not come nearer, so that a seed stays what it was.
    now = datetime(2031, 5, 14, 7, tzinfo=UTC)
    if clocks != "even":
        moved = next(zone for zone in zones if zone != "Asia/Kolkata")
        now = _clock_change(moved, now, back=clocks == "back") - timedelta(hours=chance.randint(6, 40))
    # In the middle of a cell, just before its end, just at its beginning.
    now = now.replace(minute=chance.choice([2, 4, 5])).replace(second=0, microsecond=0)
    now += {2: timedelta(seconds=11), 4: timedelta(seconds=59, microseconds=999_999), 5: timedelta()}[now.minute]
    coaches = {
        f"coach-{n}": Coach(
            f"coach-{n}",
            n,
            Hours(zones[n % 3], _week(chance)),
            score=chance.choice([0, 400_000, 700_000, 900_000]),
            daily_limit=chance.choice([2, 3, 5, 8]),
        )
        for n in range(4)
    }
    everyone = Calendar("", 30, 15, None, 0, 0, 120, 2, Strategy.BALANCED, frozenset(coaches))
    calendars = {
        f"cal-{n}": Calendar(f"cal-{n}", **{field: draw(chance) for field, draw in _RULES.items()}) for n in range(2)
    }
    calendars = {one: _possible(calendar) for one, calendar in calendars.items()}
    return Model(now, coaches, {"": everyone, **calendars})


def drawn(chance: random.Random, model: Model, number: int) -> Step:
    """The next step; `number` is not used yet."""
    kinds: dict[Callable[[random.Random, Model, int], Step], int] = {_book: 30}
    if model.booked:
        kinds |= {_move: 28, _at_once: 10, _end: 8, _confirm: 2}
    kinds |= {_away: 7, _back: 4, _hours: 4, _coach: 5, _calendar: 6, _wait: 4}
    (kind,) = chance.choices(list(kinds), list(kinds.values()))
    return kind(chance, model, number)


def _book(chance: random.Random, model: Model, number: int) -> Step:
    calendar = _of(chance, [one for one in model.calendars if one])
    return Book(number, calendar, _wish(chance, model, calendar))


def _move(chance: random.Random, model: Model, number: int) -> Step:
    scheduled = [one for one, booked in model.booked.items() if booked.status == "scheduled"]
    one = _of(chance, scheduled if scheduled and chance.random() < 0.8 else list(model.booked))
    before = model.booked[one]
    kind = chance.random()
    if kind < 0.3:
        return Move(one, Wish(others_only=True))
    if kind < 0.45:  # onto a time that overlaps its own
        return Move(one, Wish(start=before.place.time[0] + STEP * chance.randint(-6, 6)))
    if kind < 0.6:
        return Move(one, Wish(coach=_of(chance, list(model.coaches))))
    if kind < 0.7:
        return Move(one, Wish(end=before.place.time[1] + STEP * chance.randint(-4, 6)))
    wish = _wish(chance, model, before.calendar)
    return Move(one, wish if chance.random() < 0.3 else Wish(wish.start))


def _at_once(chance: random.Random, model: Model, number: int) -> Step:
    booked = [one for one in model.booked if model.booked[one].status == "scheduled"]
    if len(booked) < 2:
        return _book(chance, model, number)
    one, other = chance.sample(booked, 2)
    places = model.booked[one].place, model.booked[other].place
    if chance.random() < 0.3:  # not a swap: both onto one time
        start = _wish(chance, model, model.booked[one].calendar).start
        return MoveAtOnce((Move(one, Wish(start=start)), Move(other, Wish(start=start))))
    return MoveAtOnce((Move(one, Wish(start=places[1].time[0])), Move(other, Wish(start=places[0].time[0]))))


def _end(chance: random.Random, model: Model, number: int) -> Step:
    status = chance.choices([Status.CANCELLED, Status.COMPLETED, Status.NO_SHOW], [8, 1, 1])[0]
    return End(_of(chance, list(model.booked)), status)


def _confirm(chance: random.Random, model: Model, number: int) -> Step:
    return Confirm(_of(chance, list(model.booked)))


def _away(chance: random.Random, model: Model, number: int) -> Step:
    coach, start = _of(chance, list(model.coaches)), _some_time(chance, model)
    if model.booked and chance.random() < 0.5:  # amid an appointment, or a little before it
        place = _of(chance, list(model.booked.values())).place
        coach, start = place.coach, place.time[0] + STEP * chance.randint(-8, 1)
    start += timedelta(minutes=chance.choice([0, 0, 2]))
    period = (start, start + timedelta(minutes=chance.choice([5, 33, 120, 600, 1800])))
    if len(model.inside(coach, period)) > MOST_GIVEN_AWAY:
        return GoAway(number, coach, period, chance.choice([Existing.KEEP, Existing.CANCEL]))
    return GoAway(number, coach, period, chance.choice(list(Existing)))


def _back(chance: random.Random, model: Model, number: int) -> Step:
    away = [(one, coach.coach_id) for coach in model.coaches.values() for one, _ in coach.away]
    return ComeBack(*_of(chance, away)) if away else _away(chance, model, number)


def _hours(chance: random.Random, model: Model, number: int) -> Step:
    coach = model.coaches[_of(chance, list(model.coaches))]
    today = model.now.date()
    days: list[date] = chance.sample([today + timedelta(days=n) for n in range(-1, DAYS)], chance.randint(0, 2))
    if chance.random() < 0.5:
        overrides = tuple((day, _windows(chance)) for day in days)
        return SetHours(coach.coach_id, Hours(coach.hours.zone, coach.hours.weekly, overrides))
    return SetHours(coach.coach_id, Hours(_zone_for(chance, coach), _week(chance), coach.hours.overrides))


def _coach(chance: random.Random, model: Model, number: int) -> Step:
    coach = model.coaches[_of(chance, list(model.coaches))]
    fields: list[dict[str, Any]] = [
        {"daily_limit": chance.choice([0, 1, 2, 3, 5])},
        {"daily_limit": chance.choice([3, 5, 288])},
        {"score": chance.choice([0, 400_000, 1_000_000])},
        {"zone": _zone_for(chance, coach)},
        {"active": False},
    ]
    return EditCoach(coach.coach_id, chance.choice(fields) if coach.active else {"active": True})


def _calendar(chance: random.Random, model: Model, number: int) -> Step:
    calendar = _of(chance, [one for one in model.calendars if one])
    names = chance.sample(list(_RULES), chance.choice([1, 1, 2]))
    return EditCalendar(calendar, {name: _RULES[name](chance) for name in names})


def _wait(chance: random.Random, model: Model, number: int) -> Step:
    return Wait(chance.choice([1, 5, 45, 180, 180, 600]))


def _wish(chance: random.Random, model: Model, calendar: str) -> Wish:
    rules = model.calendars[calendar]
    coach = _of(chance, [*sorted(rules.team), *model.coaches]) if chance.random() < 0.25 else None
    bookable = sorted(model.bookable(rules)) if chance.random() < 0.8 else []
    start = _of(chance, bookable)[0] if bookable else _some_time(chance, model)
    end = start + STEP * chance.randint(-1, 20) if chance.random() < 0.12 else None
    return Wish(start, end, coach)


def _some_time(chance: random.Random, model: Model) -> datetime:
    """Near an appointment, or anywhere in the window and a little before it."""
    places = [one.place for one in model.booked.values()]
    if places and chance.random() < 0.6:
        return _of(chance, places).time[0] + STEP * chance.randint(-8, 8)
    dawn = model.now.replace(minute=0, second=0, microsecond=0)
    return dawn + timedelta(minutes=5 * chance.randint(-24, DAYS * 288))


_RULES: dict[str, Callable[[random.Random], Any]] = {
    "duration": lambda chance: chance.choice([5, 20, 30, 45, 90]),
    "interval": lambda chance: chance.choice([5, 10, 15, 25, 60]),
    "longest": lambda chance: chance.choice([None, 30, 90, 120]),
    "before": lambda chance: chance.choice([0, 0, 5, 15]),
    "after": lambda chance: chance.choice([0, 0, 10, 30]),
    "notice": lambda chance: chance.choice([0, 0, 60, 181]),
    "horizon": lambda chance: chance.choice([1, 2, 3]),
    "strategy": lambda chance: chance.choice([*[Strategy.BALANCED] * 4, Strategy.SCORE]),
    "team": lambda chance: frozenset(f"coach-{n}" for n in range(4) if chance.random() < 0.85),
}


def _possible(calendar: Calendar) -> Calendar:
    too_short = calendar.longest is not None and calendar.longest < calendar.duration
    return replace(calendar, longest=None) if too_short else calendar


def _zone_for(chance: random.Random, coach: Coach) -> str:
    return chance.choice([*ZONES, coach.hours.zone])


def _week(chance: random.Random) -> tuple[Windows, ...]:
    return tuple(_windows(chance) for _ in range(7))


def _windows(chance: random.Random) -> Windows:
    """Hours of a day: a few, two spans, all day long, or none."""
    kind = chance.random()
    if kind < 0.1:
        return ()
    if kind < 0.55:
        return ((0, 1440),)
    first, last = sorted(chance.sample(range(289), 2))
    if kind < 0.75 or last - first < 3:
        return ((first * 5, last * 5),)
    middle = chance.randint(first + 1, last - 1)
    return ((first * 5, middle * 5), (min(middle + chance.randint(0, 12), last - 1) * 5, last * 5))


def _clock_change(zone: str, after: datetime, *, back: bool) -> datetime:
    """The next instant at which a zone's clocks are set back, or forward."""
    half, where = timedelta(minutes=30), ZoneInfo(zone)
    moment = after.replace(minute=0, second=0, microsecond=0)
    while True:
        before, moment = moment, moment + half
        walls = [instant.astimezone(where).replace(tzinfo=None) for instant in (before, moment)]
        moved = walls[1] - walls[0] - half
        if moved and (moved < timedelta()) == back:
            return moment


def _of(chance: random.Random, choices: list[Any]) -> Any:
    return chance.choice(choices)
