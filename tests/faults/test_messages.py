"""No message lost: receivers at their worst, workers killed again and again, Redis emptied in the middle.

FAULT_CHANGES and FAULT_SEED make it longer or another one: `make faults` runs it with 2,000 changes.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import orjson
import pytest
from standardwebhooks import Webhook

from service.app import Services
from service.assemble_api import manage_endpoints
from service.domain.event import EventType, heard_by
from service.errors import SlotUnavailable
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from tests.delivery.test_every_event_arrives import serving
from tests.faults.receiver import POISON, Receiver
from tests.faults.workers import working
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish

CHANGES = int(os.environ.get("FAULT_CHANGES", "100"))
SEED = int(os.environ.get("FAULT_SEED", "7"))
KILLS = max(4, CHANGES // 100)
WITHIN_S = 60.0 + CHANGES / 4
WHO: dict[str, Any] = {"actor": "tests", "correlation_id": "corr-1"}
STREAMS = ("crm", "calendar-blocks", "notifications", "endpoints", "endpoint-deliveries")


async def changes(services: Services, org: int, count: int, chance: Random) -> int:
    """Make about `count` changes: appointments booked, moved, confirmed, cancelled; a few are poison."""
    starts = await free_starts(services, org)
    made = 0
    live: list[UUID] = []
    while made < count:
        step = chance.random()
        try:
            if step < 0.5 or not live:
                reason = POISON if chance.random() < 0.03 else "a visit"
                answer = await services.book(
                    wish(chance.choice(starts), person=made, metadata={"why": reason}), caller(org), RateSeen()
                )
                live.append(UUID(orjson.loads(answer.body)["appointment_id"]))
            elif step < 0.7:
                moved = MoveWish(start_time=chance.choice(starts))
                await services.move(org, chance.choice(live), moved, **WHO)
            elif step < 0.8:
                await services.change.confirm(org, chance.choice(live), **WHO)
            else:
                # The CRM reads the reason of a cancellation: one of them it can never take.
                reason = POISON if chance.random() < 0.1 else "no longer needed"
                gone = live.pop(chance.randrange(len(live)))
                await services.change.cancel(org, gone, reason=reason, **WHO)
        except SlotUnavailable:
            continue
        made += 1
    return made


async def ledger(services: Services, org: int) -> tuple[list[Any], dict[tuple[str, str], str]]:
    """Every event, and the state of each delivery by (event id, destination)."""
    async with services.database.writing() as connection:
        events = await connection.fetch(
            "SELECT appointment_id, sequence, type, reason, data FROM events WHERE org_id = $1"
            " ORDER BY appointment_id, sequence",
            org,
        )
        rows = await connection.fetch(
            "SELECT appointment_id, sequence, destination, state FROM deliveries WHERE org_id = $1", org
        )
    return events, {(f"{r['appointment_id']}.{r['sequence']}", r["destination"]): r["state"] for r in rows}


async def grow_calm(*receivers: Receiver) -> None:
    """Answer everything from now on, once each of them was asked something again.

    Endpoints hear by way of a second stream: the kills may be over before their first request.
    """
    for receiver in receivers:
        await eventually(receiver.asked_again, within_s=WITHIN_S, what="a second try")
    for receiver in receivers:
        receiver.calm = True


@pytest.mark.parametrize("emptied", [False, True], ids=["workers killed", "and Redis emptied"])
async def test_each_event_reaches_each_destination(services: Services, org: int, tmp_path: Path, emptied: bool) -> None:
    chance = Random(SEED)
    crm, calendar = Receiver(Random(SEED + 1)), Receiver(Random(SEED + 2))
    # A redirect is what an endpoint is never asked again for.
    endpoint = Receiver(Random(SEED + 3), key="webhook-id", refusal=302)
    async with (
        serving(crm.app) as crm_url,
        serving(calendar.app) as calendar_url,
        serving(endpoint.app) as endpoint_url,
    ):
        told = await manage_endpoints(services).register(org, endpoint_url, [kind.value for kind in EventType], None)
        endpoint.check = Webhook(told.secret).verify
        name_of_endpoint = f"endpoint:{told.endpoint.endpoint_id}"
        assert services.settings.database_url is not None
        assert services.settings.redis_url is not None
        environment = {
            "DATABASE_URL": services.settings.database_url,
            "REDIS_URL": services.settings.redis_url,
            "CRM_WEBHOOK_URL": crm_url,
            "CALENDAR_API_URL": calendar_url,
            "DATA_DIR": str(tmp_path),
            "CALENDAR_SYNC_INTERVAL_S": "0",
            "WEBHOOK_TIMEOUT_MS": "300",
            "WEBHOOK_RETRY_DELAY_MS": "20",
            "WEBHOOK_RETRY_ATTEMPTS": "100",
            "WEBHOOK_ALLOW_PRIVATE": "true",
            "RECLAIM_IDLE_MS": "1500",
            "SWEEP_INTERVAL_MS": "500",
            "SWEEP_OVERDUE_MS": "2000",
            "REDIS_TIMEOUT_MS": "3000",
            "LOG_LEVEL": "warning",
        }
        async with working(environment, tmp_path / "workers.log", chance, 2) as workers:
            making = asyncio.ensure_future(changes(services, org, CHANGES, Random(SEED)))
            for kill in range(KILLS):
                # Together: one of them may have heard everything while another is still left alone for its failures.
                seen = sum(receiver.requests for receiver in (crm, calendar, endpoint))

                def at_work(seen: int = seen) -> bool:
                    return sum(receiver.requests for receiver in (crm, calendar, endpoint)) >= seen + 24

                await eventually(at_work, within_s=WITHIN_S, what="workers at work")
                workers.kill_one()
                if emptied and kill == KILLS // 2:
                    await services.redis.flushall()
            await grow_calm(crm, calendar, endpoint)

            async def heard() -> bool:
                if not making.done():
                    return False
                events, states = await ledger(services, org)
                wanted = {
                    (f"{e['appointment_id']}.{e['sequence']}", destination.value)
                    for e in events
                    for destination in heard_by(e["type"], calendar=True, endpoints=False)
                } | {(f"{e['appointment_id']}.{e['sequence']}", name_of_endpoint) for e in events}
                return all(states.get(one) in ("delivered", "dead") for one in wanted)

            await eventually(heard, within_s=WITHIN_S, what="every event heard")
            assert await making == CHANGES
            keys = services.shards.of(org)

            async def drained() -> bool:
                for name in ("crm", "calendar-blocks", "notifications"):
                    if await services.redis.xlen(keys.stream(name)) or await services.redis.exists(keys.way(name)):
                        return False
                return True

            await eventually(drained, within_s=60, what="empty streams")
            for name in ("crm", "calendar-blocks", "notifications"):
                assert (await services.redis.xpending(keys.stream(name), "workers"))["pending"] == 0
                assert await services.redis.zcard(keys.due(name)) == 0
        assert workers.killed == KILLS
    events, states = await ledger(services, org)
    sequences: dict[UUID, list[int]] = {}
    for event in events:
        sequences.setdefault(event["appointment_id"], []).append(event["sequence"])
    assert all(found == list(range(1, len(found) + 1)) for found in sequences.values()), "a gap"
    assert endpoint.wrong == [], "a signature that does not verify"
    dead = {one for one, state in states.items() if state == "dead"}
    # The CRM cannot take a reason, the endpoint what is noted with an appointment.
    poison = {
        (f"{e['appointment_id']}.{e['sequence']}", name)
        for e in events
        for name, poisoned in (
            ("crm", e["type"] == "appointment.cancelled" and e["reason"] == POISON),
            (name_of_endpoint, orjson.loads(e["data"])["metadata"]["why"] == POISON),
        )
        if poisoned
    }
    assert dead == poison
    for receiver, heard_of in ((crm, "crm"), (endpoint, name_of_endpoint)):
        same = [len(requests) == 1 for requests in receiver.seen.values()]
        assert all(same), "one id, and not the same bytes"
        delivered = {event_id for (event_id, name), state in states.items() if (name, state) == (heard_of, "delivered")}
        assert delivered <= set(receiver.done), "said to be heard, and never answered so"
    assert Counter(states.values())["delivered"] > CHANGES
