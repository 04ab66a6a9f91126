"""The feed shows every committed change once, in order, however commits overlap; and of one's own organization only."""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.app import Services
from service.db.feed import BEGINNING, EventFeed, FeedPage
from service.db.statements import statement
from tests.api.client import Client
from tests.api_people.asking import refused, seen
from tests.api_people.conftest import READER, STRANGER
from tests.db.rows import looking_into
from tests.delivery.bench import Bench

_INSERT = (
    "INSERT INTO events (org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, data)"
    " VALUES ($1, $2, $3, 'appointment.updated', now(), 'tests', 'corr', '{}'::json)"
)


@pytest.fixture
def feed(services: Services) -> EventFeed:
    """The feed as the API has it."""
    return EventFeed(services.database)


@asynccontextmanager
async def writing(services: Services, org: int) -> AsyncIterator[tuple[UUID, Any]]:
    """An event in a transaction that is still open, and the transaction."""
    assert services.settings.database_url is not None
    async with looking_into(services.settings.database_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        appointment = uuid4()
        await connection.execute(_INSERT, org, appointment, 1)
        yield appointment, transaction


def ids(page: FeedPage) -> list[UUID]:
    """The appointments of a page's events."""
    return [event.ref.appointment_id for event in page.events]


async def test_what_commits_late_under_a_lower_number_is_neither_skipped_nor_repeated(
    services: Services, org: int, feed: EventFeed
) -> None:
    async with (
        writing(services, org) as (first, first_ends),
        writing(services, org) as (second, second_ends),
        writing(services, org) as (third, third_ends),
    ):
        page = await feed.read(org, BEGINNING, 10)
        assert (ids(page), page.has_more) == ([], False)
        await second_ends.commit()
        page = await feed.read(org, page.next, 10)
        assert ids(page) == [], "the first may still commit below it"
        await third_ends.rollback()
        await first_ends.commit()
        page = await feed.read(org, page.next, 10)
        assert ids(page) == [first, second]
        assert ids(await feed.read(org, page.next, 10)) == []
    assert third not in ids(await feed.read(org, BEGINNING, 10))


async def test_a_reader_that_follows_sees_each_event_of_overlapping_transactions_once(
    services: Services, org: int, feed: EventFeed
) -> None:
    heard: list[UUID] = []
    place, over = BEGINNING, asyncio.Event()

    async def follow() -> None:
        nonlocal place
        while True:
            last = over.is_set()
            page = await feed.read(org, place, 3)
            heard.extend(ids(page))
            place = page.next
            if last and not page.events:
                return
            await asyncio.sleep(0)

    following = asyncio.ensure_future(follow())
    committed: set[UUID] = set()

    async def write(number: int) -> None:
        async with writing(services, org) as (appointment, transaction):
            for _ in range(7 * number % 11):  # each is open for another while, so that commits overtake begins
                await services.database.fetch("read_feed", org, "0", UUID(int=0), 0, 1, None)
            if number % 5 == 4:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed.add(appointment)

    for _ in range(4):
        await asyncio.gather(*(write(number) for number in range(10)))
    over.set()
    await asyncio.wait_for(following, 60)
    assert len(committed) == 32
    assert sorted(heard) == sorted(committed)


async def test_several_events_of_one_transaction_are_paged_in_order(
    services: Services, org: int, feed: EventFeed
) -> None:
    assert services.settings.database_url is not None
    async with looking_into(services.settings.database_url) as connection, connection.transaction():
        for appointment in (uuid4() for _ in range(5)):
            for sequence in (2, 1, 3):
                await connection.execute(_INSERT, org, appointment, sequence)
    found: list[Any] = []
    place = BEGINNING
    while (page := await feed.read(org, place, 2)).events:
        found += [(event.ref.appointment_id, event.ref.sequence) for event in page.events]
        place = page.next
    assert len(found) == 15
    assert found == sorted(set(found))


async def test_pages_under_concurrent_bookings_are_the_table(bench: Bench, api: Client) -> None:
    found: list[dict[str, Any]] = []
    cursor, over = "", asyncio.Event()

    async def follow() -> None:
        nonlocal cursor
        while True:
            last = over.is_set()
            page = await seen(api, f"/api/events?limit=7{cursor}")
            found.extend(page["events"])
            cursor = f"&after={page['next_cursor']}"
            if last and not page["events"]:
                return

    following = asyncio.ensure_future(follow())
    booked = await bench.book(60)
    await asyncio.gather(*(bench.confirm(one) for one in booked[:30]))
    await asyncio.gather(*(bench.cancel(one, "changed") for one in booked[10:40]))
    over.set()
    await asyncio.wait_for(following, 60)
    rows = await bench.sql("SELECT * FROM events ORDER BY committed_in, appointment_id, sequence")
    assert len(rows) == 120
    assert [one["event_id"] for one in found] == [f"{row['appointment_id']}.{row['sequence']}" for row in rows]
    sequences: dict[str, list[int]] = defaultdict(list)
    for one, row in zip(found, rows, strict=True):
        appointment = one["data"]["appointment"]
        assert (one["type"], one["actor"], one["reason"]) == (row["type"], row["actor"], row["reason"])
        assert one["correlation_id"] == row["correlation_id"]
        assert appointment["version"] == one["sequence"]
        sequences[appointment["appointment_id"]].append(one["sequence"])
    assert all(of_one == list(range(1, len(of_one) + 1)) for of_one in sequences.values())
    # Byte for byte the state that was answered.
    raw = (await api("GET", "/api/events?limit=1")).raw
    assert rows[0]["data"] in raw


async def test_chosen_types_and_one_appointment(bench: Bench, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    booked = await bench.book(9)
    for one in booked:
        await bench.confirm(one)
    await bench.cancel(booked[4])
    cancelled = await seen(api, "/api/events?types=appointment.cancelled")
    assert [one["type"] for one in cancelled["events"]] == ["appointment.cancelled"]
    mine = await seen(api, f"/api/events?appointment_id={booked[4]['appointment_id']}")
    assert [one["sequence"] for one in mine["events"]] == [1, 2, 3]
    both = "types=appointment.created,appointment.cancelled"
    rest = await seen(api, f"/api/events?appointment_id={booked[4]['appointment_id']}&{both}&limit=1")
    assert ([one["sequence"] for one in rest["events"]], rest["has_more"]) == ([1], True)
    rest = await seen(
        api, f"/api/events?appointment_id={booked[4]['appointment_id']}&{both}&after={rest['next_cursor']}"
    )
    assert ([one["sequence"] for one in rest["events"]], rest["has_more"]) == ([3], False)
    # A page of few among many ends early, and the next goes on where it ended.
    monkeypatch.setattr("service.db.feed.MOST_SCANNED", 4)
    pages, cursor = list[list[str]](), ""
    while True:
        page = await seen(api, f"/api/events?types=appointment.cancelled{cursor}")
        pages.append([one["type"] for one in page["events"]])
        cursor = f"&after={page['next_cursor']}"
        if not page["has_more"]:
            break
    assert pages == [[], [], [], [], ["appointment.cancelled"]]


async def test_the_end_has_a_cursor_and_what_comes_later_follows_it(bench: Bench, api: Client) -> None:
    empty = await seen(api, "/api/events")
    assert (empty["events"], empty["has_more"]) == ([], False)
    (appointment,) = await bench.book(1)
    page = await seen(api, f"/api/events?after={empty['next_cursor']}")
    (event,) = page["events"]
    assert event["event_id"] == f"{appointment['appointment_id']}.1"
    assert event["data"]["appointment"] == appointment
    after = await seen(api, f"/api/events?after={page['next_cursor']}")
    assert (after["events"], after["next_cursor"]) == ([], page["next_cursor"])


async def test_events_of_a_newer_release_are_shown_by_the_names_they_have(bench: Bench, api: Client) -> None:
    (appointment,) = await bench.book(1)
    one = UUID(appointment["appointment_id"])
    await bench.sql("UPDATE events SET type = 'appointment.praised' WHERE appointment_id = $1", one)
    (listed,) = (await seen(api, "/api/events"))["events"]
    (past,) = (await seen(api, f"/api/appointments/{one}/history"))["history"]
    assert [listed["type"], past["type"]] == ["appointment.praised"] * 2
    assert await seen(api, f"/api/appointments/{one}/notifications") == []


async def test_a_cursor_of_another_organization_shows_nothing_of_it(bench: Bench, api: Client) -> None:
    await bench.book(3)
    theirs = await seen(api, "/api/events?limit=1")
    stranger = api.with_key(STRANGER)
    for path in ("/api/events", f"/api/events?after={theirs['next_cursor']}"):
        page = await seen(stranger, path)
        assert (page["events"], page["has_more"]) == ([], False)
    appointment = theirs["events"][0]["data"]["appointment"]["appointment_id"]
    assert (await seen(stranger, f"/api/events?appointment_id={appointment}"))["events"] == []
    assert len((await seen(api.with_key(READER), "/api/events"))["events"]) == 3


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_a_bad_query_is_refused_by_name(api: Client) -> None:
    nobody = UUID(int=0).hex
    for query, field in (
        ("after=", "after"),
        ("after=!!!", "after"),
        ("after=" + _cursor("contact:1"), "after"),
        ("after=" + _cursor(f"event:{2**64}/{nobody}/0"), "after"),
        ("after=" + _cursor(f"event:1/{nobody}/9999999999"), "after"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("types=", "types"),
        ("types=appointment.created,appointment.exploded", "types"),
        ("appointment_id=1", "appointment_id"),
    ):
        refused(await api("GET", f"/api/events?{query}"), field)
    largest = _cursor(f"event:{2**64 - 1}/{nobody}/999999999")
    assert (await seen(api, f"/api/events?after={largest}"))["events"] == []


async def test_a_page_is_read_by_the_index_from_its_place_on(services: Services, org: int) -> None:
    assert services.settings.database_url is not None
    async with looking_into(services.settings.database_url) as connection:
        await connection.execute(
            "INSERT INTO events (org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, data,"
            " committed_in)"
            " SELECT $1, gen_random_uuid(), 1, 'appointment.created', now(), 'tests', 'corr', '{}'::json,"
            " (1 + n / 50)::text::xid8 FROM generate_series(1, 20000) AS n",
            org,
        )
        await connection.execute("ANALYZE events")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        text = statement("read_feed")
        await connection.execute(f"PREPARE page (int, text, uuid, int, bigint, text[]) AS {text}")
        plan = await connection.fetch(
            f"EXPLAIN (ANALYZE, FORMAT TEXT) EXECUTE page ({org}, '200', '{UUID(int=0)}', 0, 51, NULL)"
        )
    shown = "\n".join(row[0] for row in plan)
    assert "Index Scan using events_in_order_of_commit" in shown, shown
    assert "Seq Scan" not in shown, shown
    (scan,) = [row[0] for row in plan if "events_in_order_of_commit" in row[0]]
    rows = int(scan.partition("actual ")[2].partition("rows=")[2].partition(" ")[0].partition(".")[0])
    assert rows < 250, "the page is read, not the table"
