"""Which event reached whom can be looked at with every attempt, before it is told, while it fails and after."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from service.app import Services
from service.db.delivery_log import DeliveryLog, Heard
from service.db.statements import statement
from service.mocks.server import serving
from tests.api.client import Client, assert_problem
from tests.api_people.asking import refused, seen
from tests.api_people.conftest import READER, STRANGER
from tests.db.rows import looking_into
from tests.delivery.bench import Bench, Recorder
from tests.servers import eventually

PATH = "/api/webhooks/deliveries"
BOTH = ["calendar-blocks", "crm"]
ALL = sorted([*BOTH, "notifications"])


def accepting(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A receiver that takes everything."""
    return 200, {"success": True, "crm_id": "crm-1", "block_id": "block-1"}


async def everything(api: Client, **query: str) -> list[dict[str, Any]]:
    """Every delivery of a list, read by small pages."""
    words = "".join(f"&{name}={value}" for name, value in query.items())
    found, cursor = list[dict[str, Any]](), ""
    while True:
        page = await seen(api, f"{PATH}?limit=3{words}{cursor}")
        found += page["deliveries"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def test_every_event_is_listed_for_each_destination_before_anybody_was_told(bench: Bench, api: Client) -> None:
    booked = await bench.book(4)
    await bench.confirm(booked[0])
    await bench.cancel(booked[1])
    found = await everything(api)
    ids = [one["delivery_id"] for one in found]
    expected = [f"{one['appointment_id']}.1.{name}" for one in booked for name in ALL]
    expected += [f"{booked[0]['appointment_id']}.2.crm"]  # a calendar does not hear that somebody confirmed
    expected += [f"{booked[1]['appointment_id']}.2.{name}" for name in ALL]
    assert sorted(ids) == sorted(expected)
    assert len(set(ids)) == len(ids)
    assert {(one["state"], one["attempts"], one["replays"]) for one in found} == {("pending", 0, 0)}
    assert [one["delivery_id"] for one in await everything(api, state="pending")] == ids
    for state in ("delivered", "retrying", "dead"):
        assert await everything(api, state=state) == []
    mine = await everything(api, appointment_id=booked[1]["appointment_id"])
    assert [(one["event_id"][-1], one["destination"]) for one in mine] == [(n, name) for n in "21" for name in ALL]
    assert Counter(one["destination"] for one in await everything(api, destination="crm")) == {"crm": 6}
    one = await seen(api, f"{PATH}/{ids[0]}")
    assert (one["state"], one["attempt_log"]) == ("pending", [])
    assert one["occurred_at"] == one["updated_at"]


async def test_states_and_attempts_are_shown_as_they_come(bench: Bench, api: Client) -> None:
    answers = iter([(503, {"error": "busy"}), (429, {"error": "slow\0down" + "x" * 3000})])

    def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path.endswith("created"):
            return next(answers, accepting(path, body))
        return (422, {"error": "no such appointment"}) if path.endswith("cancelled") else accepting(path, body)

    async with serving(Recorder(answer).app) as crm, serving(Recorder(accepting).app) as calendar:
        (booked,) = await bench.book(1)
        await bench.cancel(booked)
        async with bench.worker(crm=crm, calendar=calendar):
            await eventually(bench.nothing_left, what="empty streams")
    event = booked["appointment_id"]
    found = [one for one in await everything(api) if one["destination"] in BOTH]
    states = {one["delivery_id"]: (one["state"], one["attempts"], one["last_status"]) for one in found}
    assert states == {
        f"{event}.2.calendar-blocks": ("delivered", 1, 200),
        f"{event}.2.crm": ("dead", 1, 422),
        f"{event}.1.calendar-blocks": ("delivered", 1, 200),
        f"{event}.1.crm": ("delivered", 3, 200),
    }
    delivered = [one for one in await everything(api, state="delivered") if one["destination"] in BOTH]
    assert {one["delivery_id"] for one in delivered} == {f"{event}.2.calendar-blocks"} | {
        f"{event}.1.{name}" for name in BOTH
    }
    (dead,) = await everything(api, state="dead")
    assert "no such appointment" in dead["last_error"]
    assert dead["delivered_at"] is None
    one = await seen(api, f"{PATH}/{event}.1.crm")
    log = one.pop("attempt_log")
    assert one in delivered
    assert one["delivered_at"] == one["updated_at"]
    tried = [(row["replay"], row["attempt"], row["status"], row["outcome"]) for row in log]
    assert tried == [(0, 1, 503, "retrying"), (0, 2, 429, "retrying"), (0, 3, 200, "delivered")]
    assert "busy" in log[0]["answer"]
    assert log[1]["answer"].startswith('{"error": "slow')
    assert len(log[1]["answer"]) == 1024
    assert "crm-1" in log[2]["answer"]
    assert [row["made_at"] for row in log] == sorted(row["made_at"] for row in log)
    assert all(row["duration_ms"] >= 0 for row in log)


async def test_what_nobody_answers_is_listed_as_being_retried(bench: Bench, api: Client) -> None:
    recorder = Recorder(lambda _path, _body: (503, {"error": "busy", "retry_after": 100}))
    async with serving(recorder.app) as url, bench.worker(crm=url, calendar=url):
        (booked,) = await bench.book(1)

        async def retrying() -> bool:
            return len(await everything(api, state="retrying")) == 2

        await eventually(retrying, what="two that are retried")
    (one,) = await everything(api, state="retrying", destination="crm")
    assert one["delivery_id"] == f"{booked['appointment_id']}.1.crm"
    assert (one["attempts"], one["last_status"], one["delivered_at"]) == (1, 503, None)
    mine = f"appointment_id={booked['appointment_id']}"
    assert (await seen(api, f"{PATH}?state=retrying&{mine}&destination=crm"))["deliveries"] == [one]
    assert await everything(api, state="pending") == []


async def test_a_page_that_looks_through_much_and_finds_little_ends_early_and_goes_on(
    bench: Bench, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked = await bench.book(7)
    oldest = min(booked, key=lambda one: one["appointment_id"])
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
        " SELECT org_id, appointment_id, sequence, 'crm', 'delivered', 1 FROM events WHERE appointment_id = $1",
        oldest["appointment_id"],
    )
    await bench.sql(
        "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
        " SELECT org_id, appointment_id, sequence, 'endpoint:gone', 'delivered', 1 FROM events"
        " WHERE appointment_id = $1",
        oldest["appointment_id"],
    )
    monkeypatch.setattr("service.db.delivery_log.MOST_SCANNED", 2)
    found = await everything(api, state="delivered")
    assert [one["destination"] for one in found] == ["crm", "endpoint:gone"]
    assert {one["event_id"] for one in found} == {f"{oldest['appointment_id']}.1"}
    assert len(await everything(api)) == 7 * len(ALL) + 1


async def test_a_destination_that_came_later_is_not_asked_about_what_was_before(
    bench: Bench, services: Services, org: int
) -> None:
    await bench.book(2)
    (row,) = await bench.sql("SELECT pg_current_snapshot()::text AS now")
    (later,) = await bench.book(1, calendar="cal-2")
    log = DeliveryLog(services.database)
    heard = [Heard("endpoint:1", "appointment.created", row["now"]), Heard("endpoint:2", "appointment.created")]
    page = await log.page(org, heard, 10)
    hearing = [(str(one.ref.appointment_id), one.destination) for one in page.deliveries]
    assert (later["appointment_id"], "endpoint:1") in hearing
    assert Counter(destination for _, destination in hearing) == {"endpoint:1": 1, "endpoint:2": 3}


async def test_where_the_calendar_knows_nobody_nothing_is_due_to_it(bench: Bench, api: Client) -> None:
    await bench.sql("UPDATE organizations SET name = 'another' WHERE org_id = $1", bench.org)
    (booked,) = await bench.book(1)
    assert [one["destination"] for one in await everything(api)] == ["crm", "notifications"]
    assert_problem(await api("GET", f"{PATH}/{booked['appointment_id']}.1.calendar-blocks"), 404, "NOT_FOUND")


async def test_another_organization_sees_none_of_it(bench: Bench, api: Client) -> None:
    await bench.book(3)
    page = await seen(api.with_key(READER), f"{PATH}?limit=1")
    stranger = api.with_key(STRANGER)
    for path in (PATH, f"{PATH}?cursor={page['next_cursor']}"):
        assert (await seen(stranger, path))["deliveries"] == []
    one = page["deliveries"][0]["delivery_id"]
    for method, path in (("GET", f"{PATH}/{one}"), ("POST", f"{PATH}/{one}/replay")):
        assert_problem(await stranger(method, path), 404, "NOT_FOUND")


async def test_what_is_asked_wrongly_is_refused(bench: Bench, api: Client) -> None:
    (booked,) = await bench.book(1)
    await bench.confirm(booked)
    for query, field in (
        ("state=lost", "state"),
        ("appointment_id=1", "appointment_id"),
        ("limit=0", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=ZGVsaXZlcnk6MQ", "cursor"),
    ):
        refused(await api("GET", f"{PATH}?{query}"), field)
    event = booked["appointment_id"]
    for wrong in (f"{event}.1", f"{event}.9.crm", f"{event}.1.nobody", f"{event}.2.calendar-blocks", "x.1.crm", "%00"):
        assert_problem(await api("GET", f"{PATH}/{wrong}"), 404, "NOT_FOUND")
        assert_problem(await api("POST", f"{PATH}/{wrong}/replay"), 404, "NOT_FOUND")


async def test_lists_are_read_by_their_indexes(services: Services, org: int) -> None:
    assert services.settings.database_url is not None
    async with looking_into(services.settings.database_url) as connection:
        await connection.execute(
            "INSERT INTO events (org_id, appointment_id, sequence, type, occurred_at, actor, correlation_id, data)"
            " SELECT $1, gen_random_uuid(), 1, 'appointment.created', now(), 'tests', 'corr', '{}'::json"
            " FROM generate_series(1, 20000)",
            org,
        )
        await connection.execute(
            "INSERT INTO deliveries (org_id, appointment_id, sequence, destination, state, attempts)"
            " SELECT org_id, appointment_id, sequence, 'crm',"
            " CASE WHEN random() < 0.02 THEN 'dead' ELSE 'delivered' END, 1 FROM events"
        )
        await connection.execute("ANALYZE events; ANALYZE deliveries")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        plans: dict[str, str] = {}
        for name, types, more in (
            ("list_deliveries", ", text[], text[], text[]", ", '{crm}', '{appointment.created}', '{NULL}'"),
            ("list_deliveries_in_trouble", "", ""),
        ):
            text = statement(name)
            await connection.execute(
                f"PREPARE {name} (int, uuid, uuid, int, bigint, text, text, text{types}) AS {text}"
            )
            given = f"{org}, '{'0' * 32}', '{'f' * 32}', 9, 51, 'dead', NULL, ''{more}"
            rows = await connection.fetch(f"EXPLAIN EXECUTE {name} ({given})")
            plans[name] = "\n".join(row[0] for row in rows)
    assert "Scan Backward using events_pkey" in plans["list_deliveries"], plans
    assert "Scan Backward using deliveries_in_trouble" in plans["list_deliveries_in_trouble"], plans
    assert not any("Seq Scan" in plan for plan in plans.values()), plans
