"""An availability answer is kept under its entity tag: as fresh as a new one, and nobody else's."""

from __future__ import annotations

from unittest.mock import patch

from service.api.availability import _Answers
from service.app import Services
from service.operations.local_rates import RateSeen
from tests.api.client import Client
from tests.wishes import caller, free_starts, wish

PATH = "/api/availability?calendar_id=cal-1&days=7"


async def test_an_answer_is_given_again_until_something_is_booked(services: Services, org: int, api: Client) -> None:
    start = (await free_starts(services, org))[20]
    first = await api("GET", PATH)
    with patch.object(services.grid, "read", wraps=services.grid.read) as read:
        again = await api("GET", PATH)
        assert (again.status, again.raw, again.headers["ETag"]) == (200, first.raw, first.headers["ETag"])
        assert read.call_count == 0
        other = await api("GET", f"{PATH}&group_by=start")
        assert read.call_count == 1
        assert other.headers["ETag"] != first.headers["ETag"]
    await services.book(wish(start, coach_id="coach-1"), caller(org), RateSeen())
    after = await api("GET", PATH)
    assert after.headers["ETag"] != first.headers["ETag"]
    assert len(after.json["slots"]) < len(first.json["slots"])
    taken = {"coach_id": "coach-1", "start_time": start.isoformat().replace("+00:00", "Z")}
    assert not any(taken.items() <= slot.items() for slot in after.json["slots"])


def test_answers_that_nobody_asks_for_go_first() -> None:
    answers = _Answers(most_bytes=10)
    answers.keep("a", b"1234")
    answers.keep("b", b"1234")
    assert answers.of("a") == b"1234"
    answers.keep("c", b"1234")
    assert [answers.of(tag) for tag in "abc"] == [b"1234", None, b"1234"]
    answers.keep("d", b"12345678901")
    assert [answers.of(tag) for tag in "acd"] == [None] * 3, "one that is too large leaves nothing"
    answers.keep(None, b"1")
    assert answers.of(None) is None
