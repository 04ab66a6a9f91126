"""An availability answer is kept under its entity tag: as fresh as a new one, and nobody else's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from sanic.http import Http

from service.api.availability import _Answers, _Question
from service.app import Services
from service.domain.calendar import earliest_start, latest_start
from service.domain.grid import cell_of, five_minute_ceil, five_minute_floor
from service.operations.local_rates import RateSeen
from tests.api.client import Client
from tests.lua.world import coach, roster_of
from tests.wishes import caller, free_starts, wish

PATH = "/api/availability?calendar_id=cal-1&days=7"


async def test_an_answer_is_given_again_until_something_is_booked(services: Services, org: int, api: Client) -> None:
    start = (await free_starts(services, org))[20]
    await api("GET", PATH)  # today, and where it is yesterday still, is derived, which makes the next tag another
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


async def test_a_request_that_comes_again_is_not_taken_apart_again(api: Client) -> None:
    await api("GET", PATH)
    with patch.object(Http, "http1_request_header", autospec=True, side_effect=Http.http1_request_header) as apart:
        first, *others = [(await api("GET", PATH)).headers["X-Correlation-ID"] for _ in range(4)]
        assert first not in others
        assert apart.call_count == 0
        for _ in range(2):
            await api("GET", f"{PATH}&group_by=start")
        assert apart.call_count == 1


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


NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
MOMENTS = st.integers(-8000 * 10**6, 8000 * 10**6).map(lambda us: NOON + timedelta(microseconds=us))


@given(
    moments=st.tuples(MOMENTS, MOMENTS),
    interval=st.sampled_from([15, 30, 60]),
    notice=st.integers(0, 90),
    ahead=st.integers(1, 8),
    days=st.integers(1, 9),
    begin=st.none() | MOMENTS,
)
@example(moments=(NOON, NOON + timedelta(microseconds=1)), interval=15, notice=0, ahead=30, days=7, begin=None)
@example(moments=(NOON, NOON - timedelta(microseconds=1)), interval=15, notice=0, ahead=30, days=7, begin=None)
def test_a_tag_is_another_when_time_has_moved_the_window(
    moments: tuple[datetime, datetime], interval: int, notice: int, ahead: int, days: int, begin: datetime | None
) -> None:
    calendar = replace(
        roster_of([coach(0)]).everyone, slot_interval=interval, min_notice_minutes=notice, max_days_ahead=ahead
    )
    roster = replace(roster_of([coach(0)]), everyone=calendar)
    question = _Question.of(roster, {"days": str(days)})
    question.begin = begin

    def window(now: datetime) -> tuple[datetime, int, int]:
        """What the search is asked for, and what of it can be booked."""
        start = begin or five_minute_floor(now, interval)
        end = start + timedelta(days=days)
        first = cell_of(five_minute_ceil(max(start, earliest_start(calendar, now))))
        return start, first, cell_of(min(end, latest_start(calendar, now)))

    one, other = (question.etag(5, now.timestamp()) for now in moments)
    assert (one == other) == (window(moments[0]) == window(moments[1]))
    assert question.etag(6, moments[1].timestamp()) != other
