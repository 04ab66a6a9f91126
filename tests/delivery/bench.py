"""A worker on the test's servers, told to deliver to whatever the test serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import orjson
from aiohttp import web

from service.app import Services, build_time_off
from service.assemble_worker import forgetting
from service.claims.connection import connect
from service.claims.lease import Leases
from service.db.replays import ReplayStore
from service.db.sweep import SweepStore
from service.delivery.build import READ_TIMEOUT_S, WorkerTimes, build_worker
from service.delivery.dispatcher import RetryPolicy
from service.delivery.stream import Stream
from service.errors import SlotUnavailable
from service.operations.apply_calendar_event import ApplyCalendarEvent
from service.operations.forget_repairs import ForgetRepairs
from service.operations.local_rates import RateSeen
from service.operations.sync_calendars import SyncCalendars
from service.operations.watch_grid import WatchGrid
from service.outside.breaker import Breaker
from service.outside.calendar_api import CalendarApi
from service.outside.crm import Crm
from tests.servers import LONGEST_STOP_S
from tests.wishes import caller, free_starts, wish

NOWHERE = "http://127.0.0.1:9"
# The calendar names a block in its answer alone. No stall of the machine may lose one: who counts blocks counts on it.
CALENDAR_TIMEOUT_S = 60.0
QUICK = RetryPolicy(attempts=12, delay_ms=10, turn_ms=20)
STREAMS = ("crm", "calendar-blocks", "notifications", "calendar-events", "idempotency")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a test of deliveries needs."""

    services: Services
    org: int
    session: aiohttp.ClientSession

    def stream(self, name: str, *, consumer: str = "test", idle_ms: int = 60_000) -> Stream:
        """A stream as a consumer of the test's own sees it."""
        s = self.services
        return Stream(
            s.redis,
            s.redis,
            s.scripts,
            s.shards.of(self.org),
            name,
            consumer=consumer,
            reclaim_idle_ms=idle_ms,
        )

    def sync(self, calendar_url: str, within_s: float = 60.0) -> SyncCalendars:
        """The calendar sync against a calendar."""
        s = self.services
        return SyncCalendars(
            calendar=CalendarApi(calendar_url, self.session, 5.0),
            breaker=Breaker(),
            busy=s.busy,
            roster_store=s.roster_store,
            rosters=s.rosters,
            keeper=s.keeper,
            heal=s.heal,
            leases=Leases(s.redis, s.shards, s.breaker),
            clock=s.clock,
            metrics=s.metrics,
            organization="demo",
            within_s=within_s,
        )

    @asynccontextmanager
    async def worker(
        self,
        *,
        crm: str = NOWHERE,
        calendar: str = NOWHERE,
        policy: RetryPolicy = QUICK,
        timeout_s: float = 5.0,
        idle_ms: int = 60_000,
        consumer: str = "worker",
        sweep_s: float = 30.0,
        overdue_s: float = 60.0,
        **more: Any,
    ) -> AsyncIterator[None]:
        """A worker that runs for the length of the block and must end within three seconds after it.

        `timeout_s` is how long the CRM may take; the calendar has CALENDAR_TIMEOUT_S.
        """
        s = self.services
        assert s.settings.redis_url is not None
        reading = connect(s.settings.redis_url, timeout_s=READ_TIMEOUT_S)
        worker = build_worker(
            redis=s.redis,
            reading=reading,
            scripts=s.scripts,
            shards=s.shards,
            consumer=consumer,
            crm=Crm(crm, self.session, timeout_s),
            calendar=CalendarApi(calendar, self.session, CALENDAR_TIMEOUT_S),
            deliveries=s.deliveries,
            incoming=s.incoming,
            sweep_store=SweepStore(s.database),
            replay_store=ReplayStore(s.database),
            all_destinations=s.destinations,
            answers=s.answers,
            roster_store=s.roster_store,
            keeper=s.keeper,
            watch_grid=WatchGrid(s.roster_store, s.rosters, s.keeper, s.deficits, s.clock),
            apply_event=ApplyCalendarEvent(s.change, s.move, build_time_off(s)),
            look_at_owed=s.heal.owed,
            forget_repairs=ForgetRepairs(s.gate_store, s.grid, s.settings.claim_ttl_ms),
            sync_calendars=self.sync(calendar),
            forget_keys=forgetting(s),
            times=WorkerTimes(
                policy=policy,
                reclaim_idle_ms=idle_ms,
                calendar_sync_s=0,
                sweep_s=sweep_s,
                overdue_s=overdue_s,
            ),
            clock=s.clock,
            metrics=s.metrics,
            chance=s.chance,
            **more,
        )
        stop = asyncio.Event()
        running = asyncio.ensure_future(worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            began = time.monotonic()
            await running
            assert time.monotonic() - began < LONGEST_STOP_S
            await reading.aclose()

    async def book(self, count: int = 1, **more: Any) -> list[dict[str, Any]]:
        """That many appointments, three a start, as they were answered; they are on their way to who must hear."""
        booked: list[dict[str, Any]] = []
        for number, start in enumerate(await free_starts(self.services, self.org)):
            wishes = [wish(start, person=3 * number + n, **more) for n in range(min(3, count - len(booked)))]
            answers = await asyncio.gather(
                *(self.services.book(one, caller(self.org), RateSeen()) for one in wishes),
                return_exceptions=True,
            )
            for answer in answers:
                if isinstance(answer, SlotUnavailable):
                    continue
                assert not isinstance(answer, BaseException), answer
                booked.append(orjson.loads(answer.body))
            if len(booked) == count:
                await self.services.gate.drain()
                return booked
        raise AssertionError(f"only {len(booked)} free times")

    async def cancel(self, appointment: dict[str, Any], reason: str | None = None) -> None:
        """Cancel an appointment."""
        await self.services.change.cancel(
            self.org,
            UUID(appointment["appointment_id"]),
            reason=reason,
            actor="tests",
            correlation_id="corr-2",
        )

    async def confirm(self, appointment: dict[str, Any]) -> None:
        """Confirm an appointment."""
        await self.services.change.confirm(
            self.org, UUID(appointment["appointment_id"]), actor="tests", correlation_id="corr-3"
        )

    async def deliveries(self, destination: str) -> list[dict[str, Any]]:
        """The rows of a destination's deliveries, by appointment and sequence."""
        rows = await self.sql(
            "SELECT * FROM deliveries WHERE org_id = $1 AND destination = $2 ORDER BY appointment_id, sequence",
            self.org,
            destination,
        )
        return [dict(row) for row in rows]

    async def sql(self, text: str, *arguments: Any) -> list[Any]:
        """Rows of any statement."""
        async with self.services.database.writing() as connection:
            return await connection.fetch(text, *arguments)

    async def left(self, name: str) -> tuple[int, int, int]:
        """What a stream has left: (entries, of them pending, due later), all of one moment: they move meanwhile."""
        keys = self.services.shards.of(self.org)
        async with self.services.redis.pipeline(transaction=True) as pipe:
            pipe.xlen(keys.stream(name))
            pipe.zcard(keys.due(name))
            pipe.xpending(keys.stream(name), "workers")
            depth, due, pending = await pipe.execute(raise_on_error=False)
        return depth, 0 if isinstance(pending, Exception) else pending["pending"], due  # no group yet

    async def nothing_left(self) -> bool:
        """Whether every stream, pending list and due set is empty, and nothing is on its way into them."""
        await self.services.gate.drain()
        return all([await self.left(name) == (0, 0, 0) and not await self._on_its_way(name) for name in STREAMS])

    async def _on_its_way(self, name: str) -> int:
        """Events in a stream or due later. Of the two, one after the other, both are empty while an event moves."""
        return await self.services.redis.scard(self.services.shards.of(self.org).way(name))

    async def dead(self, name: str) -> list[dict[str, str]]:
        """The dead letters of a stream."""
        rows: Any = await self.services.redis.xrange(self.services.shards.of(self.org).dead(name))
        return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in rows]

    async def get(self, url: str) -> Any:
        """The JSON at a URL."""
        async with self.session.get(url) as response:
            return await response.json()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(handler: Handler) -> web.Application:
    """An application that answers every request by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return app


class Recorder:
    """A service that notes each request as (path, headers, body) and answers by `answer`."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]) -> None:
        self._answer = answer
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    @property
    def app(self) -> web.Application:
        return answering(self._receive)

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.seen]

    async def _receive(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body = orjson.loads(raw) if raw else {}
        self.seen.append((request.path, dict(request.headers), body))
        status, answer = self._answer(request.path, body)
        return web.json_response(answer, status=status)
