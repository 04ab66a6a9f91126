"""Puts the worker together: which stream is worked on by what, and what is done how often."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from redis.asyncio import Redis

from service.claims.keys import Shards
from service.claims.scripts import Scripts
from service.clock import Clock
from service.db.deliveries import AnswerStore, DeliveryStore, IncomingStore
from service.db.replays import ReplayStore
from service.db.rosters import RosterStore
from service.db.sweep import SweepStore
from service.delivery.consume import BLOCK_MS, Work, consume, reclaim
from service.delivery.destinations import CalendarDestination, CrmDestination, Destination
from service.delivery.dispatcher import AT_ONCE, Dispatcher, RetryPolicy
from service.delivery.endpoint_deliveries import EndpointDeliveries, EndpointParts
from service.delivery.endpoint_sweep import EndpointSweep
from service.delivery.fan_out import FanOut
from service.delivery.idempotency_log import IdempotencyLog
from service.delivery.incoming import Incoming, Overdue
from service.delivery.mover import Mover
from service.delivery.notifications import LoggedNotifications
from service.delivery.recorder import GATHERING_S, DeliveryRecorder
from service.delivery.replays import CarryOutReplays
from service.delivery.stream import Stream
from service.delivery.sweep import Sweep
from service.delivery.watch import StreamWatch
from service.delivery.worker import Loop, Worker, every
from service.errors import BookingError
from service.failpoints import Reach
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.accept_calendar_event import INCOMING_STREAM
from service.operations.apply_calendar_event import ApplyCalendarEvent
from service.operations.destinations import Destinations
from service.operations.keep_grid import GridKeeper
from service.operations.watch_grid import WatchGrid
from service.outside.breaker import Breaker
from service.outside.calendar_api import CalendarApi
from service.outside.crm import Crm

READ_TIMEOUT_S = BLOCK_MS / 1000 + 4.5
FORGET_S = 600.0
_FILL_S = 60.0
_OWED_S = 5.0
_FORGET_REPAIRS_S = 15.0
_WATCH_GRID_S = 1.0
_WATCH_S = 1.0
_OVERDUE_S = 30.0
_REPLAYS_S = 0.5
_SWEEP_S = 1.0
_REMIND_S = 30.0
# Each is a connection to the mail server, which shares out few.
_MAILS_AT_ONCE = 8

_log = get_logger("delivery.build")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTimes:
    """How the worker paces itself.

    `reclaim_idle_ms`: after how long an entry nobody finished is taken over; well above an attempt's length.
    `calendar_sync_s`: 0 switches fetching off. `overdue_s`: after how long an event that nobody announced is one
    that was lost.
    """

    policy: RetryPolicy
    reclaim_idle_ms: int
    calendar_sync_s: float
    sweep_s: float = 30.0
    overdue_s: float = 60.0

    @classmethod
    def of(
        cls,
        *,
        attempts: int,
        delay_ms: int,
        timeout_ms: int,
        reclaim_idle_ms: int,
        calendar_sync_s: float,
        sweep_ms: int,
        overdue_ms: int,
        mail_timeout_ms: int = 0,
    ) -> WorkerTimes:
        """The times the settings give; `reclaim_idle_ms` 0: well above what an attempt of `timeout_ms` may take."""
        return cls(
            policy=RetryPolicy(attempts=attempts, delay_ms=delay_ms),
            reclaim_idle_ms=reclaim_idle_ms or max(3 * timeout_ms + 10_000, mail_timeout_ms + 15_000),
            calendar_sync_s=calendar_sync_s,
            sweep_s=sweep_ms / 1000,
            overdue_s=overdue_ms / 1000,
        )


def build_worker(
    *,
    redis: Redis,
    reading: Redis,
    scripts: Scripts,
    shards: Shards,
    consumer: str,
    crm: Crm,
    calendar: CalendarApi,
    deliveries: DeliveryStore,
    incoming: IncomingStore,
    sweep_store: SweepStore,
    replay_store: ReplayStore,
    all_destinations: Destinations,
    answers: AnswerStore,
    roster_store: RosterStore,
    keeper: GridKeeper,
    watch_grid: WatchGrid,
    apply_event: ApplyCalendarEvent,
    look_at_owed: Callable[[], Awaitable[int]],
    forget_repairs: Callable[[], Awaitable[None]],
    sync_calendars: Callable[[], Awaitable[int]],
    forget_keys: Callable[[], Awaitable[int]],
    times: WorkerTimes,
    clock: Clock,
    metrics: Metrics,
    chance: random.Random,
    endpoints: EndpointParts | None = None,
    notifications: Destination | None = None,
    remind: Callable[[], Awaitable[int]] | None = None,
    reach: Reach | None = None,
) -> Worker:
    """The worker with all its loops; without `notifications` those go to the log, without `remind` nobody is reminded.

    `reading` is a client of its own whose timeout is READ_TIMEOUT_S; `consumer` names this process among the
    workers and must not be used by another that lives.
    """

    def streams_of(name: str) -> list[Stream]:
        return [
            Stream(
                redis,
                reading,
                scripts,
                keys,
                name,
                consumer=consumer,
                reclaim_idle_ms=times.reclaim_idle_ms,
            )
            for keys in shards.all
        ]

    works: dict[str, Work] = {}
    destinations: list[Destination] = [
        CrmDestination(crm),
        CalendarDestination(
            calendar,
            deliveries,
            roster_store,
            attempts=times.policy.attempts,
            chance=chance,
        ),
        notifications or LoggedNotifications(),
    ]
    recorder = DeliveryRecorder(deliveries, chance)
    for destination in destinations:
        works[destination.name] = Dispatcher(
            destination,
            store=deliveries,
            recorder=recorder,
            breaker=Breaker(),
            policy=times.policy,
            metrics=metrics,
            chance=chance,
            clock=clock,
            at_once=_MAILS_AT_ONCE if destination is notifications else AT_ONCE,
            reach=reach,
        )
    works[IdempotencyLog.name] = IdempotencyLog(answers, chance)
    works[INCOMING_STREAM] = Incoming(
        store=incoming, apply=apply_event, policy=times.policy, metrics=metrics, chance=chance, reach=reach
    )
    if endpoints is not None:
        works[EndpointDeliveries.name] = EndpointDeliveries(
            endpoints, deliveries=deliveries, policy=times.policy, metrics=metrics, clock=clock, chance=chance
        )
        works[FanOut.name] = FanOut(
            endpoints.store, dict(zip(shards.all, streams_of(EndpointDeliveries.name), strict=True)), shards, chance
        )
    streams = {name: streams_of(name) for name in works}

    reads: list[Loop] = []
    for name, work in works.items():
        read = partial(consume, gathering_s=GATHERING_S) if name == IdempotencyLog.name else consume
        for stream in streams[name]:
            reads.append(Loop(f"read {name}", partial(read, stream, work)))
            reads.append(Loop(f"reclaim {name}", partial(reclaim, stream, work)))
    overdue = Overdue(
        store=incoming, roster_store=roster_store, shards=shards, streams=streams[INCOMING_STREAM], clock=clock
    )
    sweep = Sweep(
        store=sweep_store,
        roster_store=roster_store,
        shards=shards,
        heard={destination.name: destination.types for destination in destinations},
        streams=streams,
        overdue_after=timedelta(seconds=times.overdue_s),
        clock=clock,
        metrics=metrics,
    )
    replays = CarryOutReplays(store=replay_store, destinations=all_destinations, streams=streams, shards=shards)
    periodic = [
        Loop("mover", Mover([stream for name in streams for stream in streams[name]]).run),
        every("deficits", _OWED_S, look_at_owed),
        every("old repairs", _FORGET_REPAIRS_S, forget_repairs),
        every("grid watch", _WATCH_GRID_S, watch_grid),
        every("grid", _FILL_S, partial(_fill, roster_store, keeper)),
        every("overdue events", _OVERDUE_S, overdue),
        every("old keys", FORGET_S, forget_keys),
        every("sweeper", times.sweep_s, sweep),
        every("replays", _REPLAYS_S, replays),
        every("stream gauges", _WATCH_S, StreamWatch(streams, metrics)),
    ]
    if endpoints is not None:
        outward = dict(zip(shards.all, streams[EndpointDeliveries.name], strict=True))
        periodic.append(every("endpoint sweep", _SWEEP_S, EndpointSweep(endpoints, outward, shards, metrics)))
    if remind is not None:
        periodic.append(every("reminders", _REMIND_S, remind))
    if times.calendar_sync_s:
        # Whose turn it is, and when, is said by a lease: one that gives way must not wait for a whole period more.
        periodic.append(every("calendar sync", times.calendar_sync_s / 10, sync_calendars))
    return Worker(reading=reads, periodic=periodic, works=list(works.values()), metrics=metrics, chance=chance)


async def _fill(roster_store: RosterStore, keeper: GridKeeper) -> None:
    """Create the days that each organization's grid lacks; tonight's midnight brings a new one."""
    problems: list[BookingError] = []
    for org, name in await roster_store.organizations():
        try:
            created = await keeper.fill(org)
        except BookingError as problem:
            problems.append(problem)
            continue
        if created:
            _log.info("grid filled", organization=name, days=created)
    if problems:
        raise problems[0]
