"""The mock CRM takes each webhook once per key, and its ledger tells what became of every attempt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from service.mocks.chance import Behaviour
from service.mocks.crm import build_crm

pytestmark = pytest.mark.asyncio

CALM = Behaviour.calm()
CREATED = {
    "appointment_id": "a-1",
    "coach_id": "coach-1",
    "start_time": "2026-03-09T14:00:00Z",
    "end_time": "2026-03-09T14:30:00Z",
    "client_id": "c-1",
}
BODIES = {
    "appointment-created": CREATED,
    "appointment-updated": {"appointment_id": "a-1", "status": "confirmed"},
    "appointment-cancelled": {"appointment_id": "a-1", "reason": None},
}


def key(text: object) -> dict[str, str]:
    return {"X-Idempotency-Key": str(text)}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_key_takes_effect_once_and_repeats_are_told_so(serve: Any, clock: Any, kind: str) -> None:
    call = await serve(build_crm(CALM, clock))
    status, first = await call("POST", f"/webhooks/{kind}", BODIES[kind], headers=key("k"))
    assert status == 200
    assert first == {"success": True, "crm_id": first["crm_id"], "processed_at": "2026-03-05T15:00:20Z"}
    repeats = [await call("POST", f"/webhooks/{kind}", BODIES[kind], headers=key("k")) for _ in range(3)]
    told = {"success": True, "message": "Already processed", "crm_id": first["crm_id"]}
    assert repeats == [(200, told)] * 3
    _, log = await call("GET", "/webhooks/log")
    assert log == {
        "total_received": 1,
        "webhooks": [
            {
                "idempotencyKey": "k",
                "crmId": first["crm_id"],
                "type": kind,
                "payload": BODIES[kind],
                "received_at": "2026-03-05T15:00:20Z",
            }
        ],
    }


async def test_twenty_at_once_under_one_key_take_effect_once(serve: Any) -> None:
    call = await serve(build_crm(replace(CALM, delay_scale=0.1)))
    calls = [("POST", "/webhooks/appointment-created", CREATED)] * 20
    answers = await call.many(calls, headers=key("k"))
    assert [status for status, _ in answers] == [200] * 20
    assert sum("processed_at" in body for _, body in answers) == 1
    assert len({body["crm_id"] for _, body in answers}) == 1
    entry = (await call("GET", "/webhooks/ledger"))[1]["keys"]["k"]
    assert (entry["accepted"], entry["duplicates"]) == (1, 19)


async def test_the_ledger_is_true_when_a_third_of_the_calls_fails(serve: Any, at_rate: Any) -> None:
    call = await serve(build_crm(replace(CALM, seed=3, failure_rate=0.30)))
    seen: dict[str, list[int]] = {}

    async def deliver(name: str) -> None:
        """Until taken, and once more."""
        statuses = seen.setdefault(name, [])
        while statuses.count(200) < 2:
            body = {**CREATED, "appointment_id": name}
            statuses.append((await call("POST", "/webhooks/appointment-created", body, headers=key(name)))[0])

    await asyncio.gather(*(deliver(f"k{n}") for n in range(300)))
    _, ledger = await call("GET", "/webhooks/ledger")
    assert ledger["total_keys"] == len(ledger["keys"]) == 300
    for name, statuses in seen.items():
        entry = ledger["keys"][name]
        assert set(statuses) <= {200, 503}
        assert (entry["accepted"], entry["duplicates"]) == (1, 1)
        assert (entry["refused"], entry["abandoned"]) == (statuses.count(503), 0)
        assert (entry["type"], len(entry["payload_sha256"])) == ("appointment-created", 1)
    calls = sum(map(len, seen.values()))
    assert at_rate(sum(statuses.count(503) for statuses in seen.values()), calls, 0.30)


async def test_a_refused_key_is_not_a_seen_key(serve: Any) -> None:
    call = await serve(build_crm(replace(CALM, failure_rate=1.0)))
    status, body = await call("POST", "/webhooks/appointment-created", CREATED, headers=key("k"))
    assert status == 503
    assert body["error"]
    assert body["retry_after"] == 5
    assert (await call("GET", "/health")) == (200, {"status": "healthy", "service": "crm-api"})
    assert (await call("GET", "/webhooks/log"))[1] == {"total_received": 0, "webhooks": []}
    entry = (await call("GET", "/webhooks/ledger"))[1]["keys"]["k"]
    assert (entry["accepted"], entry["refused"], entry["crm_id"]) == (0, 1, None)


async def test_the_ledger_tells_bodies_apart_byte_for_byte(serve: Any) -> None:
    call = await serve(build_crm(CALM))
    bodies = [b'{"appointment_id":"a","status":"x"}', b'{"status":"x","appointment_id":"a"}']
    for raw in (bodies[0], bodies[0], bodies[1]):
        await call("POST", "/webhooks/appointment-updated", data=raw, headers=key("k"))
    entry = (await call("GET", "/webhooks/ledger"))[1]["keys"]["k"]
    assert entry["payload_sha256"] == [sha256(raw).hexdigest() for raw in bodies]


async def test_five_percent_of_cancellations_are_never_answered_and_did_nothing(
    serve: Any, eventually: Any, at_rate: Any
) -> None:
    call = await serve(build_crm(replace(CALM, seed=11, never_answer_rate=0.05)))
    body = BODIES["appointment-cancelled"]
    sent = [
        asyncio.create_task(call("POST", "/webhooks/appointment-cancelled", body, headers=key(n))) for n in range(600)
    ]

    async def ledger() -> dict[str, Any]:
        return (await call("GET", "/webhooks/ledger"))[1]["keys"]

    keys = await eventually(ledger, lambda seen: sum(e["accepted"] + e["abandoned"] for e in seen.values()) == 600)
    silent = {name for name, entry in keys.items() if entry["abandoned"]}
    assert at_rate(len(silent), 600, 0.05)
    await eventually(lambda: asyncio.sleep(0), lambda _: sum(t.done() for t in sent) == 600 - len(silent))
    assert {str(n) for n, task in enumerate(sent) if not task.done()} == silent
    assert all(keys[name]["accepted"] == 0 for name in silent)
    for task in sent:
        task.cancel()
    await asyncio.gather(*sent, return_exceptions=True)

    name = min(silent)
    other = await call("POST", "/webhooks/appointment-created", CREATED, headers=key(name))
    assert other[0] == 200
    assert "processed_at" in other[1]


async def test_only_cancellations_are_left_without_an_answer(serve: Any) -> None:
    call = await serve(build_crm(replace(CALM, never_answer_rate=1.0)))
    for kind in ("appointment-created", "appointment-updated"):
        assert (await call("POST", f"/webhooks/{kind}", BODIES[kind], headers=key(kind)))[0] == 200
    kind = "appointment-cancelled"
    cancelled = call("POST", f"/webhooks/{kind}", BODIES[kind], headers=key(kind))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cancelled, 0.3)


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("headers", [{}, key(""), key("  ")])
async def test_a_webhook_without_a_key_is_400(serve: Any, kind: str, headers: dict[str, str]) -> None:
    call = await serve(build_crm(CALM))
    status, body = await call("POST", f"/webhooks/{kind}", BODIES[kind], headers=headers)
    assert status == 400
    assert "X-Idempotency-Key" in body["error"]
    assert (await call("GET", "/webhooks/ledger"))[1]["total_keys"] == 0


@pytest.mark.parametrize(("kind", "missing"), [(kind, name) for kind, body in BODIES.items() for name in body])
async def test_a_body_that_lacks_a_field_is_400_and_leaves_the_key_unseen(serve: Any, kind: str, missing: str) -> None:
    call = await serve(build_crm(CALM))
    body = {name: value for name, value in BODIES[kind].items() if name != missing}
    status, answer = await call("POST", f"/webhooks/{kind}", body, headers=key("k"))
    assert status == 400
    assert missing in answer["message"]
    assert "processed_at" in (await call("POST", f"/webhooks/{kind}", BODIES[kind], headers=key("k")))[1]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff", b'{"appointment_id":"","status":"x"}', b'{"status":"\xff"}']
)
async def test_a_malformed_body_is_400(serve: Any, raw: bytes) -> None:
    call = await serve(build_crm(CALM))
    status, body = await call("POST", "/webhooks/appointment-updated", data=raw, headers=key("k"))
    assert status == 400
    assert body["error"] == "Malformed body"


async def test_the_log_shows_the_last_20_and_the_ledger_everything(serve: Any) -> None:
    call = await serve(build_crm(CALM))
    for n in range(130):
        body = {"appointment_id": f"a-{n}", "status": "x", "more": n}
        await call("POST", "/webhooks/appointment-updated", body, headers=key(n))
    _, log = await call("GET", "/webhooks/log")
    assert log["total_received"] == 130
    assert [entry["payload"]["more"] for entry in log["webhooks"]] == list(range(110, 130))
    assert (await call("GET", "/webhooks/ledger"))[1]["total_keys"] == 130

    assert (await call("DELETE", "/webhooks/log"))[0] == 200
    assert (await call("GET", "/webhooks/log"))[1] == {"total_received": 0, "webhooks": []}
    assert (await call("GET", "/webhooks/ledger"))[1] == {"total_keys": 0, "keys": {}}
    _, again = await call("POST", "/webhooks/appointment-updated", BODIES["appointment-updated"], headers=key(1))
    assert "processed_at" in again


async def test_one_contact_in_ten_is_not_found(serve: Any, at_rate: Any) -> None:
    call = await serve(build_crm(replace(CALM, seed=2, not_found_rate=0.10)))
    answers = await call.many([("GET", "/contacts/c-1")] * 1000)
    found = [body for status, body in answers if status == 200]
    assert at_rate(sum(status == 404 for status, _ in answers), 1000, 0.10)
    assert len(found) + sum(status == 404 for status, _ in answers) == 1000
    assert all(body == found[0] for body in found)
    assert found[0]["contact_id"] == "c-1"
