"""Thousands want one start: each free coach gets one of them, whoever is refused asks again, and all hear the truth.

`OVERLOAD_CONTENDERS` says how many; by default 1,000, which takes a few seconds, 5,000 for the whole promise.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.api.client import Answer, Client, all_at_once, assert_problem, booking, open_client
from tests.api.stack import running
from tests.servers import eventually

CONTENDERS = int(os.environ.get("OVERLOAD_CONTENDERS", "1000"))
COACHES = 5
MOST_TRIES = 500
# So few that most contenders are refused at first.
IN_FLIGHT = 60


async def want(client: Client, start: str, person: int, refused: Counter[int]) -> Answer:
    """The answer of a booking, asked for until it is more than "not now"."""
    for _ in range(MOST_TRIES):
        answer = await client.book(booking(start, person=person), key=f"contender-{person}")
        if answer.status != 503:
            return answer
        assert int(answer.headers["Retry-After"]) >= 1
        refused[person] += 1
    raise AssertionError(f"{person} was refused {MOST_TRIES} times")


@pytest.mark.alone
async def test_a_hot_slot_has_exactly_its_winners(folder: Path) -> None:
    async with running(folder, MAX_REQUESTS_IN_FLIGHT=IN_FLIGHT) as stack:
        async with open_client(stack.url, await stack.add_key("read", "write")) as client:
            start = (await client.starts(coaches=COACHES))[10]
            refused: Counter[int] = Counter()
            answers = await all_at_once(want(client, start, person, refused) for person in range(CONTENDERS))

            assert Counter(answer.status for answer in answers) == {201: COACHES, 409: CONTENDERS - COACHES}
            coaches = [answer.json["coach_id"] for answer in answers if answer.status == 201]
            assert sorted(coaches) == ["coach-1", "coach-2", "coach-3", "coach-5", "coach-6"]
            for answer in answers:
                if answer.status == 409:
                    assert_problem(answer, 409, "SLOT_UNAVAILABLE")
            count = "SELECT count(*) FROM appointments WHERE starts_at = $1::text::timestamptz"
            assert await stack.value(count, start) == COACHES
            assert refused, "the bound was never reached"

            async def over() -> bool:
                return (await client.series())["booking_http_requests_in_flight"] == 1

            await eventually(over, what="the end of all work")
        await stack.verify()
