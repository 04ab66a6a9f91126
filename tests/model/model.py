"""The rules of booking, once more and as plainly as possible: what can be booked, and what each operation does.

No bit planes and no counters: whether a coach is free is asked of the wall clock and of every appointment, five
minutes by five minutes. Only who wins a balanced assignment is the service's own rule, applied to the deficits this
model keeps itself. Raises the service's errors where the service must refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TypeAlias

from service.domain.assignment import Candidate, Strategy, choose
from service.errors import InvalidRequest, SlotUnavailable, StateConflict
from tests.model.values import (
    STEP,
    Booked,
    Calendar,
    Coach,
    Period,
    Place,
    Wish,
    aligned,
    ceil,
    framed,
    local_date,
    overlap,
    place_of,
    whole_steps,
    works,
)

Charges: TypeAlias = tuple[tuple[str, int], ...]


@dataclass
class Model:
    """One organization. `leaving` holds what moves under way have left but not yet freed."""

    now: datetime
    coaches: dict[str, Coach]
    calendars: dict[str, Calendar]
    booked: dict[int, Booked] = field(default_factory=dict)
    leaving: dict[int, tuple[Booked, Booked]] = field(default_factory=dict)
    owed: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Model:
        """A model that can be changed without this one."""
        return replace(
            self,
            coaches=dict(self.coaches),
            calendars=dict(self.calendars),
            booked=dict(self.booked),
            leaving=dict(self.leaving),
            owed=dict(self.owed),
        )

    def bookable(self, calendar: Calendar) -> set[tuple[datetime, str]]:
        """(start, coach) of everything the calendar must list."""
        found: set[tuple[datetime, str]] = set()
        team, length = self._team(calendar), timedelta(minutes=calendar.duration)
        start = ceil(self.now + timedelta(minutes=calendar.notice))
        if start == self.now:  # has begun already
            start += STEP
        while start <= self.now + timedelta(days=calendar.horizon):
            time = (start, start + length)
            occupied = framed(calendar, time)
            found |= {(start, c.coach_id) for c in team if self._is_free(c, time, occupied, calendar.interval)}
            start += STEP
        return found

    def book(self, number: int, calendar_id: str, wish: Wish) -> None:
        """Make appointment `number`. Raises InvalidRequest or SlotUnavailable."""
        calendar = self.calendars[calendar_id]
        assert wish.start is not None
        end = wish.end or wish.start + timedelta(minutes=calendar.duration)
        self._check_start(calendar, wish.start)
        _check_length(calendar, wish.start, end)
        asked = self._asked(calendar, wish.coach, wish.start, calendar.interval)
        time, occupied = (wish.start, end), framed(calendar, (wish.start, end))
        free = [coach for coach in asked if self._is_free(coach, time, occupied, calendar.interval)]
        strategy = calendar.strategy if wish.coach is None else Strategy.REQUESTED
        winner, charged = self._choose(strategy, free)
        self.booked[number] = Booked(calendar_id, place_of(winner, time, occupied), strategy, charged)

    def move(self, number: int, wish: Wish) -> None:
        """Move an appointment as one step. Raises InvalidRequest, StateConflict or SlotUnavailable."""
        self.claim_move(number, wish)
        self.free_left(number)

    def claim_move(self, number: int, wish: Wish) -> None:
        """The first half of a move: it is at its new place, and the old one is still taken."""
        before = self.booked[number]
        calendar, (old_start, old_end) = self.calendars[before.calendar], before.place.time
        start = wish.start or old_start
        end = wish.end or start + (old_end - old_start)
        stays = (start, end) == (old_start, old_end)
        if stays and not wish.others_only and wish.coach in (None, before.place.coach):
            return
        # Only what changes is measured: who keeps its time is not asked for notice, horizon or start grid.
        if start != old_start:
            self._check_start(calendar, start)
        if end - start != old_end - old_start:
            _check_length(calendar, start, end)
        interval = 5 if start == old_start else calendar.interval
        asked = self._asked(calendar, wish.coach, start, interval)
        if before.status != "scheduled":
            raise StateConflict(before.status)
        occupied = before.place.occupied if stays else framed(calendar, (start, end))
        free = [coach for coach in asked if self._is_free(coach, (start, end), occupied, interval, own=number)]
        keeping = [coach for coach in free if coach.coach_id == before.place.coach]
        if wish.others_only:
            free = [coach for coach in free if coach not in keeping]
        elif keeping:
            place = place_of(keeping[0], (start, end), occupied)
            self._put(number, before, place, before.strategy, before.charged)
            return
        strategy = calendar.strategy if wish.coach is None else Strategy.REQUESTED
        winner, charged = self._choose(strategy, free)
        self._put(number, before, place_of(winner, (start, end), occupied), strategy, charged)

    def free_left(self, number: int) -> None:
        """The second half of a move: the old place is free, and what it cost is given back."""
        before, after = self.leaving.pop(number, (None, None))
        if before is not None and after is not None and before.place.coach != after.place.coach:
            self._give_back(before.charged)

    def _put(self, number: int, before: Booked, place: Place, strategy: Strategy, charged: Charges) -> None:
        confirmed = before.confirmed and place.time == before.place.time
        after = replace(
            before, place=place, strategy=strategy, charged=charged, confirmed=confirmed, version=before.version + 1
        )
        self.booked[number], self.leaving[number] = after, (before, after)

    def end(self, number: int, status: str) -> None:
        """Cancel, complete or mark as not shown up; again is no change. Raises StateConflict."""
        before = self.booked[number]
        if before.status == status:
            return
        if before.status != "scheduled":
            raise StateConflict(before.status)
        self.booked[number] = replace(before, status=status, version=before.version + 1)
        if status == "cancelled":
            self._give_back(before.charged)

    def confirm(self, number: int) -> None:
        """Confirm; again is no change. Raises StateConflict."""
        before = self.booked[number]
        if before.status != "scheduled":
            raise StateConflict(before.status)
        if not before.confirmed:
            self.booked[number] = replace(before, confirmed=True, version=before.version + 1)

    def inside(self, coach_id: str, period: Period) -> list[int]:
        """Appointments of a coach that are to take place in a period at least in part and are not over."""
        return [
            number
            for number, one in self.booked.items()
            if one.status == "scheduled" and one.place.coach == coach_id
            and overlap(one.place.time, period) and one.place.time[1] > self.now
        ]  # fmt: skip

    def _team(self, calendar: Calendar) -> list[Coach]:
        return [coach for coach in self.coaches.values() if coach.active and coach.coach_id in calendar.team]

    def _check_start(self, calendar: Calendar, start: datetime) -> None:
        soonest = self.now + timedelta(minutes=calendar.notice)
        if start <= self.now or not soonest <= start <= self.now + timedelta(days=calendar.horizon):
            raise InvalidRequest([("start_time", "in the past, too soon or too far ahead")])

    def _asked(self, calendar: Calendar, coach_id: str | None, start: datetime, interval: int) -> list[Coach]:
        """Who may take it: the team or the one of it that is asked for; somebody's start grid must have the start."""
        asked = [coach for coach in self._team(calendar) if coach_id in (None, coach.coach_id)]
        if coach_id is not None and not asked:
            raise InvalidRequest([("coach_id", "not of the team")])
        if asked and not any(aligned(coach, start, interval) for coach in asked):
            raise InvalidRequest([("start_time", "off the grid")])
        return asked

    def _is_free(self, coach: Coach, time: Period, occupied: Period, interval: int, own: int | None = None) -> bool:
        """Whether a coach can take an appointment; what the appointment `own` holds does not stand in its way."""
        if not aligned(coach, time[0], interval) or not works(coach.hours, time):
            return False
        if any(overlap(whole_steps(period), time) for _, period in coach.away):
            return False
        if any(overlap(place.occupied, occupied) for number, place in self._places(coach) if number != own):
            return False
        day = local_date(coach, time[0])
        mine = None if own is None else self.booked[own].place
        counts_already = mine is not None and (mine.coach, mine.day) == (coach.coach_id, day)
        return counts_already or self._count(coach, day) < coach.daily_limit

    def _places(self, coach: Coach) -> list[tuple[int, Place]]:
        """Every place of a coach that is taken."""
        places = [(number, one.place) for number, one in self.booked.items() if one.live]
        places += [(number, before.place) for number, (before, _) in self.leaving.items()]
        return [(number, place) for number, place in places if place.coach == coach.coach_id]

    def _count(self, coach: Coach, day: date) -> int:
        """Appointments on a date; one that moves within it counts once."""
        return len({number for number, place in self._places(coach) if place.day == day})

    def _choose(self, strategy: Strategy, free: Sequence[Coach]) -> tuple[Coach, Charges]:
        """Who gets it, and what that does to the deficits, which is done. Raises SlotUnavailable."""
        if not free:
            raise SlotUnavailable("nobody is free")
        decision = choose(strategy, [Candidate(c.column, c.score, self.owed.get(c.coach_id, 0)) for c in free])
        by_column = {coach.column: coach for coach in free}
        charged = tuple((by_column[column].coach_id, units) for column, units in decision.deltas().items())
        for coach_id, units in charged:
            self.owed[coach_id] = self.owed.get(coach_id, 0) + units
        return by_column[decision.winner], charged

    def _give_back(self, charged: Charges) -> None:
        for coach_id, units in charged:
            self.owed[coach_id] -= units


def _check_length(calendar: Calendar, start: datetime, end: datetime) -> None:
    minutes = (end - start) / timedelta(minutes=1)
    chosen = calendar.longest is not None and minutes % 5 == 0 and 5 <= minutes <= calendar.longest
    if minutes != calendar.duration and not chosen:
        raise InvalidRequest([("end_time", "not of this calendar")])
