"""The mock CRM: takes each webhook once per idempotency key, and keeps a ledger of every attempt.

A webhook takes effect on arrival and its answer comes after the delay, so a caller that gives up waiting has
still been heard, and of two calls with one key in flight together one is the duplicate. A call refused with
503 or never answered did not take effect and leaves its key unseen. All three kinds of webhook share that
rule and one space of keys. Chance decides before the request is looked at, as an overloaded server would.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from aiohttp import web

from service.clock import Clock, SystemClock
from service.mocks.answers import answer, application, decode, json_object, refuse, unavailable
from service.mocks.chance import Behaviour, Chance

REMEMBERED, SHOWN = 100, 20

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class Created(msgspec.Struct, frozen=True):
    """What appointment-created takes."""

    appointment_id: Name
    coach_id: Name
    start_time: Instant
    end_time: Instant
    client_id: Name


class Updated(msgspec.Struct, frozen=True):
    """What appointment-updated takes."""

    appointment_id: Name
    status: Name


class Cancelled(msgspec.Struct, frozen=True):
    """What appointment-cancelled takes; a reason nobody gave is null."""

    appointment_id: Name
    reason: str | None


@dataclass(frozen=True, slots=True)
class Hook:
    """One kind of webhook: its name in path, log and ledger, its body and delays, whether it may hang."""

    type: str
    body: type[Created] | type[Updated] | type[Cancelled]
    delay_low_ms: int
    delay_high_ms: int
    may_hang: bool = False


HOOKS = (
    Hook("appointment-created", Created, 200, 1200),
    Hook("appointment-updated", Updated, 100, 900),
    Hook("appointment-cancelled", Cancelled, 100, 900, may_hang=True),
)


class Received(msgspec.Struct, frozen=True, rename={"idempotency_key": "idempotencyKey", "crm_id": "crmId"}):
    """A webhook that took effect, as the log shows it."""

    idempotency_key: str
    crm_id: str
    type: str
    payload: Mapping[str, Any]
    received_at: datetime


class LedgerEntry(msgspec.Struct):
    """What became of every well-formed or refused attempt under one key.

    `accepted` is 1 once one took effect; `duplicates` came after that; `refused` got 503; `abandoned` got no
    answer. `payload_sha256` lists the different bodies seen, in order: one, if the sender repeats itself
    byte for byte. `type` is that of the first attempt.
    """

    type: str
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    abandoned: int = 0
    crm_id: str | None = None
    payload_sha256: list[str] = []


def build_crm(behaviour: Behaviour, clock: Clock | None = None) -> web.Application:
    """The CRM as an application; `clock` dates what it receives (default: the machine's)."""
    crm = _Crm(behaviour, clock or SystemClock())
    app = application("crm-api")
    for hook in HOOKS:
        app.router.add_post(f"/webhooks/{hook.type}", partial(crm.receive, hook))
    app.router.add_get("/webhooks/log", crm.log)
    app.router.add_delete("/webhooks/log", crm.clear)
    app.router.add_get("/webhooks/ledger", crm.ledger)
    app.router.add_get("/contacts/{contact_id}", crm.contact)
    return app


class _Crm:
    def __init__(self, behaviour: Behaviour, clock: Clock) -> None:
        self._behaviour = behaviour
        self._clock = clock
        self._chance = Chance(behaviour, "crm")
        self._total = 0
        self._log: deque[Received] = deque(maxlen=REMEMBERED)
        self._ledger: dict[str, LedgerEntry] = {}

    async def receive(self, hook: Hook, request: web.Request) -> web.Response:
        """POST /webhooks/…: take effect once per key; repeats are told so at once."""
        draw = self._chance.next()
        fails = draw.happens(self._behaviour.failure_rate)
        hangs = hook.may_hang and draw.happens(self._behaviour.never_answer_rate)
        key = request.headers.get("X-Idempotency-Key", "")
        raw = await request.read()
        if fails:
            if key:
                self._entry(key, hook, raw).refused += 1
            return unavailable("CRM")
        if not key:
            return refuse(400, "X-Idempotency-Key header is required")
        decode(raw, hook.body)
        entry = self._entry(key, hook, raw)
        if entry.accepted:
            entry.duplicates += 1
            return answer({"success": True, "message": "Already processed", "crm_id": entry.crm_id})
        if hangs:
            entry.abandoned += 1
            # Nobody sets this event: the wait ends when the caller gives up or the mock stops.
            await asyncio.Event().wait()
        crm_id, now = draw.identifier("crm"), self._clock.now()
        entry.accepted, entry.crm_id = 1, crm_id
        self._total += 1
        self._log.append(Received(key, crm_id, hook.type, json_object(raw), now))
        await draw.pause(hook.delay_low_ms, hook.delay_high_ms)
        return answer({"success": True, "crm_id": crm_id, "processed_at": self._clock.now()})

    def _entry(self, key: str, hook: Hook, raw: bytes) -> LedgerEntry:
        entry = self._ledger.setdefault(key, LedgerEntry(hook.type))
        digest = sha256(raw).hexdigest()
        if digest not in entry.payload_sha256:
            entry.payload_sha256.append(digest)
        return entry

    async def log(self, _: web.Request) -> web.Response:
        """GET /webhooks/log: the last 20 that took effect, oldest first, and how many ever did."""
        return answer({"total_received": self._total, "webhooks": list(self._log)[-SHOWN:]})

    async def ledger(self, _: web.Request) -> web.Response:
        """GET /webhooks/ledger, for tests: `{"total_keys", "keys": {key: LedgerEntry}}`, all of them."""
        return answer({"total_keys": len(self._ledger), "keys": self._ledger})

    async def clear(self, _: web.Request) -> web.Response:
        """DELETE /webhooks/log: forget log and ledger, and with them which keys were seen."""
        self._total = 0
        self._log.clear()
        self._ledger.clear()
        return answer({"success": True, "message": "Webhook log cleared"})

    async def contact(self, request: web.Request) -> web.Response:
        """GET /contacts/{id}: somebody, the same for the same id; 404 at random."""
        draw = self._chance.next()
        if draw.happens(self._behaviour.failure_rate):
            return unavailable("CRM")
        contact_id = request.match_info["contact_id"]
        if draw.happens(self._behaviour.not_found_rate):
            return refuse(404, "Contact not found", contact_id=contact_id)
        number = int(sha256(contact_id.encode()).hexdigest(), 16) % 10_000
        return answer(
            {
                "contact_id": contact_id,
                "name": f"Contact {contact_id}",
                "email": f"contact-{number:04d}@example.com",
                "phone": f"+1-555-{number:04d}",
            }
        )
