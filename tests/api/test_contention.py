"""However many want one time, each coach gets one of them, and everybody else hears what is free instead."""

from __future__ import annotations

import random
from collections import Counter

from tests.api.client import Client, all_at_once, assert_problem, booking
from tests.api.stack import Stack

OVERLAPS = """
    SELECT count(*) FROM appointments AS a JOIN appointments AS b
        ON a.org_id = b.org_id AND a.coach_no = b.coach_no AND a.appointment_id < b.appointment_id
        AND a.occupied && b.occupied
    WHERE a.status IN ('scheduled', 'completed', 'no_show') AND b.status IN ('scheduled', 'completed', 'no_show')
"""


async def test_200_want_one_start_and_each_free_coach_gets_one(api: Client, stack: Stack) -> None:
    made = await stack.cli("keys", "create", "--name", "crowd", "--scopes", "read,write", "--rate-limit", "0")
    assert made.code == 0, made.err
    crowd = api.with_key(made.out.split()[-1])
    start = (await crowd.starts(coaches=5))[10]

    answers = await all_at_once(crowd.book(booking(start, person=person)) for person in range(200))

    assert Counter(answer.status for answer in answers) == {201: 5, 409: 195}
    coaches = [answer.json["coach_id"] for answer in answers if answer.status == 201]
    assert sorted(coaches) == ["coach-1", "coach-2", "coach-3", "coach-5", "coach-6"]
    after = await crowd.starts()
    for answer in answers:
        if answer.status == 409:
            alternatives = assert_problem(answer, 409, "SLOT_UNAVAILABLE")["details"]["alternatives"]
            assert len(alternatives) == 3
            assert {slot["start_time"] for slot in alternatives} <= {free for free in after if free > start}
    assert await stack.value("SELECT count(*) FROM appointments WHERE starts_at = $1::text::timestamptz", start) == 5


async def test_alternatives_can_be_booked(api: Client) -> None:
    start = (await api.starts("cal-3", coaches=2))[3]
    answers = await all_at_once(api.book(booking(start, "cal-3", person)) for person in range(3))
    refused = next(answer for answer in answers if answer.status == 409)
    for slot in refused.json["details"]["alternatives"]:
        assert (await api.book(booking(slot["start_time"], "cal-3"))).status == 201


async def test_mixed_durations_over_shared_coaches_never_overlap(api: Client, stack: Stack) -> None:
    wishes = [
        booking(start, calendar, person)
        for calendar in ("cal-1", "cal-2", "cal-3")
        for person, start in enumerate((await api.starts(calendar))[:60])
        for _ in range(3)
    ]
    random.Random(7).shuffle(wishes)

    answers = await all_at_once(api.book(wish) for wish in wishes)

    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {201, 409}, statuses
    assert statuses[201] >= 60
    calendars = Counter(answer.json["calendar_id"] for answer in answers if answer.status == 201)
    assert set(calendars) == {"cal-1", "cal-2", "cal-3"}
    assert await stack.value(OVERLAPS) == 0
    await stack.verify()


async def test_a_booked_start_is_offered_by_no_calendar_until_it_is_cancelled(api: Client) -> None:
    # A start that both calendars have: the last of a day has room for a quarter of an hour and not for half of one.
    longer = set(await api.starts("cal-1"))
    start = [start for start in await api.starts("cal-3", coaches=2) if start in longer][-20]
    booked = (await api.book(booking(start, "cal-3", coach_id="coach-1"))).json

    async def offered(calendar: str) -> bool:
        day = start[:10]
        slots = await api.slots(calendar_id=calendar, days=2, **{"from": day}, coach_id="coach-1")
        return start in {slot["start_time"] for slot in slots}

    assert [await offered(calendar) for calendar in ("cal-1", "cal-3")] == [False, False]
    assert (await api("DELETE", f"/api/appointments/{booked['appointment_id']}")).status == 200
    assert [await offered(calendar) for calendar in ("cal-1", "cal-3")] == [True, True]
