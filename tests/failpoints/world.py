"""A running system, what it is asked for, and what must be true of it when it has come to rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from service.app import Services
from service.delivery.idempotency_log import IdempotencyLog
from service.delivery.stream import GROUP
from service.domain.event import Destination, heard_by
from service.operations.accept_calendar_event import INCOMING_STREAM
from tests.api.client import Answer, open_client
from tests.failpoints.system import System
from tests.faults.receiver import Receiver
from tests.faults.test_messages import ledger
from tests.servers import eventually

CLAIM_TTL_S = 1.0
ROUND_S = 0.2
# What a busy machine may add to the deadline and the round, and to everything else.
SLACK_S = 6.0
WITHIN_S = 30.0
HEARING = (Destination.CRM, Destination.CALENDAR, Destination.NOTIFICATIONS)
STREAMS = (*HEARING, INCOMING_STREAM, IdempotencyLog.name)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with its idempotency key, the same however often it is sent."""

    method: str
    path: str
    body: Mapping[str, Any] | None
    key: str = field(default_factory=lambda: f"key-{uuid4().hex}")


@dataclass
class World:
    """The system, its receiver, objects of the test's own process to look into its servers.

    `slots` are times nobody has, `appointments` booked ones with their slots; a case takes what it needs.
    """

    system: System
    services: Services
    org: int
    api_key: str
    crm: Receiver
    slots: list[dict[str, str]]
    appointments: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def send(self, ask: Ask) -> Answer | None:
        """The answer to one try, on a connection of its own; None when the connection broke."""
        async with open_client(self.system.url, self.api_key) as client:
            try:
                return await client(ask.method, ask.path, ask.body, headers={"Idempotency-Key": ask.key})
            except aiohttp.ClientError:
                return None

    async def insist(self, ask: Ask) -> Answer:
        """The first answer that says what became of the request, from as many tries as it takes."""
        answers: list[Answer] = []

        async def definite() -> bool:
            answer = await self.send(ask)
            if answer is not None and is_definite(answer):
                answers.append(answer)
            return bool(answers)

        await self.until(definite, what="a definite answer")
        return answers[0]

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], *, what: str, within: float = 0) -> None:
        """Wait until the condition holds; fail when a process is in trouble, or after `within` seconds."""
        await eventually(condition, within_s=within or WITHIN_S, what=what)
        assert self.system.trouble is None, self.system.trouble

    async def is_offered(self, slot: Mapping[str, str]) -> bool:
        """Whether the coach is offered at that time."""
        day = slot["start_time"][:10]
        async with open_client(self.system.url, self.api_key) as client:
            rows = await client.slots(calendar_id="cal-1", coach_id=slot["coach_id"], days=1, **{"from": day})
        return any(row["start_time"] == slot["start_time"] for row in rows)

    async def rows(self, query: str, *arguments: object) -> list[Any]:
        """The rows of one statement."""
        async with self.services.database.writing() as connection:
            return await connection.fetch(query, *arguments)

    async def events_of(self, appointment_id: str) -> list[str]:
        """The types of an appointment's events, which must be numbered from 1 without a gap."""
        rows = await self.rows(
            "SELECT sequence, type FROM events WHERE org_id = $1 AND appointment_id = $2::text::uuid ORDER BY sequence",
            self.org,
            appointment_id,
        )
        assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["type"] for row in rows]

    async def live(self, contact_email: str) -> list[Any]:
        """Every appointment of a contact that takes time."""
        return await self.rows(
            "SELECT a.appointment_id::text AS id, a.idempotency_key AS key FROM appointments AS a"
            " JOIN contacts AS p USING (org_id, contact_id)"
            " WHERE a.org_id = $1 AND p.email = $2 AND a.status = 'scheduled'",
            self.org,
            contact_email,
        )

    async def pending(self) -> set[str]:
        """Tokens of claims, moves and releases that have not ended."""
        return set(await self.services.grid.pending())

    async def ended(self, tokens: set[str]) -> None:
        """Wait until none of the tokens is pending; that takes no longer than a claim's deadline and a round."""

        async def gone() -> bool:
            return not tokens & await self.pending()

        await self.until(gone, within=CLAIM_TTL_S + ROUND_S + SLACK_S, what="the end of what was pending")

    async def all_heard(self) -> bool:
        """Whether every event was delivered to whoever must hear of it."""
        events, states = await ledger(self.services, self.org)
        return all(
            states.get((f"{event['appointment_id']}.{event['sequence']}", destination.value)) == "delivered"
            for event in events
            for destination in heard_by(event["type"], calendar=True, endpoints=False)
        )

    async def drained(self) -> bool:
        """Whether no stream holds anything, now or for later, and nothing is said to be on its way there.

        A booking is settled after its answer, which may announce once more what the reconciler has announced.
        """
        keys, redis = self.services.shards.of(self.org), self.services.redis
        for name in STREAMS:
            if await redis.xlen(keys.stream(name)) or await redis.zcard(keys.due(name)):
                return False
            if await redis.exists(keys.way(name)) or (await redis.xpending(keys.stream(name), GROUP))["pending"]:
                return False
        return True

    async def at_rest(self) -> None:
        """Wait until nothing is under way any more, then look at everything that must be true."""

        async def nothing_pending() -> bool:
            return not await self.pending()

        await self.until(nothing_pending, what="an end of everything pending")
        await self.until(self.all_heard, what="the delivery of every event")
        await self.until(self.drained, what="empty streams")
        keys, redis = self.services.shards.of(self.org), self.services.redis
        for name in STREAMS:
            assert not await redis.exists(keys.dead(name)), f"{name}: dead letters"
        events, _ = await ledger(self.services, self.org)
        told = {f"{event['appointment_id']}.{event['sequence']}" for event in events}
        assert set(self.crm.seen) - told == set(), "something uncommitted was announced"
        assert told - set(self.crm.seen) == set(), "said to be heard, and never told"
        assert all(len(requests) == 1 for requests in self.crm.seen.values()), "one id, and not the same bytes"
        found = {one.organization: one for one in await self.services.rebuild.verify(lambda _: None)}
        assert all(one.holds for one in found.values()), found


def is_definite(answer: Answer) -> bool:
    """Whether an answer says what became of the request; a failure of ours or a wish to wait does not."""
    return answer.status < 500 and not (answer.status == 409 and answer.json["error"] == "IDEMPOTENCY_IN_PROGRESS")
