"""Requests made up from the API's own description get answers its description knows, and no failure of ours."""

from __future__ import annotations

import asyncio
import http.client
import json
import uuid
from typing import Any, cast

import hypothesis
import jsonschema
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.client import Answer, Client, booking
from tests.api.stack import Stack

EXAMPLES_AN_OPERATION = 12
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


async def test_what_is_answered_is_what_is_described(api: Client) -> None:
    document = (await api("GET", "/openapi.json")).json

    def check(answer: Answer, method: str, path: str) -> None:
        described = document["paths"][path][method]["responses"][str(answer.status)]["content"]
        schema = described[answer.headers["Content-Type"].split(";")[0]]["schema"]
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json)

    start = (await api.starts())[12]
    made = await api.book(booking(start, timezone="America/New_York", metadata={"a": [1, None]}))
    check(made, "post", "/api/appointments")
    one = "/api/appointments/{appointment_id}"
    path = made.headers["Location"]
    check(await api("GET", path), "get", one)
    check(await api("DELETE", path), "delete", one)
    check(await api("POST", f"{path}/cancel", {"reason": "again"}), "post", f"{one}/cancel")
    check(await api("GET", f"/api/appointments/{uuid.uuid4()}"), "get", one)
    for query in ("days=2", "days=2&group_by=start", "days=2&group_by=start&include=coaches", "days=0"):
        check(await api("GET", f"/api/availability?{query}"), "get", "/api/availability")
    check(await api("GET", "/api/coaches/distribution"), "get", "/api/coaches/distribution")
    event = {"event_type": "appointment.cancelled", "appointment_id": str(uuid.uuid4()), "event_id": uuid.uuid4().hex}
    check(await api("POST", "/api/webhooks/calendar", event), "post", "/api/webhooks/calendar")
    state = await api("GET", f"/api/webhooks/events/{event['event_id']}")
    check(state, "get", "/api/webhooks/events/{event_id}")
    for path in ("/livez", "/readyz", "/health"):
        check(await api("GET", path), "get", path)


async def test_every_operation_answers_made_up_requests_as_described(stack: Stack, free_key: str) -> None:
    await asyncio.to_thread(try_everything, stack.url, stack.ports["PORT"], free_key)


def try_everything(url: str, port: int, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/openapi.json")
    document = json.loads(connection.getresponse().read())
    connection.close()
    load_all_checks()
    schema: Any = schemathesis.openapi.from_dict(document)
    tried = 0
    results: Any = schema.get_all_operations()
    for result in results:
        operation: Any = result.ok()

        @hypothesis.settings(
            max_examples=EXAMPLES_AN_OPERATION,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(cast("Any", HealthCheck)),
        )
        @hypothesis.given(case=operation.as_strategy())
        def answers_as_described(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(base_url=url, headers={"X-API-Key": key}, checks=CHECKS)

        answers_as_described()
    assert tried >= EXAMPLES_AN_OPERATION * 5
