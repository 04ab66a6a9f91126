"""The processes of the service: one API process, the worker, the mocks, each until it is told to stop.

Each builds its objects with `open_services`, listens for SIGTERM and SIGINT, and ends what it began: requests
under way are answered, commits under way are committed.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from email.utils import parseaddr
from secrets import token_hex

import aiohttp
from prometheus_client import start_http_server
from redis.asyncio import Redis

from service.api.appointment_life import AppointmentLifeRoutes
from service.api.appointments import AppointmentRoutes
from service.api.availability import AvailabilityRoutes
from service.api.coach_schedules import CoachScheduleRoutes
from service.api.coaches import CoachRoutes
from service.api.contacts import ContactRoutes
from service.api.deliveries import DeliveryRoutes
from service.api.endpoint import Edge, Route
from service.api.events import EventRoutes
from service.api.explain import ExplainRoutes
from service.api.incoming_events import IncomingEventRoutes
from service.api.intake import Intake
from service.api.manage_calendars import CalendarRoutes
from service.api.manage_coaches import ManageCoachRoutes
from service.api.notifications import NotificationRoutes
from service.api.openapi import document
from service.api.operations import OperationRoutes
from service.api.server import build_application, serve
from service.api.time_off import TimeOffRoutes
from service.api.webhook_endpoints import WebhookEndpointRoutes
from service.api.webhooks import WebhookRoutes
from service.app import Services, answers_live_ms, default_slot, open_services
from service.claims.connection import connect
from service.claims.lease import Leases
from service.claims.marks import KeyMarks
from service.config import Settings
from service.db.calendar_secrets import CalendarSecretStore
from service.db.delivery_log import DeliveryLog
from service.db.endpoints import EndpointStore
from service.db.explain import HindranceStore
from service.db.feed import EventFeed
from service.db.idempotency import KeyRecords
from service.db.incoming_log import IncomingLog
from service.db.people import PeopleStore
from service.db.replays import ReplayStore
from service.db.sweep import SweepStore
from service.db.time_off import TimeOffStore
from service.delivery.build import FORGET_S, READ_TIMEOUT_S, WorkerTimes, build_worker
from service.delivery.destinations import Destination
from service.delivery.endpoint_deliveries import EndpointParts
from service.delivery.letter import Sender
from service.delivery.notifications import MailedNotifications
from service.delivery.worker import Worker, every
from service.domain.schedule import Window
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.mocks.server import ALL, run_mocks
from service.operations.accept_calendar_event import AcceptCalendarEvent
from service.operations.apply_calendar_event import ApplyCalendarEvent
from service.operations.authenticate import Authenticate, Permit, Validate
from service.operations.carry_out_once import CarryOutOnce
from service.operations.change_roster import ChangeRoster
from service.operations.check_health import CheckHealth
from service.operations.check_sender import CheckSender
from service.operations.explain_availability import ExplainAvailability
from service.operations.forget_keys import ForgetKeys
from service.operations.forget_repairs import ForgetRepairs
from service.operations.look_at_deliveries import LookAtDeliveries
from service.operations.look_back import LookBack
from service.operations.manage_calendars import ManageCalendars
from service.operations.manage_coaches import ManageCoaches
from service.operations.manage_contacts import ManageContacts
from service.operations.manage_endpoints import ManageEndpoints
from service.operations.show_distribution import ShowDistribution
from service.operations.sync_calendars import SyncCalendars
from service.operations.take_turns import TakeTurns
from service.operations.time_off import TimeOff
from service.operations.watch_grid import WatchGrid
from service.outside.auth_service import AuthService
from service.outside.breaker import Breaker
from service.outside.calendar_api import CalendarApi
from service.outside.crm import Crm
from service.outside.endpoint import EndpointCaller
from service.outside.http import open_foreign_session, open_session
from service.outside.smtp import Encryption, MailServer, Smtp

AUTH_TIMEOUT_S = 2.0
_OFFERS_A_ROUND = 4
_HEAL_S = 1.0


def until_told(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a process's main work on uvloop until SIGTERM or SIGINT."""
    import uvloop

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    uvloop.run(main())


async def api_process(settings: Settings, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve the API on a bound socket until `stop`. Raises ConfigurationError or Unavailable."""
    async with open_services(settings) as services, open_session() as session:
        edge, routes = build_api(services, session)
        application = build_application(edge, routes)
        _collect_less_often()
        care = asyncio.ensure_future(assemble_caretaker(services).run(stop))
        try:
            await serve(application, listening, stop)
        finally:
            stop.set()
            await care
            services.metrics.later.write()


def _collect_less_often() -> None:
    """What is there now stays, and requests leave few cycles: looking for them took a twentieth of a booking's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def build_api(services: Services, session: aiohttp.ClientSession) -> tuple[Edge, list[Route]]:
    """The edge and every route of the API."""
    settings = services.settings
    authenticate = Authenticate(
        keys=services.keys,
        rosters=services.roster_store,
        validate=_validator(settings, session),
        clock=services.clock,
        default_organization=settings.default_organization,
        default_limit=settings.rate_limit_max_requests,
        window_ms=settings.rate_limit_window_ms,
    )
    edge = Edge(
        gate=services.gate,
        rates=services.rates,
        rosters=services.rosters,
        authenticate=authenticate,
        once=carry_out_once(services),
        intake=Intake(
            most=settings.max_requests_in_flight,
            max_wait_s=settings.max_request_wait_ms / 1000,
            metrics=services.metrics,
            unfinished=services.tasks.__len__,
        ),
        metrics=services.metrics,
        cors_origin=settings.cors_origin,
    )
    operations = OperationRoutes(CheckHealth(services.database, services.redis), services.metrics)
    check_sender = CheckSender(CalendarSecretStore(services.database), services.clock, services.tasks)
    routes = [
        *AvailabilityRoutes(edge, services.availability, services.rosters, services.clock).routes(),
        *ExplainRoutes(edge, _explain(services), services.rosters).routes(),
        *AppointmentRoutes(
            services.book,
            services.change,
            services.move,
            ManageContacts(PeopleStore(services.database), services.tasks),
        ).routes(),
        *NotificationRoutes(services.notifications).routes(),
        *AppointmentLifeRoutes(services.change, LookBack(services.appointments), services.rosters).routes(),
        *WebhookRoutes(
            AcceptCalendarEvent(services.incoming, services.scripts, services.shards, services.reach),
            services.incoming,
            check_sender,
            authenticate.count_failure,
            services.tasks,
        ).routes(),
        *IncomingEventRoutes(IncomingLog(services.database), services.incoming, check_sender, services.tasks).routes(),
        *EventRoutes(EventFeed(services.database)).routes(),
        *DeliveryRoutes(
            LookAtDeliveries(DeliveryLog(services.database), services.destinations, services.tasks)
        ).routes(),
        *CoachRoutes(
            ShowDistribution(services.appointments, services.roster_store), services.rosters, services.clock
        ).routes(),
        *_people_routes(services, edge),
        *WebhookEndpointRoutes(manage_endpoints(services)).routes(),
        *operations.routes(),
    ]
    operations.openapi = document(routes)
    return edge, routes


def carry_out_once(services: Services) -> CarryOutOnce:
    """Idempotency keys of every write but the booking."""
    # As long as a claim and then the reconciler may take: a change that hangs for longer is taken for dead.
    hold = 2 * timedelta(milliseconds=services.settings.claim_ttl_ms)
    marks = KeyMarks(
        services.redis,
        services.scripts,
        services.shards,
        services.breaker,
        mark_ttl_ms=hold // timedelta(milliseconds=1),
        answer_ttl_ms=answers_live_ms(services.settings),
    )
    return CarryOutOnce(
        records=KeyRecords(services.database),
        marks=marks,
        tasks=services.tasks,
        metrics=services.metrics,
        hold_s=hold.total_seconds(),
    )


def forgetting(services: Services) -> TakeTurns:
    """Forgetting old idempotency keys, by one process a period."""
    forget = ForgetKeys(KeyRecords(services.database), services.metrics, services.settings.idempotency_retention_hours)
    # A little less than the period: the worker's clock must not find its own lease of last time.
    period_ms = round(FORGET_S * 900)
    return TakeTurns(Leases(services.redis, services.shards, services.breaker), "forget-keys", period_ms, forget)


def _explain(services: Services) -> ExplainAvailability:
    hindrances = HindranceStore(services.database)
    return ExplainAvailability(services.availability, services.roster_store, hindrances, services.clock)


def _people_routes(services: Services, edge: Edge) -> list[Route]:
    """The endpoints of coaches, calendars and contacts."""
    people = PeopleStore(services.database)
    change = ChangeRoster(
        people,
        rosters=services.rosters,
        keeper=services.keeper,
        heal=services.heal,
        grid=services.grid,
        clock=services.clock,
    )
    coaches = ManageCoaches(people, change, services.tasks)
    settings = services.settings
    opening = Window(settings.clinic_start_hour * 60, settings.clinic_end_hour * 60)
    return [
        *ManageCoachRoutes(coaches, opening).routes(),
        *CoachScheduleRoutes(coaches, edge, services.availability, services.rosters).routes(),
        *CalendarRoutes(ManageCalendars(people, change, services.tasks), default_slot(settings)).routes(),
        *ContactRoutes(ManageContacts(people, services.tasks)).routes(),
        *TimeOffRoutes(build_time_off(services)).routes(),
    ]


def manage_endpoints(services: Services) -> ManageEndpoints:
    """Endpoints of organizations, as the API registers them."""
    change = ChangeRoster(
        PeopleStore(services.database),
        rosters=services.rosters,
        keeper=services.keeper,
        heal=services.heal,
        grid=services.grid,
        clock=services.clock,
    )
    allow_private = services.settings.webhook_allow_private
    return ManageEndpoints(EndpointStore(services.database), change, services.tasks, allow_private=allow_private)


def endpoint_parts(services: Services, foreign: aiohttp.ClientSession) -> EndpointParts:
    """What the worker calls endpoints with; `foreign` is a session that connects where it may."""
    settings = services.settings
    return EndpointParts(
        store=EndpointStore(services.database),
        caller=EndpointCaller(foreign, settings.webhook_timeout_ms / 1000, services.clock),
        pause_after_s=settings.endpoint_pause_after_s,
    )


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


def _validator(settings: Settings, session: aiohttp.ClientSession) -> Validate | None:
    if settings.auth_service_url is None:
        return None
    service = AuthService(settings.auth_service_url, session, AUTH_TIMEOUT_S)

    async def validate(key: str) -> Permit | None:
        facts = await service.validate(key)
        return None if facts is None else Permit(facts.scopes, facts.rate_limit)

    return validate


async def worker_process(settings: Settings, stop: asyncio.Event) -> None:
    """Deliver, process and keep the grid until `stop`. Raises ConfigurationError or Unavailable."""
    async with (
        open_services(settings) as services,
        open_session() as session,
        open_foreign_session(allow_private=settings.webhook_allow_private) as foreign,
    ):
        if settings.metrics_port:
            _serve_metrics(settings, services.metrics)
        reading = connect(settings.redis_url or "", timeout_s=READ_TIMEOUT_S)
        try:
            await assemble_worker(services, session, foreign, reading).run(stop)
        finally:
            await reading.aclose()


def calendar_fetches(services: Services, calendar: CalendarApi) -> TakeTurns:
    """Fetching every external calendar, by one process a period."""
    settings = services.settings
    sync = SyncCalendars(
        calendar=calendar,
        breaker=Breaker(),
        busy=services.busy,
        roster_store=services.roster_store,
        rosters=services.rosters,
        keeper=services.keeper,
        heal=services.heal,
        clock=services.clock,
        metrics=services.metrics,
        organization=settings.default_organization,
    )
    # A little less than the period: the worker's clock must not find its own lease of last time.
    period_ms = max(1, round(settings.calendar_sync_interval_s * 900))
    return TakeTurns(Leases(services.redis, services.shards, services.breaker), "calendar-fetch", period_ms, sync)


async def fetch_calendars(settings: Settings) -> None:
    """Fetch every external calendar once. Raises Unavailable."""
    async with open_services(settings) as services, open_session() as session:
        calendar = CalendarApi(settings.calendar_api_url or "", session, settings.webhook_timeout_ms / 1000)
        await calendar_fetches(services, calendar)()


def assemble_caretaker(services: Services) -> Worker:
    """What API processes do beside their requests, so that time a crash has hidden is free in time on a busy machine.

    The worker, which gives way there, would be late. Each process offers to be the reconciler, oftener than there is a
    round: who dies or stands still in one keeps nobody waiting.
    """
    round_s = services.settings.reconcile_interval_ms / 1000
    turns = TakeTurns(
        Leases(services.redis, services.shards, services.breaker),
        "reconciler",
        max(1, round(round_s * 1000 * (1 - 1 / _OFFERS_A_ROUND))),
        services.reconcile,
    )
    return Worker(
        reading=(),
        periodic=[
            every("reconciler", round_s / _OFFERS_A_ROUND, turns),
            every("grid repairs", _HEAL_S, services.heal),
        ],
        works=(),
        metrics=services.metrics,
        chance=services.chance,
    )


def _serve_metrics(settings: Settings, metrics: Metrics) -> None:
    try:
        start_http_server(settings.metrics_port, settings.host, metrics.registry)
    except OSError as problem:
        raise ConfigurationError(
            f"METRICS_PORT: cannot listen on {settings.host}:{settings.metrics_port}: {problem.strerror}"
        ) from None


def assemble_worker(
    services: Services, session: aiohttp.ClientSession, foreign: aiohttp.ClientSession, reading: Redis
) -> Worker:
    """The worker; `foreign` calls endpoints, `reading` is a client of its own for reads that block."""
    settings = services.settings
    timeout_s = settings.webhook_timeout_ms / 1000
    calendar = CalendarApi(settings.calendar_api_url or "", session, timeout_s)
    return build_worker(
        redis=services.redis,
        reading=reading,
        scripts=services.scripts,
        shards=services.shards,
        consumer=f"{socket.gethostname()}-{token_hex(4)}",
        crm=Crm(settings.crm_webhook_url or "", session, timeout_s),
        calendar=calendar,
        deliveries=services.deliveries,
        incoming=services.incoming,
        sweep_store=SweepStore(services.database),
        replay_store=ReplayStore(services.database),
        all_destinations=services.destinations,
        answers=services.answers,
        roster_store=services.roster_store,
        keeper=services.keeper,
        watch_grid=WatchGrid(
            services.roster_store, services.rosters, services.keeper, services.deficits, services.clock
        ),
        apply_event=ApplyCalendarEvent(services.change, services.move, build_time_off(services)),
        look_at_owed=services.heal.owed,
        forget_repairs=ForgetRepairs(services.gate_store, services.grid, settings.claim_ttl_ms),
        sync_calendars=calendar_fetches(services, calendar),
        forget_keys=forgetting(services),
        times=WorkerTimes.of(
            attempts=settings.webhook_retry_attempts,
            delay_ms=settings.webhook_retry_delay_ms,
            timeout_ms=settings.webhook_timeout_ms,
            reclaim_idle_ms=settings.reclaim_idle_ms,
            calendar_sync_s=settings.calendar_sync_interval_s,
            sweep_ms=settings.sweep_interval_ms,
            overdue_ms=settings.sweep_overdue_ms,
            mail_timeout_ms=settings.smtp_timeout_ms,
        ),
        clock=services.clock,
        metrics=services.metrics,
        chance=services.chance,
        endpoints=endpoint_parts(services, foreign),
        notifications=mailed_notifications(services),
        remind=services.remind if settings.reminder_hours_before else None,
        reach=services.reach,
    )


def mailed_notifications(services: Services, tls: ssl.SSLContext | None = None) -> Destination | None:
    """Where notifications go by mail, None when no mail server is set; `tls` says what certificates are trusted."""
    settings = services.settings
    if settings.smtp_host is None or settings.smtp_from is None:
        return None
    name, address = parseaddr(settings.smtp_from)
    sender = Sender(name=name, address=address)
    server = MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        encryption=Encryption(settings.smtp_tls),
        username=settings.smtp_username,
        password=settings.smtp_password,
        timeout_s=settings.smtp_timeout_ms / 1000,
    )
    return MailedNotifications(
        smtp=Smtp(server, tls or ssl.create_default_context(), sender.domain),
        sender=sender,
        store=services.notifications,
        clock=services.clock,
    )


async def mock_process(settings: Settings, only: str | None, stop: asyncio.Event) -> None:
    """Serve the mocks (one of them, or all) until `stop`."""
    await run_mocks(settings, stop, only=ALL if only is None else frozenset({only}))
