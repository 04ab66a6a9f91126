"""Coaches join while appointments are booked: rows of the grid grow wider, nothing is booked twice or lost."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from service.app import Services
from tests.api.client import Client, booking
from tests.api_people.asking import changed, clock_starts, differences, made, seen, weekday

NEW_COACHES = 40


async def test_forty_coaches_join_while_two_processes_book(
    api: Client, second: Client, services: Services, org: int
) -> None:
    width = (await services.rosters.get(org)).width
    people = itertools.count()
    statuses: Counter[int] = Counter()
    joined = asyncio.Event()

    async def book(client: Client) -> None:
        while not joined.is_set():
            answer = await client("GET", "/api/availability?calendar_id=cal-1&days=9&group_by=start")
            assert answer.status == 200, answer.json
            for slot in answer.json["slots"][::7]:
                answer = await client.book(booking(slot["start_time"], person=next(people)))
                statuses[answer.status] += 1
                if joined.is_set():
                    return

    async def join() -> None:
        try:
            for first in range(0, NEW_COACHES, 4):
                names = [f"new-{n}" for n in range(first, first + 4)]
                await asyncio.gather(
                    *(
                        made(
                            (api, second)[n % 2],
                            "/api/coaches",
                            coach_id=name,
                            name=name,
                            email=f"{name}@example.com",
                            timezone="America/New_York",
                            calendar_ids=["cal-1"],
                        )
                        for n, name in enumerate(names)
                    )
                )
                await changed(api, f"/api/coaches/{names[0]}", max_daily_appointments=3)
        finally:
            joined.set()

    await asyncio.gather(join(), *(book(client) for client in (api, second) for _ in range(3)))
    assert set(statuses) <= {201, 409}, statuses
    assert statuses[201] > 20, statuses
    roster = await services.rosters.refresh(org, await services.rosters.get(org))
    assert roster.width > width
    assert {coach.column for coach in roster.coaches} == set(range(6 + NEW_COACHES))
    assert len((await seen(api, "/api/calendars/cal-1"))["coach_ids"]) == 5 + NEW_COACHES
    overlaps = await services.database.first("count_overlaps", org)
    assert overlaps is not None
    assert overlaps["overlaps"] == 0
    assert await differences(services, org) == 0
    assert len(await clock_starts(second, "new-39", weekday(0, 20), calendar_id="cal-1")) == 31
