"""Puts the worker together."""

from __future__ import annotations

import socket
import ssl
from email.utils import parseaddr
from secrets import token_hex

import aiohttp
from redis.asyncio import Redis

from service.app import Services, build_time_off
from service.claims.lease import Leases
from service.db.endpoints import EndpointStore
from service.db.idempotency import KeyRecords
from service.db.replays import ReplayStore
from service.db.sweep import SweepStore
from service.delivery.build import FORGET_S, WorkerTimes, build_worker
from service.delivery.destinations import Destination
from service.delivery.endpoint_deliveries import EndpointParts
from service.delivery.letter import Sender
from service.delivery.notifications import MailedNotifications
from service.delivery.worker import Worker
from service.operations.apply_calendar_event import ApplyCalendarEvent
from service.operations.forget_keys import ForgetKeys
from service.operations.forget_repairs import ForgetRepairs
from service.operations.sync_calendars import NAME, SyncCalendars
from service.operations.take_turns import TakeTurns
from service.operations.watch_grid import WatchGrid
from service.outside.breaker import Breaker
from service.outside.calendar_api import CalendarApi
from service.outside.crm import Crm
from service.outside.endpoint import EndpointCaller
from service.outside.smtp import Encryption, MailServer, Smtp


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


def calendar_fetches(services: Services, calendar: CalendarApi) -> TakeTurns:
    """Fetching external calendars, by one process a period."""
    settings = services.settings
    leases = Leases(services.redis, services.shards, services.breaker)
    sync = SyncCalendars(
        calendar=calendar,
        breaker=Breaker(),
        busy=services.busy,
        roster_store=services.roster_store,
        rosters=services.rosters,
        keeper=services.keeper,
        heal=services.heal,
        leases=leases,
        clock=services.clock,
        metrics=services.metrics,
        organization=settings.default_organization,
        within_s=settings.calendar_sync_interval_s * 0.8,
    )
    # A little less than the period, for the worker looks ten times a period; a little more than a round may take.
    period_ms = max(1, round(settings.calendar_sync_interval_s * 900))
    return TakeTurns(leases, NAME, period_ms, sync)


def forgetting(services: Services) -> TakeTurns:
    """Forgetting old idempotency keys, by one process a period."""
    forget = ForgetKeys(KeyRecords(services.database), services.metrics, services.settings.idempotency_retention_hours)
    # A little less than the period: the worker's clock must not find its own lease of last time.
    period_ms = round(FORGET_S * 900)
    return TakeTurns(Leases(services.redis, services.shards, services.breaker), "forget-keys", period_ms, forget)


def endpoint_parts(services: Services, foreign: aiohttp.ClientSession) -> EndpointParts:
    """What the worker calls endpoints with; `foreign` is a session that connects where it may."""
    settings = services.settings
    return EndpointParts(
        store=EndpointStore(services.database),
        caller=EndpointCaller(foreign, settings.webhook_timeout_ms / 1000, services.clock),
        pause_after_s=settings.endpoint_pause_after_s,
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
