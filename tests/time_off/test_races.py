"""Whatever happens while time off is set: what is inside in the end was treated, and the answer says how."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from service.app import Services
from service.db.commit import CommitOutcome, Committed, NewBooking
from service.domain.appointment import Appointment
from service.operations.plan_move import MoveWish
from service.operations.time_off import TimeOff
from service.operations.treat_appointments import Existing
from tests.api.client import Answer, Client, booking
from tests.api_people.asking import booked, changed, clock_starts, differences, local, seen, weekday
from tests.invariants.looks import overlaps
from tests.servers import eventually
from tests.time_off.asking import (
    COACH,
    OTHER,
    Around,
    Reassigning,
    absence,
    away,
    outcomes,
    path,
    scheduled,
    set_by,
    shown,
    story,
)

ROUNDS = 50


async def test_fifty_times_bookings_race_with_the_period_and_none_is_left_out(
    api: Client, second: Client, services: Services, org: int
) -> None:
    for coach in (COACH, OTHER):
        await changed(api, f"/api/coaches/{coach}", max_daily_appointments=288)
    people, chance = itertools.count(), random.Random(3)
    seen_outcomes: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    hours = [(weekday(day), hour) for day in (0, 1, 2, 3, 4) for hour in range(9, 17)]
    hours += [(day + timedelta(days=7), hour) for day, hour in hours]
    for day, hour in hours[:ROUNDS]:
        clocks = [f"{hour:02}:{minute:02}" for minute in (0, 15, 30, 45)]
        start, end = local(day, clocks[0]), local(day, f"{hour + 1:02}:00")
        # Whoever is booked here by the race has nobody to be given to.
        await booked(api, local(day, clocks[2]), "cal-3", OTHER, next(people))

        def book(client: Client, clock: str) -> Any:
            return client.book(booking(local(day, clock), "cal-3", next(people), coach_id=COACH))  # noqa: B023 - asked at once

        bookings = [book(client, clock) for clock in clocks for client in (api, second)]
        chance.shuffle(bookings)
        place = chance.randrange(len(bookings) + 1)
        period = chance.choice((api, second))("POST", path(COACH), {"start_time": start, "end_time": end})
        answers: list[Answer] = await asyncio.gather(*bookings[:place], period, *bookings[place:])
        answer = answers.pop(place)
        assert answer.status == 201, answer.raw
        found = outcomes(answer.json)
        made_here = {one.json["appointment_id"] for one in answers if one.status == 201}
        statuses.update(one.status for one in answers)
        seen_outcomes.update(outcome for outcome, _ in found.values())
        assert set(found) == made_here, "each that got in was treated"
        still = await scheduled(api, COACH, start, end)
        assert still == {one for one, said in found.items() if said == ("kept", COACH)}
        given = await scheduled(api, OTHER, start, end)
        assert {one for one, said in found.items() if said == ("reassigned", OTHER)} == given & made_here
    assert set(statuses) == {201, 409}, statuses
    assert min(statuses.values()) > ROUNDS, statuses
    assert set(seen_outcomes) == {"reassigned", "kept"}, seen_outcomes
    async with services.database.writing() as connection:
        assert await overlaps(connection) == 0
    assert await differences(services, org) == 0


async def test_a_claim_made_before_is_not_committed_into_it(
    api: Client, second: Client, time_off: TimeOff, services: Services, org: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monday = weekday(0)
    claimed, go_on = asyncio.Event(), asyncio.Event()
    commit = services.committer.commit
    outcomes_seen: list[CommitOutcome] = []

    async def later(one: NewBooking) -> Committed:
        claimed.set()
        await go_on.wait()
        committed = await commit(one)
        outcomes_seen.append(committed.outcome)
        return committed

    monkeypatch.setattr(services.committer, "commit", later)
    under_way = asyncio.ensure_future(api.book(booking(local(monday, "10:00"), "cal-3", coach_id=COACH)))
    await asyncio.wait_for(claimed.wait(), 60)
    wish = absence(local(monday, "09:00"), local(monday, "12:00"))
    period = asyncio.ensure_future(set_by(time_off, org, wish))

    async def closed() -> bool:
        return (await clock_starts(second, COACH, monday))[0] == "12:00"

    await eventually(closed, what="the period shown")
    go_on.set()
    assert (await under_way).status == 409
    assert (await period).affected == []
    assert outcomes_seen == [CommitOutcome.FENCED]


async def test_two_coaches_away_at_once_give_each_other_nothing_that_stays(
    api: Client, second: Client, services: Services, org: int
) -> None:
    people, days = itertools.count(), [weekday(day) for day in (0, 1, 2, 3, 4)]
    for day, hour in itertools.product(days, (9, 11, 13, 15)):
        start, end = f"{hour:02}:00", f"{hour + 1:02}:00"
        mine = await booked(api, local(day, start), "cal-3", COACH, next(people))
        others = await booked(api, local(day, f"{hour:02}:30"), "cal-3", OTHER, next(people))
        both = await asyncio.gather(away(api, COACH, day, start, end), away(second, OTHER, day, start, end))
        found = [outcomes(answer) for answer in both]
        for one in (mine, others):
            holder = (await shown(api, one))["coach_id"]
            said = found[0 if holder == COACH else 1]
            assert said[one["appointment_id"]] == ("kept", holder), "whoever has it in the end knows"
    assert await differences(services, org) == 0


async def test_it_goes_on_when_the_caller_goes_away(
    api: Client, second: Client, services: Services, org: int, time_off: TimeOff
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "10:00"), "cal-3", COACH)
    calling = asyncio.ensure_future(
        set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00"), Existing.CANCEL))
    )

    async def written() -> bool:
        return bool((await seen(second, path(COACH)))["time_off"])

    await eventually(written, what="the period")
    calling.cancel()

    async def treated() -> bool:
        return (await shown(second, appointment))["status"] == "cancelled"

    await eventually(treated, what="the cancelled appointment")
    await eventually(lambda: len(services.tasks) == 0, what="the end of the work")


async def test_one_that_is_cancelled_meanwhile_is_looked_at_again(
    api: Client, second: Client, org: int, time_off: TimeOff, moves_by: Callable[[Around], None]
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "10:00"), "cal-3", COACH)

    async def around(appointment_id: UUID, reassign: Reassigning) -> Appointment:
        assert (await second("DELETE", f"/api/appointments/{appointment_id}")).status == 200
        return await reassign()

    moves_by(around)
    answer = await set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00")))
    assert [(one.outcome, one.coach_id) for one in answer.affected] == [("cancelled", COACH)]
    assert answer.finished
    assert [kind for kind, _ in await story(api, appointment)] == ["appointment.created", "appointment.cancelled"]


@pytest.mark.parametrize("existing", [Existing.REASSIGN, Existing.CANCEL])
async def test_one_that_is_moved_out_of_the_period_meanwhile_stays_where_it_is(
    api: Client,
    second: Client,
    services: Services,
    org: int,
    time_off: TimeOff,
    monkeypatch: pytest.MonkeyPatch,
    existing: Existing,
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "10:00"), "cal-3", COACH)
    move, cancel = services.move._move, services.change._change
    wish = MoveWish(start_time=datetime.fromisoformat(local(monday, "14:00")))

    async def moved_and(act: Any, appointment_id: UUID, *rest: Any) -> Appointment:
        await move(org, appointment_id, wish, "tests", "corr-2", None, None)
        return await act(org, appointment_id, *rest)

    monkeypatch.setattr(services.move, "_move", lambda _, *rest: moved_and(move, *rest))
    monkeypatch.setattr(services.change, "_change", lambda _, *rest: moved_and(cancel, *rest))
    answer = await set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00"), existing))
    assert [(one.outcome, one.coach_id) for one in answer.affected] == [("kept", COACH)]
    now = await shown(second, appointment)
    assert (now["coach_id"], now["version"], now["status"]) == (COACH, 2, "scheduled")
    assert datetime.fromisoformat(now["start_time"]) == wish.start_time
