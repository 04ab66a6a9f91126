"""A booked start is gone from the next answer of every calendar its coach serves, a cancelled one is back."""

from __future__ import annotations

from tests.invariants.conftest import Pair
from tests.invariants.looks import booked, cancelled, listed
from tests.wishes import free_starts

CALENDARS = ("cal-1", "cal-2", "cal-3")


async def test_what_one_process_books_and_cancels_the_other_lists_at_once(pair: Pair, org: int) -> None:
    one, other = pair
    start = (await free_starts(one, org, "cal-2"))[10]
    before = {calendar: await listed(other, org, calendar) for calendar in CALENDARS}
    for calendar, coach in [("cal-1", "coach-2"), ("cal-2", "coach-6"), ("cal-3", "coach-1"), ("cal-1", None)]:
        appointment = await booked(one, org, start, calendar, coach_id=coach)
        serving = [c for c in CALENDARS if (start, appointment.coach_id) in before[c]]
        assert calendar in serving
        for name in CALENDARS:
            now_listed = await listed(other, org, name)
            assert (start, appointment.coach_id) not in now_listed
            # Exactly the starts whose slot would overlap are gone, and only of that coach.
            gone = before[name] - now_listed
            assert {who for _, who in gone} <= {appointment.coach_id}
            assert bool(gone) is (name in serving)
            length = (await other.rosters.get(org)).calendar(name).slot_duration * 60
            assert all(when < appointment.end_time and (when - start).total_seconds() > -length for when, _ in gone)
            assert now_listed <= before[name]
        await cancelled(other, appointment)
        assert {name: await listed(one, org, name) for name in CALENDARS} == before


async def test_a_coach_booked_in_one_calendar_is_gone_from_the_other_it_serves(pair: Pair, org: int) -> None:
    one, other = pair
    start = (await free_starts(one, org, "cal-3"))[10]
    appointment = await booked(one, org, start, "cal-3")
    assert appointment.coach_id == "coach-3"
    assert (start, "coach-3") not in await listed(other, org, "cal-1")
    assert (start, "coach-1") in await listed(other, org, "cal-1")
