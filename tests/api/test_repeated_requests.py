"""A request like the one before it on its connection is not taken apart again, and answered anew."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.api.client import Client, booking
from tests.api.stack import Stack, window_is_over
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


def posted(key: str, body: object, **headers: str) -> bytes:
    """The bytes of a booking."""
    raw = json.dumps(body).encode()
    kind = {"Content_Type": "application/json", "Content_Length": str(len(raw)), **headers}
    return request(key, "/api/appointments", "POST", **kind) + raw


async def ask(talk: Talk, sent: bytes) -> Told:
    """What is answered to the bytes."""
    return await talk.say(sent).hear(body=not sent.startswith(b"HEAD"))


async def test_each_is_counted_and_traced_by_itself(talk: Talk, stack: Stack) -> None:
    answers = list[Told]()
    began = float("-inf")
    while window_is_over(began):
        same = request(await stack.add_key("read", limit=6))
        began = time.monotonic()
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


async def test_who_writes_with_other_keys_and_lengths_is_understood_each_time(
    talk: Talk, api: Client, free_key: str
) -> None:
    starts = (await api.starts("cal-3", days=20))[-4:]
    made: dict[str, bytes] = {}
    for number, start in enumerate([*starts, *starts, starts[0]]):
        key = f"key-{number % 4}-of-{starts[0]}-{'x' * (number % 4)}"
        wish = booking(start, "cal-3", notes="n" * (number % 4))
        told = await ask(talk, posted(free_key, wish, Idempotency_Key=key, X_Correlation_ID=f"wish-{number}"))
        assert told.status == 201
        assert told.headers["x-correlation-id"] == f"wish-{number}"
        assert told.json["start_time"] == start
        assert told.json["notes"] == wish["notes"]
        assert ("idempotent-replayed" in told.headers) == (number >= 4)
        assert made.setdefault(key, told.body) == told.body
    for identity in (json.loads(body)["appointment_id"] for body in made.values()):
        gone = f"/api/appointments/{identity}/cancel"
        for _ in range(2):
            told = await ask(talk, request(free_key, gone, "POST", Content_Length="0", Idempotency_Key=f"c-{identity}"))
            assert (told.status, told.json["appointment_id"], told.json["status"]) == (200, identity, "cancelled")


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("Content_Length", "12x", 400),
        ("Content_Length", "-1", 400),
        ("Content_Length", "+2", 400),
        ("Content_Length", "99999999", 413),
        ("Idempotency_Key", "two words", 400),
        ("Idempotency_Key", "k" * 256, 400),
        ("Idempotency_Key", "\u00fc", 400),
        ("X_Correlation_ID", "two words", 404),
        ("X_Correlation_ID", "c" * 129, 404),
    ],
)
async def test_what_is_wrong_is_as_wrong_after_a_request_that_was_right(
    talk: Talk, free_key: str, name: str, text: str, status: int
) -> None:
    path = "/api/appointments/0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5061/cancel"
    right = {"Content_Length": "2", "Idempotency_Key": "fine", "X_Correlation_ID": "told"}
    for _ in range(2):
        told = await ask(talk, request(free_key, path, "POST", **right) + b"{}")
        assert (told.status, told.headers["x-correlation-id"]) == (404, "told")
    told = await ask(talk, request(free_key, path, "POST", **(right | {name: text})) + b"{}")
    assert told.status == status
    assert (told.headers["x-correlation-id"] == "told") == (name == "Idempotency_Key" or status == 413)


async def test_bytes_that_are_no_text_are_no_correlation_id(talk: Talk, free_key: str) -> None:
    right = request(free_key, X_Correlation_ID="told")
    wrong = right.replace(b"told", b"\xff")
    answers = [await ask(talk, sent) for sent in (right, right, wrong, wrong, right)]
    assert [told.status for told in answers] == [200] * 5
    assert [told.headers["x-correlation-id"] == "told" for told in answers] == [True, True, False, False, True]


async def test_a_head_that_a_longer_value_makes_too_long_is_refused(talk: Talk, free_key: str) -> None:
    longest = 8_192  # bytes before the empty line, this one not any more
    short = request(free_key, X_Padding="", X_Correlation_ID="c")
    pad = b"X-Padding: " + b"p" * (longest - 1 - len(short.removesuffix(b"\r\n\r\n")))
    fits = short.replace(b"X-Padding: ", pad)
    answers = [await ask(talk, sent) for sent in (fits, fits, fits.replace(b"-ID: c", b"-ID: cc"))]
    assert [told.status for told in answers] == [200, 200, 413]


async def test_a_body_in_chunks_or_of_a_length_written_otherwise_is_read_each_time(talk: Talk, free_key: str) -> None:
    wrong = b'{"calendar_id":"cal-99"}'
    head = {"Content_Type": "application/json"}
    chunked = request(free_key, "/api/appointments", "POST", Transfer_Encoding="chunked", **head)
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(wrong), wrong)
    tabbed = request(free_key, "/api/appointments", "POST", Content_Length=f"\t{len(wrong)}", **head) + wrong
    for sent in (chunked, chunked, chunked, tabbed, tabbed, tabbed):
        told = await ask(talk, sent)
        assert (told.status, told.json["error"]) == (400, "VALIDATION_ERROR"), told.json
        assert "start_time" in told.json["message"] + json.dumps(told.json["details"])


async def test_who_waits_to_be_told_to_go_on_is_told_each_time(stack: Stack, free_key: str) -> None:
    wrong = b'{"calendar_id":"cal-99"}'
    head = {"Content_Type": "application/json", "Expect": "100-continue", "Content_Length": str(len(wrong))}
    sent = request(free_key, "/api/appointments", "POST", **head)
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.ports["PORT"])
    talk = Talk(reader, writer)
    for _ in range(3):
        talk.say(sent)
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        assert (await ask(talk, wrong)).status == 400
    talk.close()


async def test_a_header_said_twice_is_as_it_was_before(talk: Talk, free_key: str) -> None:
    twice = request(free_key, X_Correlation_ID="one")[:-2] + b"X-Correlation-ID: other\r\n\r\n"
    answers = [await ask(talk, sent) for sent in (twice, twice, twice.replace(b"other", b"third"), twice)]
    assert [told.headers["x-correlation-id"] for told in answers] == ["one"] * 4


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
    wrong = [posted(free_key, {"calendar_id": "cal-99"[:n]}, X_Correlation_ID=f"w-{n}") for n in (6, 5, 6)]
    for sent in (same, same, other, *wrong, same, same):
        talk.say(sent)
    seen = [await talk.hear() for _ in range(8)]
    assert [told.status for told in seen] == [200, 200, 200, 400, 400, 400, 200, 200]
    told_ids = [told.headers["x-correlation-id"] for told in seen]
    assert told_ids[2:6] == ["other", "w-6", "w-5", "w-6"]
    assert not {"other", "w-6"} & {*told_ids[:2], *told_ids[6:]}


async def test_one_that_comes_in_pieces_is_waited_for(talk: Talk, free_key: str) -> None:
    same = request(free_key)
    first = await ask(talk, same)
    for cut in (1, len(same) // 2, len(same) - 3, len(same) - 1):
        talk.say(same[:cut])
        await asyncio.sleep(0.05)
        assert talk.silent
        assert (await ask(talk, same[cut:])).body == first.body
    assert (await ask(talk, same)).body == first.body
