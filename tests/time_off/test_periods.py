"""Time off closes its time at once for everybody, and opens it again when it ends."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from service.app import Services
from tests.api.client import Client, assert_problem, booking
from tests.api_people.asking import (
    NEW_YORK,
    booked,
    changed,
    clock_starts,
    differences,
    local,
    made,
    pages,
    refused,
    seen,
    weekday,
)
from tests.api_people.conftest import READER, STRANGER
from tests.time_off.asking import away, back, path

COACH = "coach-1"


async def test_a_period_is_closed_in_the_very_next_answer_and_open_after_its_end(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday = weekday(0)
    before = await clock_starts(second, COACH, monday)
    body = {"start_time": f"{monday}T10:00:00", "end_time": f"{monday}T12:00:00", "timezone": "America/New_York"}
    period = await made(api, path(COACH), **body, reason="dentist")
    assert period == {
        "time_off_id": period["time_off_id"],
        "coach_id": COACH,
        "start_time": local(monday, "10:00"),
        "end_time": local(monday, "12:00"),
        "reason": "dentist",
        "source": "api",
        "created_at": period["created_at"],
        "affected": [],
    }
    for client in (second, api):
        starts = await clock_starts(client, COACH, monday)
        assert [start for start in before if start not in starts] == [
            *("09:45", "10:00", "10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45")
        ]
        inside = await client.book(booking(local(monday, "10:30"), coach_id=COACH))
        assert_problem(inside, 409, "SLOT_UNAVAILABLE")
    assert await differences(services, org) == 0
    ended = await back(second, COACH, period["time_off_id"])
    assert ended == {
        **{name: value for name, value in period.items() if name != "affected"},
        "start_time": ended["start_time"],
        "end_time": ended["end_time"],
    }
    assert datetime.fromisoformat(ended["start_time"]) == datetime.fromisoformat(period["start_time"])
    assert ended["start_time"].endswith("Z")
    for client in (api, second):
        assert await clock_starts(client, COACH, monday) == before
    await booked(api, local(monday, "10:30"), "cal-1", COACH)
    assert await differences(services, org) == 0


async def test_periods_overlap_and_each_closes_by_itself(api: Client, second: Client) -> None:
    monday = weekday(0)
    early = await away(api, COACH, monday, "09:00", "13:00")
    late = await away(second, COACH, monday, "12:00", "16:00")
    again = await away(api, COACH, monday, "12:00", "16:00")
    assert await clock_starts(second, COACH, monday) == ["16:00", "16:15", "16:30"]
    await back(second, COACH, late["time_off_id"])
    assert await clock_starts(api, COACH, monday) == ["16:00", "16:15", "16:30"]
    await back(api, COACH, early["time_off_id"])
    starts = await clock_starts(second, COACH, monday)
    assert (starts[0], starts[11:13]) == ("09:00", ["16:00", "16:15"])
    await back(api, COACH, again["time_off_id"])
    assert len(await clock_starts(second, COACH, monday)) == 31


async def test_a_period_over_nights_weekends_and_gaps_opens_only_the_hours_again(
    api: Client, second: Client, services: Services, org: int
) -> None:
    friday = weekday(4)
    days = [friday + timedelta(days=n) for n in (-1, 0, 1, 2, 3, 4)]
    windows = [{"start": "09:00", "end": "10:30"}, {"start": "13:00", "end": "24:00"}]
    weekly = dict.fromkeys(("monday", "thursday", "friday", "saturday"), windows)
    overrides = [{"date": str(days[4]), "windows": [{"start": "08:00", "end": "09:00"}]}]
    await changed(api, f"/api/coaches/{COACH}/schedule", "PUT", weekly=weekly, overrides=overrides)
    before = [await clock_starts(second, COACH, day) for day in days]
    period = await made(api, path(COACH), start_time=local(friday, "23:00"), end_time=local(days[4], "08:30"))
    after = [await clock_starts(second, COACH, day) for day in days]
    assert after == [
        before[0],
        [start for start in before[1] if start <= "22:30"],
        *([], []),  # Saturday is closed, on Sunday there are no hours anyway
        ["08:30"],
        before[5],
    ]
    assert await differences(services, org) == 0
    await back(api, COACH, period["time_off_id"])
    assert [await clock_starts(second, COACH, day) for day in days] == before
    assert await differences(services, org) == 0


async def test_a_period_longer_than_the_grid_closes_all_of_it(
    api: Client, second: Client, services: Services, org: int
) -> None:
    slots = len(await second.slots(coach_id=COACH, days=30))
    assert slots > 0
    now = datetime.now(UTC)
    start, end = (now - timedelta(days=1)).isoformat(), (now + timedelta(days=364)).isoformat()
    period = await made(api, path(COACH), start_time=start, end_time=end)
    assert await second.slots(coach_id=COACH, days=30) == []
    assert await differences(services, org) == 0
    await back(api, COACH, period["time_off_id"])
    assert len(await second.slots(coach_id=COACH, days=30)) >= slots - 2  # time goes on


async def test_days_that_redis_lost_come_back_closed(api: Client, second: Client, services: Services) -> None:
    monday = weekday(0)
    await services.redis.flushall()
    await away(api, COACH, monday, "09:00", "12:00")
    assert (await clock_starts(second, COACH, monday))[0] == "12:00"
    await services.redis.flushall()
    assert (await clock_starts(second, COACH, monday))[0] == "12:00"


async def test_a_deactivated_coach_may_have_time_off_and_is_away_when_it_comes_back(
    api: Client, second: Client, services: Services, org: int
) -> None:
    monday = weekday(0)
    assert (await api("DELETE", f"/api/coaches/{COACH}")).status == 200
    await away(api, COACH, monday, "09:00", "16:00")
    await changed(api, f"/api/coaches/{COACH}", active=True)
    assert await clock_starts(second, COACH, monday) == ["16:00", "16:15", "16:30"]
    assert await differences(services, org) == 0


async def test_a_list_comes_in_pages_by_start_and_by_what_it_touches(api: Client, second: Client) -> None:
    monday = weekday(0)
    made_of = {
        clock: (await away(api, COACH, monday, clock, "17:00"))["time_off_id"]
        for clock in ("11:00", "09:00", "15:00", "13:00", "10:00")
    }
    await away(api, "coach-2", monday, "09:00", "10:00")
    in_order = [made_of[clock] for clock in sorted(made_of)]
    for limit in (1, 2, 5, 200):
        found = await pages(second, path(COACH), "time_off", limit)
        assert [one["time_off_id"] for page in found for one in page] == in_order
        assert {len(page) for page in found[:-1]} <= {limit}

    async def touching(query: str) -> list[str]:
        answer = await seen(second, f"{path(COACH)}?{query}")
        return [one["time_off_id"] for one in answer["time_off"]]

    assert await touching(f"to={monday}T11:00:00&timezone=America/New_York") == in_order[:2]
    assert await touching(f"to={monday}T11:00:01&timezone=America/New_York") == in_order[:3]
    assert await touching(f"from={monday}T17:00:00&timezone=America/New_York") == []
    assert await touching(f"from={monday}&to={monday + timedelta(days=1)}&timezone=America/New_York") == in_order
    zoned = await seen(api, f"{path(COACH)}?timezone=America/New_York&limit=1")
    assert zoned["time_off"][0]["start_time"] == local(monday, "09:00")
    refused(await api("GET", f"{path(COACH)}?cursor=bm9uZQ"), "cursor")
    refused(await api("GET", f"{path(COACH)}?limit=201"), "limit")
    refused(await api("GET", f"{path(COACH)}?from=yesterday"), "from")


async def test_every_refusal_names_its_field_and_closes_nothing(api: Client) -> None:
    monday = weekday(0)
    start, end = local(monday, "10:00"), local(monday, "12:00")
    long_ago = datetime.now(UTC) - timedelta(days=2)
    gap = next(day for n in range(366) if _skips_two(day := monday + timedelta(days=n)))
    bad = [
        ({}, "start_time"),
        ({"start_time": start}, "end_time"),
        ({"start_time": start, "end_time": start}, "end_time"),
        ({"start_time": end, "end_time": start}, "end_time"),
        ({"start_time": f"{monday}T10:00:00", "end_time": end}, "start_time"),
        ({"start_time": start, "end_time": f"{monday}T12:00:00"}, "end_time"),
        ({"start_time": start, "end_time": end, "timezone": "Mars"}, "timezone"),
        ({"start_time": start, "end_time": end, "existing": "explode"}, "existing"),
        ({"start_time": start, "end_time": end, "existing": None}, "existing"),
        ({"start_time": start, "end_time": end, "reason": "x" * 1001}, "reason"),
        ({"start_time": start, "end_time": end, "reason": "\0"}, "reason"),
        ({"start_time": start, "end_time": end, "coach_id": COACH}, "coach_id"),
        ({"start_time": start, "end_time": local(monday + timedelta(days=366), "10:05")}, "end_time"),
        ({"start_time": "9999-12-01T00:00:00Z", "end_time": "9999-12-31T23:00:00-05:00"}, "end_time"),
        (
            {"start_time": "9999-12-30T00:00:00Z", "end_time": "9999-12-31T23:00:00Z", "timezone": "Asia/Tokyo"},
            "end_time",
        ),
        ({"start_time": long_ago.isoformat(), "end_time": (long_ago + timedelta(days=1)).isoformat()}, "end_time"),
        ({"start_time": f"{gap}T02:30:00", "end_time": f"{gap}T05:00:00", "timezone": str(NEW_YORK)}, "start_time"),
    ]
    for body, field in bad:
        refused(await api("POST", path(COACH), body), field)
    assert (await seen(api, path(COACH)))["time_off"] == []


def _skips_two(day: date) -> bool:
    """Whether New York's clocks skip 02:30 of a date."""
    there = datetime(day.year, day.month, day.day, 2, 30, tzinfo=NEW_YORK)
    return there.astimezone(UTC).astimezone(NEW_YORK).hour != 2


async def test_nobody_elses_coach_and_nobody_without_the_scope(api: Client, second: Client) -> None:
    monday = weekday(0)
    body = {"start_time": local(monday, "09:00"), "end_time": local(monday, "12:00")}
    period = await made(api, path(COACH), **body)
    one = f"{path(COACH)}/{period['time_off_id']}"
    stranger, reader = second.with_key(STRANGER), second.with_key(READER)
    for answer in (
        await stranger("POST", path(COACH), body),
        await stranger("GET", path(COACH)),
        await stranger("DELETE", one),
        await api("POST", path("nobody"), body),
        await api("GET", path("nobody")),
        await api("DELETE", f"{path('coach-2')}/{period['time_off_id']}"),
        await api("DELETE", f"{path(COACH)}/none"),
    ):
        assert_problem(answer, 404, "NOT_FOUND")
    assert_problem(await reader("POST", path(COACH), body), 403, "FORBIDDEN")
    assert_problem(await reader("DELETE", one), 403, "FORBIDDEN")
    assert len((await seen(reader, path(COACH)))["time_off"]) == 1
    assert (await clock_starts(second, COACH, monday))[0] == "12:00"
    await back(api, COACH, period["time_off_id"])
    assert_problem(await api("DELETE", one), 404, "NOT_FOUND")
