"""The same words in two organizations are two things: idempotency keys, cursors, entity tags, ids of events."""

from __future__ import annotations

from service.app import Services
from service.outside.http import open_session
from tests.delivery.bench import Bench
from tests.servers import eventually
from tests.tenants.endpoints import Endpoint
from tests.tenants.tenant import Tenant, assert_nothing_of
from tests.tenants.test_matrix import send


async def test_an_idempotency_key_of_one_organization_replays_nothing_in_the_other(
    keyed: list[Endpoint], quartz: Tenant, indigo: Tenant
) -> None:
    replayed = 0
    for endpoint in keyed:
        if endpoint.idempotency is None:
            continue
        words = {endpoint.idempotency: f"one-key-for-{endpoint.operation_id}"}
        theirs = endpoint.request(quartz)
        first = await send(quartz.api, theirs, **words)
        again = await send(quartz.api, theirs, **words)
        ours = await send(indigo.api, endpoint.request(indigo), **words)
        assert "Idempotent-Replayed" not in ours.headers, str(endpoint)
        assert ours.status == first.status, (str(endpoint), ours.raw)
        assert_nothing_of(await quartz.secrets(), ours)
        if "Idempotent-Replayed" in again.headers:
            replayed += 1
            # A secret is shown once: a replay is the answer without it.
            whole = {name: value for name, value in first.json.items() if name != "secret"}
            assert (again.status, again.json) == (first.status, whole), str(endpoint)
    assert replayed >= 1


async def test_the_very_same_booking_under_the_same_key_is_two_appointments(quartz: Tenant, indigo: Tenant) -> None:
    body = {"calendar_id": "cal-1", "start_time": quartz.starts[3], "contact_email": "same@example.com"}
    first, second = [await tenant.api.book(body, key="the-same-text") for tenant in (quartz, indigo)]
    assert (first.status, second.status) == (201, 201), (first.raw, second.raw)
    assert "Idempotent-Replayed" not in second.headers
    assert first.json["appointment_id"] != second.json["appointment_id"]
    assert first.json["contact_id"] != second.json["contact_id"]
    for tenant, answer in ((quartz, first), (indigo, second)):
        again = await tenant.api.book(body, key="the-same-text")
        assert again.raw == answer.raw
        assert again.headers["Idempotent-Replayed"] == "true"


async def test_a_cursor_of_one_organization_shows_nothing_of_it_in_the_other(
    keyed: list[Endpoint], quartz: Tenant, indigo: Tenant
) -> None:
    secrets = await quartz.secrets()
    lists = [endpoint for endpoint in keyed if "cursor" in endpoint.query]
    assert len(lists) >= 4
    for endpoint in lists:
        page = await send(quartz.api, endpoint.request(quartz, query={"limit": "1"}))
        cursor = page.json["next_cursor"]
        assert cursor, f"{endpoint}: make two rows of it in tests/tenants/tenant.py"
        for limit in ("1", "200"):
            request = endpoint.request(indigo, query={"limit": limit, "cursor": cursor})
            answer = await send(indigo.api, request)
            assert answer.status in (200, 400), (str(endpoint), answer.raw)
            assert_nothing_of(secrets, answer, request.asked())
        ours = await send(indigo.api, endpoint.request(indigo, query={"limit": "200"}))
        assert ours.json["next_cursor"] is None, str(endpoint)
        assert_nothing_of(secrets, ours)


async def test_an_entity_tag_of_one_organization_stands_for_nothing_of_the_other(
    keyed: list[Endpoint], quartz: Tenant, indigo: Tenant
) -> None:
    same = {"coach_id": "coach-1", "calendar_id": "cal-1", "event_id": "evt-1"}
    tagged = 0
    for endpoint in keyed:
        if endpoint.method != "GET":
            continue
        shared = {name: same[name] for name in endpoint.query if name in same}
        for query in ({}, shared):
            places = {name: same.get(name, quartz.ids[name]) for name in endpoint.places}
            required = endpoint.request(quartz, places=places, query=query)
            await send(quartz.api, required)  # which may derive a day, and that is a change
            theirs = await send(quartz.api, required)
            tag = theirs.headers.get("ETag")
            if tag is None:
                continue
            assert (await send(quartz.api, required, **{"If-None-Match": tag})).status == 304, str(endpoint)
            ours = await send(indigo.api, required, **{"If-None-Match": tag})
            assert ours.status != 304, str(endpoint)
            assert ours.headers.get("ETag") != tag or ours.raw == theirs.raw, str(endpoint)
            tagged += 1
    assert tagged >= 2


async def test_events_of_the_outside_with_one_id_are_each_organizations_own(quartz: Tenant, indigo: Tenant) -> None:
    for tenant, other in ((quartz, indigo), (indigo, quartz)):
        row = await tenant.services.incoming.get(tenant.org, "evt-1")
        assert row is not None
        assert tenant.name.encode() in row.body
        assert other.name.encode() not in row.body


async def test_an_event_that_names_what_is_anothers_comes_to_nothing(
    keyed: list[Endpoint], services: Services, quartz: Tenant, indigo: Tenant
) -> None:
    (endpoint,) = [one for one in keyed if one.operation_id == "accept_calendar_event"]
    requests = list(endpoint.bodies_naming(quartz, indigo))
    assert len(requests) == 2
    secrets = await quartz.secrets()
    async with open_session() as session, Bench(services=services, org=indigo.org, session=session).worker():
        for event_id in ("evt-1", "evt-quartz"):
            await _ended(quartz, event_id, "processed")
        before = await quartz.rows()
        for request in requests:
            assert (await send(indigo.api, request)).status == 200
            await _ended(indigo, request.body["event_id"], "dead")
            path = f"/api/webhooks/events/{request.body['event_id']}"
            assert_nothing_of(secrets, await indigo.api("GET", path), request.asked())
            assert (await quartz.api("GET", path)).status == 404
        after = await quartz.rows()
    # The worker goes on delivering and sweeping what is quartz's own.
    delivering: dict[str, list[str]] = {"deliveries": [], "delivery_attempts": [], "sweep_positions": []}
    assert {**after, **delivering} == {**before, **delivering}


async def _ended(tenant: Tenant, event_id: str, wanted: str) -> None:
    """Wait until an event of the outside is processed or dead, whichever is wanted."""

    async def ended() -> bool:
        state = (await tenant.ask("GET", f"/api/webhooks/events/{event_id}"))["state"]
        assert state == wanted or state not in ("processed", "dead"), (event_id, state)
        return state == wanted

    await eventually(ended, what=f"the end of {event_id}")
