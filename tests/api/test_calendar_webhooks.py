"""An event of the calendar is taken at once, whoever repeats it, and done once."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import pytest

from tests.api.client import Answer, Client, all_at_once, assert_problem, booking
from tests.api.stack import Stack
from tests.servers import eventually

PATH = "/api/webhooks/calendar"


async def booked(api: Client, place: int) -> str:
    answer = await api.book(booking((await api.starts())[place]))
    assert answer.status == 201, answer.raw
    return answer.json["appointment_id"]


def cancelled(appointment_id: str, **more: Any) -> dict[str, Any]:
    return {"event_type": "appointment.cancelled", "appointment_id": appointment_id, **more}


async def state_of(api: Client, event_id: str) -> dict[str, Any]:
    answer = await api("GET", f"/api/webhooks/events/{event_id}")
    assert answer.status == 200, answer.raw
    return answer.json


async def ended(api: Client, event_id: str, state: str = "processed") -> dict[str, Any]:
    async def there() -> bool:
        return (await state_of(api, event_id))["state"] == state

    await eventually(there, what=f"{event_id} being {state}")
    return await state_of(api, event_id)


async def events_of(stack: Stack, appointment_id: str) -> list[tuple[int, str, str]]:
    rows = await stack.rows(
        "SELECT sequence, type, actor FROM events WHERE appointment_id = $1::uuid ORDER BY sequence",
        uuid.UUID(appointment_id),
    )
    return [(row["sequence"], row["type"], row["actor"]) for row in rows]


async def test_20_at_once_are_one_event_done_once(api: Client, stack: Stack) -> None:
    appointment, key = await booked(api, 3), uuid.uuid4().hex
    body = cancelled(appointment, reason="ill")

    answers = await all_at_once(api("POST", PATH, body, headers={"X-Idempotency-Key": key}) for _ in range(20))

    assert {(answer.status, answer.raw) for answer in answers} == {(200, answers[0].raw)}
    assert answers[0].json == {"received": True, "event_id": key}
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in answers) == {None: 1, "true": 19}
    done = await ended(api, key)
    assert done == {
        "event_id": key,
        "event_type": "appointment.cancelled",
        "state": "processed",
        "attempts": 1,
        "error": None,
    }
    shown = (await api("GET", f"/api/appointments/{appointment}")).json
    assert (shown["status"], shown["version"]) == ("cancelled", 2)
    await api("POST", PATH, body, headers={"X-Idempotency-Key": key})
    assert [event[:2] for event in await events_of(stack, appointment)] == [
        (1, "appointment.created"),
        (2, "appointment.cancelled"),
    ]
    assert (await events_of(stack, appointment))[1][2] == "calendar"


async def test_the_three_ways_to_name_an_event_are_one_identity(api: Client, stack: Stack) -> None:
    appointment, identity = await booked(api, 4), uuid.uuid4().hex
    body = {"event_type": "appointment.confirmed", "appointment_id": appointment}
    answers = [
        await api("POST", PATH, body, headers={"X-Idempotency-Key": identity}),
        await api("POST", PATH, body, headers={"webhook-id": identity}),
        await api("POST", PATH, {**body, "event_id": identity}),
        # The header goes before what the body says.
        await api("POST", PATH, {**body, "event_id": "another"}, headers={"webhook-id": identity}),
        await api("POST", PATH, body, headers={"X-Idempotency-Key": identity, "webhook-id": "another"}),
    ]
    assert {answer.raw for answer in answers} == {answers[0].raw}
    assert answers[0].json == {"received": True, "event_id": identity}
    await ended(api, identity)
    shown = (await api("GET", f"/api/appointments/{appointment}")).json
    assert (shown["status"], shown["version"], shown["confirmed_at"] is not None) == ("scheduled", 2, True)
    assert await stack.value("SELECT count(*) FROM webhook_events WHERE event_id = 'another'") == 0


async def test_what_cannot_be_applied_ends_dead_with_a_reason(api: Client) -> None:
    key = uuid.uuid4().hex
    answer = await api("POST", PATH, cancelled(str(uuid.uuid4())), headers={"X-Idempotency-Key": key})
    assert answer.status == 200
    done = await ended(api, key, "dead")
    assert "no appointment" in done["error"]


async def test_another_organizations_appointment_is_not_there_for_an_event(api: Client, stack: Stack) -> None:
    appointment, key = await booked(api, 5), uuid.uuid4().hex
    stranger = api.with_key(await stack.add_key("read", "write", organization=await other_organization(stack)))
    answer = await stranger("POST", PATH, cancelled(appointment), headers={"X-Idempotency-Key": key})
    assert answer.status == 200
    await ended(stranger, key, "dead")
    assert_problem(await api("GET", f"/api/webhooks/events/{key}"), 404, "NOT_FOUND")
    assert (await api("GET", f"/api/appointments/{appointment}")).json["status"] == "scheduled"


async def other_organization(stack: Stack) -> str:
    name = f"other-{uuid.uuid4().hex[:8]}"
    await stack.rows("INSERT INTO organizations (name) VALUES ($1)", name)
    return name


async def test_an_event_is_taken_with_a_writing_key_only(api: Client, stack: Stack) -> None:
    body = cancelled(str(uuid.uuid4()), event_id=uuid.uuid4().hex)
    assert_problem(await api.with_key(None)("POST", PATH, body), 401, "AUTHENTICATION_FAILED")
    reader = api.with_key(await stack.add_key("read"))
    assert_problem(await reader("POST", PATH, body), 403, "FORBIDDEN")


AN_ID = str(uuid.uuid4())
A_COACH = {"coach_id": "coach-1", "start_time": "2030-01-01T10:00:00Z", "end_time": "2030-01-01T11:00:00Z"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"event_type": "appointment.exploded", "appointment_id": AN_ID}, "event_type"),
        ({"event_type": "", "appointment_id": AN_ID}, "event_type"),
        ({"event_type": 7, "appointment_id": AN_ID}, "event_type"),
        ({"appointment_id": AN_ID}, "event_type"),
        ({"event_type": "appointment.cancelled"}, "appointment_id"),
        ({"event_type": "appointment.cancelled", "appointment_id": "none"}, "appointment_id"),
        ({"event_type": "appointment.cancelled", "appointment_id": 12}, "appointment_id"),
        ({"event_type": "appointment.cancelled", "appointment_id": AN_ID, "reason": "x" * 1001}, "reason"),
        ({"event_type": "appointment.cancelled", "appointment_id": AN_ID, "reason": "\0"}, "reason"),
        ({"event_type": "appointment.cancelled", "appointment_id": AN_ID, "surprise": "\0"}, "surprise"),
        ({"event_type": "coach.unavailable", **A_COACH, "end_time": None}, "end_time"),
        ({"event_type": "coach.unavailable", **A_COACH, "end_time": "2030-01-01T09:00:00Z"}, "end_time"),
        ({"event_type": "coach.unavailable", **A_COACH, "start_time": "2030-01-01T09:00:00"}, "start_time"),
        ({"event_type": "coach.unavailable", **A_COACH, "existing": "explode"}, "existing"),
        ([], "body"),
        ("text", "body"),
    ],
)
async def test_a_malformed_event_is_refused_with_the_fields_name(api: Client, body: Any, field: str) -> None:
    answer = await api("POST", PATH, body, headers={"X-Idempotency-Key": uuid.uuid4().hex})
    problem = assert_problem(answer, 400, "VALIDATION_ERROR")
    assert [found["field"] for found in problem["details"]["fields"]] == [field]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"event_type":"appointment.cancelled","appointment_id":"%s","extra":"\\ud800"}' % AN_ID.encode(),
        b'{"event_type":"appointment.cancelled","appointment_id":"%s","extra":"\xff"}' % AN_ID.encode(),
        b'{"event_type":"appointment.cancelled","appointment_id":"%s","extra":%s%s}'
        % (AN_ID.encode(), b"[" * 5000, b"]" * 5000),
        b'{"event_type":"appointment.cancelled","appointment_id":"%s","extra":%s%s}'
        % (AN_ID.encode(), b'{"a":' * 980 + b"1", b"}" * 980),
        b'{"event_type":"appointment.cancelled","appointment_id":"%s","extra":1e999}' % AN_ID.encode(),
    ],
    ids=["empty", "cut", "not-utf-8", "surrogate", "bad-utf-8-inside", "deep-lists", "deep-objects", "huge-number"],
)
async def test_bytes_that_are_no_event_are_refused(api: Client, raw: bytes) -> None:
    answer = await api("POST", PATH, raw=raw, headers={"X-Idempotency-Key": uuid.uuid4().hex})
    assert_problem(answer, 400, "VALIDATION_ERROR")


@pytest.mark.parametrize("headers", [{}, {"webhook-id": ""}, {"X-Idempotency-Key": "a b"}, {"webhook-id": "x" * 256}])
async def test_an_event_without_a_proper_identity_is_refused(api: Client, headers: dict[str, str]) -> None:
    answer = await api("POST", PATH, cancelled(AN_ID), headers=headers)
    assert_problem(answer, 400, "VALIDATION_ERROR")


async def test_an_events_id_may_hold_what_a_path_must_escape(api: Client) -> None:
    identity = "a/b c?d%e\u00fc"
    answer: Answer = await api("POST", PATH, cancelled(str(uuid.uuid4()), event_id=identity))
    assert answer.json == {"received": True, "event_id": identity}
    assert (await state_of(api, "a%2Fb%20c%3Fd%25e%C3%BC"))["event_id"] == identity
