"""A server that is away, or an answer that is lost, makes time off slower, and nothing that is said of it untrue."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from service.app import Services
from service.db.commit import Committed, NewBooking
from service.domain.appointment import Appointment
from service.errors import OutcomeUnknown, Unavailable
from service.operations.time_off import TimeOff
from service.operations.treat_appointments import Existing
from tests.api.client import Client, assert_problem, booking
from tests.api_people.asking import booked, clock_starts, local, seen, weekday
from tests.time_off.asking import (
    COACH,
    OTHER,
    Around,
    Reassigning,
    absence,
    away,
    back,
    path,
    set_by,
    shown,
    story,
)


async def test_a_claim_that_never_ends_is_waited_for_so_long_and_no_longer(
    api: Client, services: Services, org: int, time_off: TimeOff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monday = weekday(0)

    async def lost(_: NewBooking) -> Committed:
        raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(services.committer, "commit", lost)
    answer = await api.book(booking(local(monday, "10:00"), "cal-3", coach_id=COACH))
    assert_problem(answer, 503, "OUTCOME_UNKNOWN")
    time_off._patience_s = 0.2
    set_now = await set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00")))
    assert (set_now.affected, set_now.finished) == ([], False)


async def test_one_whose_answer_was_lost_is_reported_as_what_became_of_it(
    api: Client, org: int, time_off: TimeOff, moves_by: Callable[[Around], None]
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "10:00"), "cal-3", COACH)

    async def around(_: UUID, reassign: Reassigning) -> Appointment:
        await reassign()
        raise OutcomeUnknown("the answer was lost")

    moves_by(around)
    answer = await set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00")))
    assert [(one.outcome, one.coach_id) for one in answer.affected] == [("reassigned", OTHER)]
    assert answer.finished
    assert [kind for kind, _ in await story(api, appointment)] == ["appointment.created", "appointment.reassigned"]


async def test_while_a_server_is_away_they_are_kept_and_done_when_it_is_set_again(
    api: Client, second: Client, org: int, time_off: TimeOff, moves_by: Callable[[Around], None]
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "10:00"), "cal-3", COACH)
    wish, name = absence(local(monday, "09:00"), local(monday, "12:00")), UUID(int=7)
    calls = 0

    async def around(_: UUID, __: Reassigning) -> Appointment:
        nonlocal calls
        calls += 1
        raise Unavailable("Redis did not answer")

    moves_by(around)
    first = await set_by(time_off, org, wish, time_off_id=name)
    assert [(one.outcome, one.coach_id) for one in first.affected] == [("kept", COACH)]
    assert not first.finished
    assert calls > 1, "it was tried more than once"
    assert await shown(api, appointment) == appointment
    moves_by(lambda _, reassign: reassign())
    then = await set_by(time_off, org, wish, time_off_id=name)
    assert [(one.outcome, one.coach_id) for one in then.affected] == [("reassigned", OTHER)]
    assert then.finished
    assert then.period == first.period
    assert len((await seen(second, path(COACH)))["time_off"]) == 1


async def test_what_nobody_can_know_is_not_called_kept(
    api: Client, org: int, time_off: TimeOff, moves_by: Callable[[Around], None]
) -> None:
    monday = weekday(0)
    await booked(api, local(monday, "10:00"), "cal-3", COACH)

    async def around(_: UUID, __: Reassigning) -> Appointment:
        raise OutcomeUnknown("the answer was lost")

    moves_by(around)
    with pytest.raises(OutcomeUnknown):
        await set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00")))


async def test_lost_answers_of_postgres_are_asked_for_again(
    api: Client, second: Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monday = weekday(0)
    write, lost = services.database.write, Counter[str]()

    async def loses_the_first(name: str, *arguments: Any) -> list[Any]:
        rows = await write(name, *arguments)
        if name.endswith("_time_off"):
            lost[name] += 1
            if lost[name] == 1:
                raise OutcomeUnknown("the answer was lost")
        return rows

    monkeypatch.setattr(services.database, "write", loses_the_first)
    period = await away(api, COACH, monday, "09:00", "12:00")
    (kept,) = (await seen(second, path(COACH)))["time_off"]
    assert kept["time_off_id"] == period["time_off_id"]
    await back(api, COACH, period["time_off_id"])
    assert (await seen(second, path(COACH)))["time_off"] == []
    assert lost == {"add_time_off": 2, "remove_time_off": 2}
    assert len(await clock_starts(second, COACH, monday)) == 31


async def test_once_it_is_written_an_outage_of_redis_fails_nothing(
    api: Client,
    second: Client,
    services: Services,
    org: int,
    time_off: TimeOff,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monday = weekday(0)
    appointment = await booked(api, local(monday, "10:00"), "cal-3", COACH)
    repair, outages = services.keeper.repair, itertools.chain([True, True], itertools.repeat(False))

    async def away_for_a_moment(*arguments: Any, **more: Any) -> Any:
        if next(outages):
            raise Unavailable("Redis did not answer")
        return await repair(*arguments, **more)

    monkeypatch.setattr(services.keeper, "repair", away_for_a_moment)
    answer = await set_by(time_off, org, absence(local(monday, "09:00"), local(monday, "12:00"), Existing.CANCEL))
    assert answer.finished
    assert (await clock_starts(second, COACH, monday))[0] == "12:00"
    outages = itertools.repeat(True)
    time_off._patience_s = 0.2
    answer = await set_by(time_off, org, absence(local(monday, "12:00"), local(monday, "13:00")))
    assert (answer.affected, answer.finished) == ([], False)
    assert (await shown(api, appointment))["status"] == "cancelled"
    ended = await time_off.remove(org, COACH, answer.period.time_off_id)
    assert ended == answer.period
    assert len((await seen(second, path(COACH)))["time_off"]) == 1
