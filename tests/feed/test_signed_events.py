"""An external calendar may sign its events; whoever cannot sign learns nothing, not even who exists."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from standardwebhooks.webhooks import Webhook

from service.app import Services
from tests.api.client import Answer, Client, assert_problem
from tests.api_people.asking import made, seen
from tests.api_people.conftest import READER, STRANGER
from tests.delivery.bench import Bench
from tests.servers import eventually

SECRET = "/api/webhooks/calendar-secret"


def event(**more: Any) -> bytes:
    """An event that can be taken."""
    return msgspec.json.encode({"event_type": "appointment.confirmed", "appointment_id": str(uuid.uuid4()), **more})


def signed(secret: str, body: bytes, message_id: str, *, seconds: int = 0) -> dict[str, str]:
    """The headers of a signed message, made by the package."""
    at = int(time.time()) + seconds
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": Webhook(secret).sign(message_id, datetime.fromtimestamp(at, UTC), body.decode()),
    }


async def send(api: Client, body: bytes, headers: dict[str, str], organization: str = "demo") -> Answer:
    """An event without a key."""
    return await api.with_key(None)("POST", f"/api/webhooks/calendar/{organization}", raw=body, headers=headers)


async def test_a_signed_event_is_taken_once_under_its_webhook_id(bench: Bench, api: Client) -> None:
    secret = (await made(api, SECRET))["secret"]
    (booked,) = await bench.book(1)
    body = event(appointment_id=booked["appointment_id"], event_id="not this one")
    headers = signed(secret, body, "msg-1")
    answers = await asyncio.gather(*(send(api, body, {**headers, "X-Idempotency-Key": "nor this"}) for _ in range(20)))
    assert {(answer.status, answer.raw) for answer in answers} == {(200, b'{"received":true,"event_id":"msg-1"}')}
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    async with bench.worker():

        async def processed() -> bool:
            return (await seen(api, "/api/webhooks/events/msg-1"))["state"] == "processed"

        await eventually(processed, what="the event")
    rows = await bench.sql("SELECT event_id, attempts FROM webhook_events")
    assert [tuple(row) for row in rows] == [("msg-1", 1)]
    assert (await seen(api, f"/api/appointments/{booked['appointment_id']}"))["version"] == 2


async def test_every_refusal_is_the_same(bench: Bench, api: Client) -> None:
    body = event()
    theirs = (await made(api.with_key(STRANGER), SECRET))["secret"]
    good = signed(theirs, body, "m")
    before = await send(api, body, good)  # demo has no secret yet
    secret = (await made(api, SECRET))["secret"]
    mine = signed(secret, body, "m")
    refusals = [
        before,
        await send(api, body, good),
        await send(api, body, mine, "elsewhere"),
        await send(api, body, good, "nobody"),
        await send(api, body, mine, "%00"),
        await send(api, body, mine, "demo%20"),
        await send(api, body, {}),
        await send(api, b"{", {}),
        await send(api, body + b" ", mine),
        await send(api, body, {**mine, "webhook-id": "n"}),
        await send(api, body, {**mine, "webhook-signature": "v1,AAAA"}),
        await send(api, body, signed(secret, body, "m", seconds=-400)),
        await send(api, body, signed(secret, body, "m", seconds=400)),
    ]
    told = set[str]()
    for refusal in refusals:
        problem = assert_problem(refusal, 401, "AUTHENTICATION_FAILED")
        told.add(problem["message"])
        assert problem["details"] == {}
    assert len(told) == 1
    assert await bench.sql("SELECT FROM webhook_events") == []
    # A key does not open what asks for a signature.
    assert (await api("POST", "/api/webhooks/calendar/demo", raw=body)).status == 401
    for seconds in (-280, 280):
        assert (await send(api, body, signed(secret, body, f"m{seconds}", seconds=seconds))).status == 200


async def test_what_is_signed_and_wrong_is_told_what_is_wrong(api: Client) -> None:
    secret = (await made(api, SECRET))["secret"]
    for body, message_id, field in (
        (b"[]", "m", "body"),
        (b'{"event_type":"coach.vanished"}', "m", "event_type"),
        (b'{"event_type":"appointment.cancelled"}', "m", "appointment_id"),
        (event(), "x" * 256, "webhook-id"),
    ):
        answer = await send(api, body, signed(secret, body, message_id))
        problem = assert_problem(answer, 400, "VALIDATION_ERROR")
        assert [one["field"] for one in problem["details"]["fields"]] == [field]


async def test_a_secret_is_changed_without_a_gap_and_the_old_one_ends_after_a_day(
    bench: Bench, services: Services, api: Client
) -> None:
    body = event()

    async def taken(secret: str) -> bool:
        return (await send(api, body, signed(secret, body, uuid.uuid4().hex))).status == 200

    first = await made(api, SECRET)
    assert first["secret"].startswith("whsec_")
    assert first["previous_valid_until"] is None
    second = await made(api, SECRET)
    until = datetime.fromisoformat(second["previous_valid_until"])
    assert 86_390 < (until - datetime.now(UTC)).total_seconds() < 86_410
    assert [await taken(one["secret"]) for one in (first, second)] == [True, True]
    await bench.sql("UPDATE calendar_secrets SET expires_at = now() - interval '1 second' WHERE expires_at IS NOT NULL")
    assert [await taken(one["secret"]) for one in (first, second)] == [False, True]
    # Made by many at once: one is the current one, and only the newest are kept.
    many = await asyncio.gather(*(made(api, SECRET) for _ in range(12)))
    assert len({one["secret"] for one in many}) == 12
    rows = await bench.sql("SELECT expires_at FROM calendar_secrets ORDER BY created_at")
    assert [row["expires_at"] is None for row in rows] == [False] * 4 + [True]
    assert sum([await taken(one["secret"]) for one in many]) == 5
    for key, status in ((READER, 403), (None, 401)):
        assert (await api.with_key(key)("POST", SECRET)).status == status
    assert not await taken((await made(api.with_key(STRANGER), SECRET))["secret"])


async def test_many_that_are_not_signed_are_slowed_down(api: Client) -> None:
    began = time.monotonic()
    for _ in range(10):
        assert (await send(api, event(), {})).status == 401
    quick = time.monotonic() - began
    began = time.monotonic()
    for _ in range(4):
        assert (await send(api, event(), {})).status == 401
    assert time.monotonic() - began > 0.5, f"ten took {quick:.2f} s"
