"""A request that says the same as the one before it on its connection is not taken apart again, and answered anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.api.client import Client, booking
from tests.api.stack import Stack
from tests.overload.door import Talk, Told
from tests.servers import eventually

# A day of which time takes nothing while the tests run.
_DATE = (datetime.now(UTC) + timedelta(days=5)).date()
PATH = f"/api/availability?calendar_id=cal-2&days=3&from={_DATE}"


@pytest.fixture
async def talk(stack: Stack) -> AsyncIterator[Talk]:
    """A connection."""
    made = Talk(*await asyncio.open_connection("127.0.0.1", stack.ports["PORT"]))
    yield made
    made.close()


def request(key: str, path: str = PATH, method: str = "GET", **headers: str) -> bytes:
    """A request's bytes; underscores in the names of headers stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"X-API-Key: {key}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def posted(key: str, body: object) -> bytes:
    """The bytes of a booking."""
    raw = json.dumps(body).encode()
    kind = {"Content_Type": "application/json", "Content_Length": str(len(raw))}
    return request(key, "/api/appointments", "POST", **kind) + raw


async def ask(talk: Talk, sent: bytes) -> Told:
    """What is answered to the bytes."""
    return await talk.say(sent).hear(body=not sent.startswith(b"HEAD"))


async def test_each_is_counted_and_traced_by_itself(talk: Talk, stack: Stack) -> None:
    same = request(await stack.add_key("read", limit=6))
    answers = [await ask(talk, same) for _ in range(8)]
    assert [answer.status for answer in answers] == [200] * 6 + [429] * 2
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["5", "4", "3", "2", "1", "0", "0", "0"]
    assert len({answer.headers["x-correlation-id"] for answer in answers}) == 8
    assert all(answer.json["correlation_id"] == answer.headers["x-correlation-id"] for answer in answers[6:])


async def test_each_shows_what_is_so_now(talk: Talk, free_key: str) -> None:
    same = request(free_key)
    first, again = await ask(talk, same), await ask(talk, same)
    assert first.body == again.body
    slot = first.json["slots"][0]
    # Over the same connection, so of the process that reads: what is booked without Redis the others show later.
    assert (
        await ask(talk, posted(free_key, booking(slot["start_time"], "cal-2", coach_id=slot["coach_id"])))
    ).status == 201
    after = await ask(talk, same)
    assert slot not in after.json["slots"]

    async def unchanged() -> bool:  # unless something else has changed just now
        tag = (await ask(talk, same)).headers["etag"]
        known = request(free_key, If_None_Match=tag)
        return [(await ask(talk, known)).status for _ in range(3)] == [304] * 3

    await eventually(unchanged, what="a moment in which nothing changes")


async def test_what_differs_in_anything_is_another_request(talk: Talk, stack: Stack) -> None:
    one, other = await stack.add_key("read", limit=1001), await stack.add_key("read", limit=1002)
    first = request(one)
    ends_otherwise = request(one, X_Correlation_ID="told-1")
    assert ends_otherwise.startswith(first[:-2])
    for _ in range(2):
        for sent, status, limit, correlation in (
            (first, 200, "1001", None),
            (ends_otherwise, 200, "1001", "told-1"),
            (request(one, X_Correlation_ID="told-2"), 200, "1001", "told-2"),
            (request(other), 200, "1002", None),
            (request(one, PATH.replace("days=3", "days=4")), 200, "1001", None),
            (request(one, PATH.replace("days=3", "days=0")), 400, "1001", None),
            (request(one, PATH.replace("cal-2", "cal-9")), 404, "1001", None),
            (request(one, PATH.replace("availability", "nothing")), 404, None, None),
            (request(one, method="HEAD"), 200, "1001", None),
            (request("unknown-key"), 401, None, None),
        ):
            for _ in range(2):
                told = await ask(talk, sent)
                assert (told.status, told.headers.get("x-ratelimit-limit")) == (status, limit), sent
                if correlation is not None:
                    assert told.headers["x-correlation-id"] == correlation


async def test_the_path_says_what_is_asked_for(talk: Talk, api: Client, free_key: str) -> None:
    starts = await api.starts("cal-2", days=20)
    made = [(await api.book(booking(start, "cal-2"))).json["appointment_id"] for start in starts[-2:]]
    for identity in [made[0], made[0], made[1], made[1], made[0]]:
        assert (await ask(talk, request(free_key, f"/api/appointments/{identity}"))).json["appointment_id"] == identity
    for _ in range(2):
        found = await ask(talk, request(free_key, "/api/coaches/coach%2D2"))
        assert (found.status, found.json.get("coach_id")) == (200, "coach-2")


async def test_sent_together_each_has_its_answer_in_turn(talk: Talk, free_key: str) -> None:
    same, other = request(free_key), request(free_key, X_Correlation_ID="other")
    for sent in (same, same, other, posted(free_key, {"calendar_id": "cal-99"}), same, same):
        talk.say(sent)
    seen = [await talk.hear() for _ in range(6)]
    assert [told.status for told in seen] == [200, 200, 200, 400, 200, 200]
    assert [told.headers["x-correlation-id"] == "other" for told in seen] == [False, False, True, False, False, False]


async def test_one_that_comes_in_pieces_is_waited_for(talk: Talk, free_key: str) -> None:
    same = request(free_key)
    first = await ask(talk, same)
    for cut in (1, len(same) // 2, len(same) - 3, len(same) - 1):
        talk.say(same[:cut])
        await asyncio.sleep(0.05)
        assert talk.silent
        assert (await ask(talk, same[cut:])).body == first.body
    assert (await ask(talk, same)).body == first.body
