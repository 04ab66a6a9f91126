"""The composition root: builds every object of a process from the settings, and closes them in reverse.

The only place that unpacks settings. API processes, the worker, the commands and the tests all start here, so
what is tested is what runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

from redis.asyncio import Redis

from service.claims.breaker import GateBreaker, Trip
from service.claims.connection import connect, refuse_eviction, refuse_other_nodes
from service.claims.gate import Gate
from service.claims.grid import GridStore
from service.claims.keys import Shards
from service.claims.lateness import Lateness
from service.claims.scripts import Scripts
from service.claims.server import RedisServer
from service.clock import Clock, SystemClock
from service.config import Settings
from service.db.appointments import AppointmentStore
from service.db.commit import BookingCommitter
from service.db.connection import Database
from service.db.deliveries import AnswerStore, BusyStore, DeliveryStore, IncomingStore
from service.db.endpoints import EndpointStore
from service.db.gate import GateStore
from service.db.keys import KeyStore
from service.db.notifications import NotificationStore
from service.db.people import PeopleStore
from service.db.rosters import DefaultSlot, RosterStore
from service.db.time_off import TimeOffStore
from service.errors import ConfigurationError
from service.failpoints import Failpoints, Reach
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.book import Book
from service.operations.book_ungated import BookUngated
from service.operations.change import ChangeAppointment
from service.operations.claiming import Claiming
from service.operations.destinations import BuiltIn, Destinations, RegisteredEndpoints
from service.operations.find_availability import FindAvailability
from service.operations.heal_grid import HealGrid
from service.operations.keep_deficits import KeepDeficits
from service.operations.keep_gate import KeepGate, KnownServer
from service.operations.keep_grid import GridKeeper
from service.operations.local_rates import LocalRates
from service.operations.move import MoveAppointment
from service.operations.move_ungated import MoveUngated
from service.operations.postgres_grids import PostgresGrids
from service.operations.rebuild import Rebuild
from service.operations.reconcile import Reconcile
from service.operations.refuse_again import RefuseAgain
from service.operations.remind import Remind
from service.operations.rosters import Rosters
from service.operations.settle_change import SettleChange
from service.operations.time_off import TimeOff
from service.operations.tracking import TrackedTasks

CANCEL_AGAIN_S = 0.5
DRAIN_S = 8.0
CLAIM_CONNECTIONS = 16
# How many timeouts a claim may take while it is our own process that is late.
LATE_TIMEOUTS = 4

_log = get_logger("app")


Drained = TypeVar("Drained", AppointmentStore, PostgresGrids, RefuseAgain)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Every object of a process, ready to use."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    redis: Redis
    looking_redis: Redis
    shards: Shards
    scripts: Scripts
    breaker: GateBreaker
    gate: Gate
    gate_store: GateStore
    rates: LocalRates
    deficits: KeepDeficits
    heal: HealGrid
    keep_gate: KeepGate
    keeping_gate: asyncio.Future[None]
    grid: GridStore
    database: Database
    appointments: AppointmentStore
    committer: BookingCommitter
    roster_store: RosterStore
    keys: KeyStore
    deliveries: DeliveryStore
    incoming: IncomingStore
    answers: AnswerStore
    busy: BusyStore
    notifications: NotificationStore
    rosters: Rosters
    keeper: GridKeeper
    availability: FindAvailability
    book: Book
    change: ChangeAppointment
    move: MoveAppointment
    reconcile: Reconcile
    remind: Remind
    rebuild: Rebuild
    tasks: TrackedTasks
    destinations: Destinations
    chance: random.Random
    reach: Reach | None


@asynccontextmanager
async def open_services(
    settings: Settings, *, clock: Clock | None = None, metrics: Metrics | None = None
) -> AsyncGenerator[Services]:
    """Build the objects of one process; on the way out wait for work under way, then close what was opened.

    Needs `database_url` and `redis_url` in the settings. Raises ConfigurationError or Unavailable.
    """
    if settings.database_url is None or settings.redis_url is None:
        raise ConfigurationError("DATABASE_URL: no server is set and none is running on this DATA_DIR")
    clock = clock or SystemClock()
    metrics = metrics or Metrics()
    async with AsyncExitStack() as stack:
        stack.callback(metrics.later.write)  # at the very end: what was counted in the last moment
        known = KnownServer()
        redis, claiming_redis, looking_redis = await _open_redis(settings, known, stack)
        database = Database(settings.database_url)
        await database.open()
        stack.push_async_callback(database.close)
        shards = Shards(settings.redis_shards)
        scripts = Scripts(redis)
        lateness = Lateness()
        stack.push_async_callback(_end, asyncio.ensure_future(lateness.run()))
        breaker = GateBreaker(
            partial(_count_trips, metrics), timeout_s=settings.redis_timeout_ms / 1000, lateness=lateness
        )
        metrics.gates_closed.set(1)  # as it begins; the breaker tells what changes
        gate_batch = {kind: metrics.gate_batch.labels(kind) for kind in ("claim", "still_taken", "settle", "release")}
        gate = Gate(
            Scripts(claiming_redis),
            shards,
            breaker,
            claim_ttl_ms=settings.claim_ttl_ms,
            answer_ttl_ms=answers_live_ms(settings),
            observe=lambda kind, size: gate_batch[kind].observe(size),
            most=settings.batch_most,
            committing=lambda: committer.busy,
        )
        stack.push_async_callback(gate.drain)
        committer = BookingCommitter(
            settings.database_url,
            observe=metrics.commit_batch.observe,
            most=settings.batch_most,
            done=gate.stop_gathering,
        )
        stack.push_async_callback(committer.close)
        grid = GridStore(redis, scripts, shards, breaker)
        roster_store = RosterStore(
            database,
            default_slot(settings),
            calendar_organization=settings.default_organization,
        )
        appointments = _drained(stack, AppointmentStore(database))
        notifications = NotificationStore(database)
        rosters = Rosters(roster_store, grid, clock)
        keeper = GridKeeper(roster_store, grid, rosters, clock, metrics)
        grids = _drained(stack, PostgresGrids(roster_store, rosters))
        availability = FindAvailability(grid, keeper, rosters, grids, clock)
        rates = LocalRates()
        claiming = Claiming(
            gate=gate, rates=rates, rosters=rosters, keeper=keeper, availability=availability, metrics=metrics
        )
        refuse_again = _drained(
            stack,
            RefuseAgain(
                gate=gate,
                shards=shards,
                appointments=appointments,
                rosters=rosters,
                claiming=claiming,
                clock=clock,
                most=settings.batch_most,
                observe=gate_batch["still_taken"].observe,
            ),
        )
        gate_store = GateStore(database)
        tasks = TrackedTasks()
        settle = SettleChange(gate=gate, store=gate_store, keeper=keeper, rosters=rosters, tasks=tasks, metrics=metrics)
        deficits = KeepDeficits(roster_store, grid, rosters)
        heal = HealGrid(
            store=gate_store,
            breaker=breaker,
            keeper=keeper,
            deficits=deficits,
            grid=grid,
            rosters=rosters,
            roster_store=roster_store,
            tasks=tasks,
            clock=clock,
            metrics=metrics,
        )
        keep_gate = KeepGate(
            breaker=breaker,
            server=RedisServer(looking_redis, shards),
            known=known,
            store=gate_store,
            heal=heal,
            settle=settle,
        )
        book_ungated = BookUngated(store=gate_store, grids=grids, settle=settle, clock=clock, metrics=metrics)
        stack.push_async_callback(book_ungated.drain)
        reach = _failpoints(settings)
        stack.push_async_callback(_drain, tasks, gate, settle)
        # Without Redis the process starts all the same, and goes on looking.
        await keep_gate.look(catch_up=False)
        keeping = asyncio.ensure_future(keep_gate.run())
        stack.push_async_callback(_end, keeping)
        yield Services(
            settings=settings,
            clock=clock,
            metrics=metrics,
            redis=redis,
            looking_redis=looking_redis,
            shards=shards,
            scripts=scripts,
            breaker=breaker,
            gate=gate,
            gate_store=gate_store,
            rates=rates,
            deficits=deficits,
            heal=heal,
            keep_gate=keep_gate,
            keeping_gate=keeping,
            grid=grid,
            database=database,
            appointments=appointments,
            committer=committer,
            roster_store=roster_store,
            keys=KeyStore(database),
            deliveries=DeliveryStore(database),
            incoming=IncomingStore(database),
            answers=AnswerStore(database),
            busy=BusyStore(database),
            notifications=notifications,
            rosters=rosters,
            keeper=keeper,
            availability=availability,
            book=Book(
                gate=gate,
                committer=committer,
                appointments=appointments,
                rosters=rosters,
                claiming=claiming,
                refuse_again=refuse_again,
                ungated=book_ungated,
                heal=heal,
                settle=settle,
                tasks=tasks,
                clock=clock,
                metrics=metrics,
                reach=reach,
            ),
            change=ChangeAppointment(
                gate=gate,
                appointments=appointments,
                rosters=rosters,
                settle=settle,
                tasks=tasks,
                clock=clock,
                metrics=metrics,
                reach=reach,
            ),
            move=MoveAppointment(
                appointments=appointments,
                rosters=rosters,
                claiming=claiming,
                grid=grid,
                settle=settle,
                ungated=MoveUngated(
                    store=gate_store,
                    grids=grids,
                    appointments=appointments,
                    settle=settle,
                    clock=clock,
                    metrics=metrics,
                ),
                heal=heal,
                tasks=tasks,
                clock=clock,
                metrics=metrics,
                reach=reach,
            ),
            reconcile=Reconcile(
                gate=gate, store=gate_store, grid=grid, appointments=appointments, settle=settle, metrics=metrics
            ),
            remind=Remind(
                store=notifications,
                appointments=appointments,
                settle=settle,
                clock=clock,
                before=timedelta(hours=settings.reminder_hours_before),
            ),
            rebuild=Rebuild(
                database=database,
                store=roster_store,
                grid=grid,
                rosters=rosters,
                keeper=keeper,
                deficits=deficits,
                clock=clock,
            ),
            tasks=tasks,
            destinations=Destinations([BuiltIn(roster_store), RegisteredEndpoints(EndpointStore(database))]),
            chance=random.Random(),
            reach=reach,
        )


def answers_live_ms(settings: Settings) -> int:
    """How long Redis keeps an answer for replays."""
    return timedelta(hours=settings.idempotency_retention_hours) // timedelta(milliseconds=1)


def default_slot(settings: Settings) -> DefaultSlot:
    """The slot that is offered where no calendar says otherwise."""
    return DefaultSlot(
        duration=settings.default_appointment_duration_minutes,
        interval=settings.slot_interval_minutes,
        buffer_after=settings.slot_buffer_minutes,
        min_notice_minutes=timedelta(hours=settings.min_booking_hours_ahead) // timedelta(minutes=1),
        max_days_ahead=settings.max_booking_days_ahead,
    )


async def _open_redis(settings: Settings, known: KnownServer, stack: AsyncExitStack) -> tuple[Redis, Redis, Redis]:
    """Clients for everybody, for claims, and for who looks whether Redis is there again.

    Claims have connections of their own, so that no crowd of readers keeps them waiting for one.
    """
    url, timeout_s = settings.redis_url or "", settings.redis_timeout_ms / 1000
    redis = connect(url, timeout_s=timeout_s, is_known=known.is_known)
    claiming = connect(url, timeout_s=LATE_TIMEOUTS * timeout_s, connections=CLAIM_CONNECTIONS, is_known=known.is_known)
    looking = connect(url, timeout_s=timeout_s, connections=2)
    for client in (redis, claiming, looking):
        stack.push_async_callback(client.aclose)
    await refuse_other_nodes(looking)
    await _check_eviction(looking)
    return redis, claiming, looking


def _count_trips(metrics: Metrics, closed: bool, why: Trip | None) -> None:
    metrics.gates_closed.set(0 if closed else 1)
    if why is not None:
        metrics.gate_trips.labels(why.value).inc()
        _log.warning("redis is not asked", why=why.value)


async def _drain(tasks: TrackedTasks, gate: Gate, settle: SettleChange) -> None:
    settle.end()
    await tasks.drain(DRAIN_S)
    await gate.drain()
    await tasks.drain(DRAIN_S)  # a settlement may ask for a repair


def _drained(stack: AsyncExitStack, batching: Drained) -> Drained:
    """What waits on the way out for every batch of its own to come back."""
    stack.push_async_callback(batching.drain)
    return batching


async def _end(task: asyncio.Future[None]) -> None:
    while not task.done():  # a cancellation that meets a timeout just due is taken for it, and lost
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(task, return_exceptions=True)


def _failpoints(settings: Settings) -> Reach | None:
    if settings.failpoints_dir is None:
        return None
    _log.warning("failpoints are on", folder=str(settings.failpoints_dir))
    return Failpoints(settings.failpoints_dir).reach


async def _check_eviction(redis: Redis) -> None:
    warning = await refuse_eviction(redis)
    if warning is not None:
        _log.warning("redis not checked", reason=warning)


def build_time_off(services: Services) -> TimeOff:
    """Time off of coaches, for the API and for events of the external calendar."""
    return TimeOff(
        people=PeopleStore(services.database),
        periods=TimeOffStore(services.database),
        change=services.change,
        move=services.move,
        gate=services.gate_store,
        grid=services.grid,
        keeper=services.keeper,
        heal=services.heal,
        rosters=services.rosters,
        tasks=services.tasks,
        clock=services.clock,
        claim_ttl_ms=services.settings.claim_ttl_ms,
    )
