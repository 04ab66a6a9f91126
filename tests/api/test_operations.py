"""What operators read is true: the sums over all processes, whether it can book, and what the API offers."""

from __future__ import annotations

import asyncio
import signal
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jsonschema
import pytest

from service.app import Services
from service.assemble_api import build_api
from service.config import Settings
from service.outside.http import open_session
from service.up import is_ready
from tests.api.client import Client, all_at_once, assert_problem, booking, until_redis_is_asked
from tests.api.stack import Stack
from tests.servers import eventually, free_port

BOOK = 'method="POST",route="/api/appointments"'
LOOK = 'method="GET",route="/api/availability"'


def requests(series: dict[str, float], route: str, status: int) -> float:
    return series.get(f'booking_http_requests_total{{{route},status="{status}"}}', 0)


def claims(series: dict[str, float], outcome: str) -> float:
    return series[f'booking_claims_total{{outcome="{outcome}"}}']


async def test_the_sums_are_of_all_processes_and_survive_one_of_them(api: Client, stack: Stack) -> None:
    processes = stack.pids("api-process")
    assert len(processes) == 2
    await until_redis_is_asked(api)
    before = await api.series()
    starts = await api.starts("cal-3", coaches=2)
    wishes = [booking(start, "cal-3", person) for person in range(3) for start in starts[:20]]
    wishes += [booking(starts[0], "cal-99")] * 5
    answers = await all_at_once(api.book(wish) for wish in wishes)
    looked = await all_at_once(api("GET", "/api/availability?days=1") for _ in range(30))
    assert {answer.status for answer in looked} == {200}
    statuses = {status: sum(answer.status == status for answer in answers) for status in (201, 409, 404)}
    assert sum(statuses.values()) == 65
    # A working day's limit is ten appointments a coach, so not every start need have room.
    assert statuses[404] == 5

    def grown(now: dict[str, float]) -> dict[str, float]:
        return {
            **{f"{status}": requests(now, BOOK, status) - requests(before, BOOK, status) for status in statuses},
            "looked": requests(now, LOOK, 200) - requests(before, LOOK, 200),
        }

    # The request for the starts is one look more.
    wanted = {**{f"{status}": float(count) for status, count in statuses.items()}, "looked": 31.0}
    now = await api.series()
    assert grown(now) == wanted
    count = f"booking_http_request_duration_seconds_count{{{BOOK}}}"

    async def all_are_timed() -> bool:  # the other process writes its durations down a moment later
        nonlocal now
        now = await api.series()
        return now[count] - before.get(count, 0) == 65

    await eventually(all_are_timed, what="the durations of 65 answers")
    bucket = f'booking_http_request_duration_seconds_bucket{{le="+Inf",{BOOK}}}'
    assert now[bucket] == now[count]
    assert claims(now, "claimed") - claims(before, "claimed") == statuses[201]
    # Whoever is refused in a moment in which Redis is not asked is refused by Postgres, which counts no claim.
    assert 0 < claims(now, "taken") - claims(before, "taken") <= statuses[409]
    batched = "booking_commit_batch_size_sum"
    assert now[batched] - before[batched] == statuses[201]
    assert now["booking_commit_batch_size_count"] - before["booking_commit_batch_size_count"] <= statuses[201]
    assert now["booking_backstop_conflicts_total"] == before["booking_backstop_conflicts_total"] == 0

    stack.kill(processes[0])

    async def replaced() -> bool:
        pids = stack.pids("api-process")
        return len(pids) == 2 and processes[0] not in pids

    await eventually(replaced, within_s=60, what="a new process")

    async def both_answer() -> bool:
        seen = await all_at_once(api("GET", "/api/availability?days=1") for _ in range(20))
        return {answer.status for answer in seen} == {200}

    await eventually(both_answer, within_s=60, what="answers")
    after = await api.series()
    assert {name: after_value for name, after_value in grown(after).items() if name != "looked"} == {
        name: value for name, value in wanted.items() if name != "looked"
    }

    async def only_this_one() -> bool:
        return (await api.series())["booking_http_requests_in_flight"] == 1

    await eventually(only_this_one, what="no request in flight but the look itself")


async def test_deliveries_and_streams_are_shown(api: Client) -> None:
    delivered = 'booking_deliveries_total{destination="crm",outcome="delivered"}'
    before = (await api.series())[delivered]
    for start in (await api.starts())[-5:]:
        assert (await api.book(booking(start))).status == 201

    left: dict[str, float] = {}

    async def told() -> bool:
        now = await api.series()
        left.clear()
        for stream in ("crm", "calendar-blocks", "notifications", "calendar-events", "idempotency"):
            for figure in ("depth", "oldest_age_seconds", "due", "dead"):
                name = f'booking_stream_{figure}{{stream="{stream}"}}'
                if now[name]:
                    left[name] = now[name]
        # Other files leave an event there that cannot be applied, if they have their turn at this system before.
        left.pop('booking_stream_dead{stream="calendar-events"}', None)
        return now[delivered] >= before + 5 and not left

    try:
        await eventually(told, what="five deliveries and empty streams")
    except AssertionError as problem:
        raise AssertionError(f"{problem}: left {left}") from None


async def test_made_up_paths_and_methods_make_no_series(api: Client) -> None:
    before = len(await api.series())
    for number in range(20):
        assert (await api("GET", f"/api/made-up-{number}")).status == 404
        assert (await api(f"MADE{number}", "/livez")).status == 405
        assert (await api("GET", f"/api/appointments/made-up-{number}")).status == 404
    series = await api.series()
    assert not [name for name in series if "made-up" in name or "MADE" in name]
    assert len(series) <= before + 30


async def test_it_is_ready_for_people_once_its_mocks_can_be_asked_too(stack: Stack) -> None:
    settings = Settings(port=stack.ports["PORT"])
    mocks = [stack.ports[name] for name in ("CALENDAR_PORT", "CRM_PORT", "AUTH_PORT")]
    assert await asyncio.to_thread(is_ready, settings, mocks)
    assert not await asyncio.to_thread(is_ready, settings, [*mocks, free_port()])
    assert not await asyncio.to_thread(is_ready, Settings(port=free_port()), mocks)


async def test_it_is_ready_while_it_can_book(api: Client, stack: Stack) -> None:
    anybody = api.with_key(None)
    (server,) = stack.pids("valkey-server")

    async def readiness() -> tuple[int, Any]:
        answer = await anybody("GET", "/readyz")
        return answer.status, answer.json

    assert await readiness() == (200, {"status": "ready", "dependencies": {"postgres": "up", "redis": "up"}})
    stack.kill(server, number=signal.SIGSTOP)
    try:
        assert await readiness() == (200, {"status": "ready", "dependencies": {"postgres": "up", "redis": "down"}})
        shown = await anybody("GET", "/health")
        assert (shown.status, shown.json["dependencies"]["redis"]) == (503, "down")
        assert (await anybody("GET", "/livez")).json == {"status": "alive"}
        assert (await anybody("GET", "/metrics")).status == 200
    finally:
        stack.kill(server, number=signal.SIGCONT)

    async def ready() -> bool:
        answers = await all_at_once(anybody("GET", "/readyz") for _ in range(8))
        return {answer.status for answer in answers} == {200}

    await eventually(ready, what="being ready again")
    assert (await anybody("GET", "/health")).json == {
        "status": "healthy",
        "dependencies": {"postgres": "up", "redis": "up"},
    }
    assert (await api.book(booking((await api.starts())[30]))).status == 201


async def test_the_document_lists_exactly_what_there_is(api: Client, services: Services) -> None:
    document = (await api.with_key(None)("GET", "/openapi.json")).json
    assert document["openapi"].startswith("3.1.")
    async with open_session() as session:
        _, routes = build_api(services, session)
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert listed == {(route.method, route.path.replace("<", "{").replace(">", "}")) for route in routes}
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["summary"]
        assert operation["responses"]
    for path, item in document["paths"].items():
        for operation in item.values():
            places = {found["name"] for found in operation["parameters"] if found["in"] == "path"}
            assert places == {part[1:-1] for part in path.split("/") if part.startswith("{")}


async def test_the_document_says_what_must_be_given_and_who_answers_304(api: Client) -> None:
    """What it calls optional can be left out, what it calls required cannot, and 304 is where there is an `ETag`."""
    document = (await api.with_key(None)("GET", "/openapi.json")).json
    made = await api.book(booking((await api.starts())[40]))
    required = {"calendar_id": "cal-1", "start_time": "2030-01-01T10:00:00Z", "date": "2030-01-01"}
    given = {"appointment_id": made.json["appointment_id"], "coach_id": "coach-1", "calendar_id": "cal-1"}
    tagged: set[str] = set()
    for path, item in document["paths"].items():
        if "get" not in item or "security" not in item["get"]:
            continue
        target, parameters, responses = path, item["get"]["parameters"], item["get"]["responses"]
        for name in {one["name"] for one in parameters if one["in"] == "path"}:
            target = target.replace(f"{{{name}}}", str(given.get(name, uuid.uuid4())))
        needed = [one["name"] for one in parameters if one["in"] == "query" and one["required"]]
        answer = await api("GET", target + "?" + "&".join(f"{name}={required[name]}" for name in needed))
        assert answer.status in (200, 404), (path, answer.raw)
        for left_out in needed:
            rest = "&".join(f"{name}={required[name]}" for name in needed if name != left_out)
            assert_problem(await api("GET", f"{target}?{rest}"), 400, "VALIDATION_ERROR")
        assert ("304" in responses) == ("ETag" in answer.headers), path
        assert ("304" in responses) == any(one["name"] == "If-None-Match" for one in parameters), path
        if "304" in responses:
            tagged.add(path)
            known = {"If-None-Match": answer.headers["ETag"]}
            assert (await api("GET", target, headers=known)).status == 304, path
    assert tagged == {"/api/availability", "/api/appointments/{appointment_id}"}


async def test_the_documents_schemas_are_schemas_and_every_reference_leads_somewhere(api: Client) -> None:
    document = (await api.with_key(None)("GET", "/openapi.json")).json

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    assert found <= {f"#/components/schemas/{name}" for name in schemas}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/openapi.json"])
async def test_operators_need_no_key(api: Client, path: str) -> None:
    for key in (None, "nope"):
        answer = await api.with_key(key)("GET", path)
        assert answer.status == 200
        assert "X-RateLimit-Limit" not in answer.headers


async def test_the_processes_close_their_connections_when_clients_do(stack: Stack) -> None:
    """Five hundred connections that come and go leave none open on our side."""

    port = f":{urlsplit(stack.url).port:04X}"
    established, close_wait = "01", "08"

    def open_connections() -> int:
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(local.endswith(port) and state in (established, close_wait) for _, local, _, state, *_ in rows)

    before = open_connections()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50, force_close=True)) as session:
        client = Client(session, stack.url, None)
        await all_at_once(client("GET", "/livez") for _ in range(500))
    await eventually(lambda: open_connections() <= before, what="the connections being closed")
