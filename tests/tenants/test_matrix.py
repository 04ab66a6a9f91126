"""An organization sees only its own: every endpoint, asked without a key, with a bad one, and for what is another's.

The endpoints are those of the served `/openapi.json`, so one that is added is asked as well.
"""

from __future__ import annotations

import asyncio

from service.app import Services
from tests.api.client import Answer, Client, assert_problem
from tests.api_people.asking import differences
from tests.tenants.endpoints import GIVEN, Endpoint, Request
from tests.tenants.tenant import Tenant, assert_nothing_of

OPEN = {"/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs"}
# Asks for a signature instead of a key; tests/feed/test_signed_events.py says how it is refused.
SIGNED = {"/api/webhooks/calendar/{organization}"}
# Accepted whatever it names; that it comes to nothing is tests/tenants/test_same_words.py's.
LATER = {"accept_calendar_event"}


async def send(client: Client, request: Request, **headers: str) -> Answer:
    """The answer to a request."""
    return await client(request.method, request.target, request.body, headers=headers)


async def test_every_endpoint_is_asked_for_what_there_is(keyed: list[Endpoint], indigo: Tenant) -> None:
    # Otherwise a 404 of the matrix would say nothing.
    assert len(keyed) >= 25
    for endpoint in keyed:
        answer = await send(indigo.api, endpoint.request(indigo))
        assert answer.status < 300 or answer.json["error"] == "STATE_CONFLICT", (str(endpoint), answer.raw)


async def test_only_what_tells_nothing_is_open_to_everybody(
    endpoints: list[Endpoint], nobody: Client, quartz: Tenant, indigo: Tenant
) -> None:
    opened = [endpoint for endpoint in endpoints if endpoint.scope is None]
    assert {endpoint.path for endpoint in opened} <= OPEN | SIGNED, "an endpoint asks for no key"
    for endpoint in opened:
        signed = endpoint.path in SIGNED
        answer = await nobody(endpoint.method, endpoint.path.replace("{organization}", quartz.name))
        assert answer.status == (401 if signed else 200), (str(endpoint), answer.raw)
        for tenant in (quartz, indigo):
            assert_nothing_of(await tenant.secrets(), answer)
    for endpoint in endpoints:
        if endpoint.scope is not None:
            assert endpoint.scope in ({"read"} if endpoint.method == "GET" else {"write", "admin"}), str(endpoint)


async def test_without_a_known_key_every_endpoint_is_401(keyed: list[Endpoint], nobody: Client, quartz: Tenant) -> None:
    secrets = await quartz.secrets()
    before = await quartz.rows()

    async def refuse(endpoint: Endpoint, key: dict[str, str]) -> None:
        request = endpoint.request(quartz)
        answer = await send(nobody, request, **key)
        assert_problem(answer, 401, "AUTHENTICATION_FAILED")
        assert_nothing_of(secrets, answer)
        if endpoint.method == "GET":
            assert (await nobody("HEAD", request.target, headers=key)).status == 401, str(endpoint)

    keys = ({}, {"X-API-Key": "nobodys-key"}, {"Authorization": "Bearer nobodys-key"})
    await asyncio.gather(*(refuse(endpoint, key) for endpoint in keyed for key in keys))
    assert await quartz.rows() == before


async def test_without_its_scope_every_endpoint_is_403(keyed: list[Endpoint], quartz: Tenant) -> None:
    before = await quartz.rows()
    secrets = await quartz.secrets()
    for endpoint in keyed:
        assert endpoint.scope is not None
        answer = await send(quartz.key_without(endpoint.scope), endpoint.request(quartz))
        assert assert_problem(answer, 403, "FORBIDDEN")["details"] == {"required_scope": endpoint.scope}, str(endpoint)
        assert_nothing_of(secrets, answer)
    assert await quartz.rows() == before


async def test_another_organizations_id_in_a_path_is_404(
    keyed: list[Endpoint], services: Services, quartz: Tenant, indigo: Tenant
) -> None:
    before, secrets = [await tenant.rows() for tenant in (quartz, indigo)], await quartz.secrets()
    asked = 0
    for endpoint in keyed:
        for request in endpoint.with_places_of(quartz, indigo):
            answer = await send(indigo.api, request)
            assert answer.status == 404, (str(endpoint), request, answer.raw)
            assert_problem(answer, 404, "NOT_FOUND")
            assert_nothing_of(secrets, answer, request.asked())
            asked += 1
    assert asked >= 15
    assert [await tenant.rows() for tenant in (quartz, indigo)] == before
    assert await differences(services, quartz.org) == 0


async def test_another_organizations_id_in_a_query_finds_nothing(
    keyed: list[Endpoint], quartz: Tenant, indigo: Tenant
) -> None:
    secrets = await quartz.secrets()
    asked = 0
    for endpoint in keyed:
        for request in endpoint.queries_naming(quartz, indigo):
            answer = await send(indigo.api, request)
            assert answer.status in (200, 404), (str(endpoint), request, answer.raw)
            assert_nothing_of(secrets, answer, request.asked())
            asked += 1
    assert asked >= 6


async def test_another_organizations_id_in_a_body_is_refused_and_makes_nothing(
    keyed: list[Endpoint], services: Services, quartz: Tenant, indigo: Tenant
) -> None:
    before, secrets = [await tenant.rows() for tenant in (quartz, indigo)], await quartz.secrets()
    asked = 0
    for endpoint in keyed:
        for request in endpoint.bodies_naming(quartz, indigo):
            if endpoint.operation_id in LATER:
                continue
            answer = await send(indigo.api, request)
            assert answer.status in (400, 404), (str(endpoint), request, answer.raw)
            assert_nothing_of(secrets, answer, request.asked())
            asked += 1
    assert asked >= 5
    assert [await tenant.rows() for tenant in (quartz, indigo)] == before
    assert await differences(services, quartz.org) == 0


async def test_whatever_one_organization_does_with_its_own_the_other_is_not_touched_or_seen(
    keyed: list[Endpoint], services: Services, nobody: Client, quartz: Tenant, indigo: Tenant
) -> None:
    before, secrets = await quartz.rows(), await quartz.secrets()
    same = {"coach_id": "coach-1", "calendar_id": "cal-1", "event_id": "evt-1"}
    for endpoint in keyed:
        for places in ({}, {name: same[name] for name in endpoint.places if name in same}):
            request = endpoint.request(indigo, places=places)
            answer = await send(indigo.api, request)
            assert answer.status < 500, (str(endpoint), answer.raw)
            assert_nothing_of(secrets, answer)
    assert await quartz.rows() == before
    assert await differences(services, quartz.org) == 0
    metrics = await nobody("GET", "/metrics")
    for tenant in (quartz, indigo):
        assert_nothing_of(await tenant.secrets(), metrics)
    assert b"@" not in metrics.raw


async def test_what_is_taken_in_one_organization_is_free_in_the_other(
    keyed: list[Endpoint], quartz: Tenant, indigo: Tenant
) -> None:
    before, secrets = await quartz.rows(), await quartz.secrets()
    for endpoint in keyed:
        for operation, name in sorted(GIVEN):
            if operation == endpoint.operation_id:
                request = endpoint.request(indigo, body={name: quartz.ids[name]})
                answer = await send(indigo.api, request)
                assert answer.status == 201, (str(endpoint), answer.raw)
                assert_nothing_of(secrets, answer, request.asked())
    for path, email in (("/api/coaches", "coach-1@quartz.test"), ("/api/contacts", "contact-0@quartz.test")):
        answer = await indigo.api("POST", path, {"name": "A namesake", "email": email})
        assert answer.status == 201, answer.raw
        assert_nothing_of(secrets, answer, [email])
    assert await quartz.rows() == before
