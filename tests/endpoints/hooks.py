"""Endpoints of a test's own: registered, received, and looked at from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
import orjson
from aiohttp import web
from standardwebhooks import Webhook

from service.assemble_api import manage_endpoints
from service.db.endpoints import EndpointRecord, EndpointState, EndpointStore
from service.delivery.dispatcher import RetryPolicy
from service.delivery.endpoint_deliveries import EndpointParts
from service.domain.event import EventType
from service.operations.manage_endpoints import ManageEndpoints, Told
from service.outside.endpoint import EndpointCaller
from tests.delivery.bench import NOWHERE, QUICK, Bench

EVERY = [kind.value for kind in EventType]


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    headers: dict[str, str]
    raw: bytes
    at: float

    @property
    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.raw)

    @property
    def event_id(self) -> str:
        """Which event it is about."""
        return self.headers["webhook-id"]

    @property
    def place(self) -> tuple[str, int]:
        """(appointment, sequence)."""
        data = self.json["data"]
        return data["appointment"]["appointment_id"], data["sequence"]

    def verified(self, secret: str) -> Any:
        """What the package for receivers makes of it; raises when the signature does not fit."""
        return Webhook(secret).verify(self.raw, self.headers)


Answer = Callable[[Received], web.Response | int]


@dataclass
class Receiver:
    """Somebody's endpoint: notes each request and answers by `answer`; while `hangs` is set it does not."""

    answer: Answer = lambda _: 200
    seen: list[Received] = field(default_factory=list)
    accepted: list[Received] = field(default_factory=list)
    hangs: asyncio.Event | None = None

    @property
    def app(self) -> web.Application:
        """What is to be served."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._receive)
        return app

    async def _receive(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(headers, await request.read(), time.monotonic())
        self.seen.append(received)
        if self.hangs is not None:
            await self.hangs.wait()
        answer = self.answer(received)
        answer = web.Response(status=answer) if isinstance(answer, int) else answer
        if 200 <= answer.status < 300:
            self.accepted.append(received)
        return answer


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Endpoints of the bench's organization."""

    bench: Bench
    session: aiohttp.ClientSession
    manage: ManageEndpoints
    store: EndpointStore

    @classmethod
    def of(cls, bench: Bench, session: aiohttp.ClientSession) -> Hooks:
        """On the bench's servers."""
        store = EndpointStore(bench.services.database)
        return cls(bench=bench, session=session, manage=manage_endpoints(bench.services), store=store)

    async def register(self, url: str, *types: str, org: int | None = None) -> Told:
        """An endpoint for some types of events, all without."""
        return await self.manage.register(org or self.bench.org, url, types or EVERY, None)

    async def get(self, told: Told) -> EndpointRecord:
        """An endpoint as it is now."""
        return await self.manage.get(self.bench.org, told.endpoint.endpoint_id)

    async def set(self, told: Told, state: EndpointState) -> EndpointRecord:
        """Pause or resume an endpoint."""
        one = told.endpoint.endpoint_id
        return await self.manage.change(self.bench.org, one, {}, types=None, state=state)

    @asynccontextmanager
    async def worker(
        self,
        *,
        policy: RetryPolicy = QUICK,
        timeout_s: float = 5.0,
        pause_after_s: float = 3600.0,
        session: aiohttp.ClientSession | None = None,
        **more: Any,
    ) -> AsyncIterator[None]:
        """A worker that tells endpoints."""
        caller = EndpointCaller(session or self.session, timeout_s, self.bench.services.clock)
        parts = EndpointParts(store=self.store, caller=caller, pause_after_s=pause_after_s, sweep_s=0.5)
        async with self.bench.worker(
            crm=NOWHERE, calendar=NOWHERE, policy=policy, timeout_s=timeout_s, endpoints=parts, **more
        ):
            yield

    async def deliveries(self, told: Told) -> list[dict[str, Any]]:
        """The rows of an endpoint's deliveries."""
        return await self.bench.deliveries(f"endpoint:{told.endpoint.endpoint_id}")

    async def states(self, told: Told) -> list[str]:
        """The states of an endpoint's deliveries."""
        return [row["state"] for row in await self.deliveries(told)]

    async def nothing_left(self) -> bool:
        """Whether nothing is on its way to an endpoint."""
        names = ("endpoints", "endpoint-deliveries")
        return [await self.bench.left(name) for name in names] == [(0, 0, 0)] * 2


def places(received: Sequence[Received]) -> list[tuple[str, int]]:
    """(appointment, sequence) of each request."""
    return [one.place for one in received]


def event_ids(appointments: Sequence[dict[str, Any]], *sequences: int) -> set[str]:
    """The ids of events of appointments."""
    return {f"{UUID(one['appointment_id'])}.{number}" for one in appointments for number in sequences}
