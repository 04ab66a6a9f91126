"""Registering, listing, changing, pausing, removing and rotating over the API; a secret is shown once and only once."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any
from uuid import UUID, uuid4

from structlog.testing import capture_logs

from service.app import Services
from service.db.endpoints import MOST_SECRETS, EndpointStore
from service.domain.event import EventType
from service.domain.signed_message import secret_text
from service.operations.manage_endpoints import MOST_ENDPOINTS
from tests.api.client import Client, assert_problem
from tests.api_people.asking import changed, made, pages, refused, seen
from tests.api_people.conftest import READER, STRANGER

PATH = "/api/webhooks/endpoints"
URL = "https://hooks.example.com/booking"
SHAPE = {
    *("endpoint_id", "url", "event_types", "description", "state", "reason", "paused_at", "failing_since"),
    *("created_at", "updated_at"),
}


async def registered(api: Client, **more: Any) -> dict[str, Any]:
    """A new endpoint."""
    return await made(api, PATH, url=URL, **more)


async def test_the_secret_is_shown_once(api: Client, services: Services, org: int) -> None:
    with capture_logs() as logs:
        answer = await api("POST", PATH, {"url": URL, "description": "ours"})
        assert answer.status == 201, answer.raw
        one = answer.json
        anew = await api("POST", f"{PATH}/{one['endpoint_id']}/rotate-secret")
        rotated = anew.json
        others = [
            await api("GET", PATH),
            await api("GET", f"{PATH}/{one['endpoint_id']}"),
            await api("PATCH", f"{PATH}/{one['endpoint_id']}", {"description": None}),
            await api("DELETE", f"{PATH}/{one['endpoint_id']}"),
        ]
    assert answer.headers["Location"] == f"{PATH}/{one['endpoint_id']}"
    assert answer.headers["Cache-Control"] == anew.headers["Cache-Control"] == "no-store"
    assert set(one) == set(rotated) == {*SHAPE, "secret"}
    assert UUID(one["endpoint_id"]).version == 7
    assert (one["url"], one["description"], one["state"], one["reason"]) == (URL, "ours", "active", None)
    assert one["event_types"] == sorted(EventType)
    assert one["created_at"].endswith("Z")
    secrets = [one["secret"], rotated["secret"]]
    assert secrets[0] != secrets[1]
    for secret in secrets:
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
        raw = base64.b64decode(secret.removeprefix("whsec_"))
        assert len(raw) == 32
        shown = "".join(other.raw.decode() for other in others) + str(logs)
        for form in (secret, secret.removeprefix("whsec_"), raw.hex(), repr(raw)):
            assert form not in shown
    assert any(line["event"] == "endpoint registered" for line in logs)
    assert [other.status for other in others] == [200] * 4
    assert set(others[1].json) == SHAPE


async def test_however_often_a_secret_is_made_only_the_newest_are_kept(
    api: Client, services: Services, org: int
) -> None:
    one, other = [await registered(api) for _ in range(2)]
    made_of = [one["secret"]]
    for _ in range(MOST_SECRETS + 2):
        answer = await api("POST", f"{PATH}/{one['endpoint_id']}/rotate-secret")
        made_of.append(answer.json["secret"])
    kept: dict[str, set[str]] = {}
    async with services.database.writing() as connection:
        for row in await connection.fetch("SELECT endpoint_id, secret FROM webhook_secrets WHERE org_id = $1", org):
            kept.setdefault(str(row["endpoint_id"]), set()).add(secret_text(row["secret"]))
    assert kept == {one["endpoint_id"]: set(made_of[-MOST_SECRETS:]), other["endpoint_id"]: {other["secret"]}}
    callee = (await EndpointStore(services.database).callees([(org, UUID(one["endpoint_id"]))]))[
        UUID(one["endpoint_id"])
    ]
    assert [secret_text(secret) for secret in callee.keys.secrets] == made_of[: -MOST_SECRETS - 1 : -1]


async def test_a_list_has_every_endpoint_once_in_the_order_they_were_registered(api: Client) -> None:
    ids = [(await registered(api))["endpoint_id"] for _ in range(5)]
    listed = await pages(api, PATH, "endpoints", 2)
    assert [[one["endpoint_id"] for one in page] for page in listed] == [ids[:2], ids[2:4], ids[4:]]
    refused(await api("GET", f"{PATH}?cursor=nonsense"), "cursor")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "url"),
    ({"url": 7}, "url"),
    ({"url": ""}, "url"),
    ({"url": "hooks.example.com"}, "url"),
    ({"url": "ftp://hooks.example.com/"}, "url"),
    ({"url": "https://user:word@hooks.example.com/"}, "url"),
    ({"url": "https://hooks.example.com/#part"}, "url"),
    ({"url": "https://hooks.example.com:25/"}, "url"),
    ({"url": "https://2130706433/"}, "url"),
    ({"url": "https://" + "a" * 3000}, "url"),
    ({"url": "https://hooks.example.com/\0"}, "url"),
    ({"url": URL, "event_types": []}, "event_types"),
    ({"url": URL, "event_types": "appointment.created"}, "event_types"),
    ({"url": URL, "event_types": ["appointment.created", "appointment.exploded"]}, "event_types[1]"),
    ({"url": URL, "description": "x" * 201}, "description"),
    ({"url": URL, "description": "a\0b"}, "description"),
    ({"url": URL, "secret": "mine"}, "secret"),
]


async def test_a_wrong_body_is_refused_naming_the_field(api: Client) -> None:
    one = (await registered(api))["endpoint_id"]
    for body, field in WRONG:
        refused(await api("POST", PATH, body), field)
        change = {name: value for name, value in body.items() if value != URL}
        if change:
            refused(await api("PATCH", f"{PATH}/{one}", change), field)
    assert len((await seen(api, PATH))["endpoints"]) == 1


async def test_a_change_changes_what_it_names(api: Client) -> None:
    before = await registered(api, event_types=["appointment.created"] * 2, description="d")
    assert before["event_types"] == ["appointment.created"]
    path = f"{PATH}/{before['endpoint_id']}"
    after = await changed(api, path, url="https://other.example.com/", event_types=["appointment.cancelled"])
    assert (after["url"], after["event_types"]) == ("https://other.example.com/", ["appointment.cancelled"])
    assert after["description"] == "d"
    assert after["updated_at"] > before["updated_at"]
    assert await changed(api, path) == after
    paused = await changed(api, path, state="paused")
    assert (paused["state"], paused["reason"]) == ("paused", "paused over the API")
    assert paused["paused_at"]
    resumed = await changed(api, path, state="active", description=None)
    assert (resumed["state"], resumed["reason"], resumed["paused_at"]) == ("active", None, None)
    assert resumed["description"] is None
    refused(await api("PATCH", path, {"state": "disabled"}), "state")
    assert await seen(api, path) == resumed


async def test_a_removed_endpoint_is_gone(api: Client) -> None:
    one = await registered(api)
    path = f"{PATH}/{one['endpoint_id']}"
    answer = await api("DELETE", path)
    assert answer.json == {name: one[name] for name in SHAPE}
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"state": "paused"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate-secret", None),
    ):
        assert_problem(await api(method, where, body), 404, "NOT_FOUND")


async def test_an_unknown_id_is_not_found(api: Client) -> None:
    for one in ("nonsense", str(uuid4())):
        assert_problem(await api("GET", f"{PATH}/{one}"), 404, "NOT_FOUND")
        assert_problem(await api("DELETE", f"{PATH}/{one}"), 404, "NOT_FOUND")


async def test_only_an_administrator_changes_anything_and_nobody_sees_another_organizations(api: Client) -> None:
    one = await registered(api)
    path = f"{PATH}/{one['endpoint_id']}"
    changes = [
        ("POST", PATH, {"url": URL}),
        ("PATCH", path, {"state": "paused"}),
        ("POST", f"{path}/rotate-secret", None),
        ("DELETE", path, None),
    ]
    for method, where, body in changes:
        assert_problem(await api.with_key(READER)(method, where, body), 403, "FORBIDDEN")
    assert await seen(api.with_key(READER), path) == {name: one[name] for name in SHAPE}
    stranger = api.with_key(STRANGER)
    for method, where, body in changes[1:]:
        assert_problem(await stranger(method, where, body), 404, "NOT_FOUND")
    assert_problem(await stranger("GET", path), 404, "NOT_FOUND")
    assert (await seen(stranger, PATH))["endpoints"] == []
    assert (await seen(api, path))["state"] == "active"


async def test_there_is_a_most_and_no_race_passes_it(api: Client, services: Services, org: int) -> None:
    async with services.database.writing() as connection:
        await connection.execute(
            "INSERT INTO webhook_endpoints (org_id, endpoint_id, url)"
            " SELECT $1, gen_random_uuid(), 'https://x.test/' FROM generate_series(1, $2)",
            org,
            MOST_ENDPOINTS - 2,
        )
    answers = await asyncio.gather(*(api("POST", PATH, {"url": URL}) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201, 201, 409, 409, 409, 409]
    assert_problem(next(a for a in answers if a.status == 409), 409, "STATE_CONFLICT")
