"""Puts the API together: its edge, its routes, the operations behind them, and what is done beside requests."""

from __future__ import annotations

from datetime import timedelta

import aiohttp

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
from service.api.time_off import TimeOffRoutes
from service.api.webhook_endpoints import WebhookEndpointRoutes
from service.api.webhooks import WebhookRoutes
from service.app import Services, answers_live_ms, build_time_off, default_slot
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
from service.delivery.worker import Worker, every
from service.domain.schedule import Window
from service.operations.accept_calendar_event import AcceptCalendarEvent
from service.operations.authenticate import Authenticate, Permit, Validate
from service.operations.carry_out_once import CarryOutOnce
from service.operations.change_roster import ChangeRoster
from service.operations.check_health import CheckHealth
from service.operations.check_sender import CheckSender
from service.operations.explain_availability import ExplainAvailability
from service.operations.look_at_deliveries import LookAtDeliveries
from service.operations.look_back import LookBack
from service.operations.manage_calendars import ManageCalendars
from service.operations.manage_coaches import ManageCoaches
from service.operations.manage_contacts import ManageContacts
from service.operations.manage_endpoints import ManageEndpoints
from service.operations.show_distribution import ShowDistribution
from service.operations.take_turns import TakeTurns
from service.outside.auth_service import AuthService

AUTH_TIMEOUT_S = 2.0
_OFFERS_A_ROUND = 4
_HEAL_S = 1.0


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
    health = CheckHealth(services.database, services.redis, services.shards)
    operations = OperationRoutes(health, services.metrics)
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
        gate=services.gate_store,
        tasks=services.tasks,
        metrics=services.metrics,
        hold_s=hold.total_seconds(),
    )


def _explain(services: Services) -> ExplainAvailability:
    hindrances = HindranceStore(services.database)
    return ExplainAvailability(services.availability, services.roster_store, hindrances, services.clock)


def _people_routes(services: Services, edge: Edge) -> list[Route]:
    """The endpoints of coaches, calendars and contacts."""
    people, change = PeopleStore(services.database), _change_roster(services)
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
    store, allow_private = EndpointStore(services.database), services.settings.webhook_allow_private
    return ManageEndpoints(store, _change_roster(services), services.tasks, allow_private=allow_private)


def _change_roster(services: Services) -> ChangeRoster:
    return ChangeRoster(
        PeopleStore(services.database),
        rosters=services.rosters,
        keeper=services.keeper,
        heal=services.heal,
        grid=services.grid,
        clock=services.clock,
    )


def _validator(settings: Settings, session: aiohttp.ClientSession) -> Validate | None:
    if settings.auth_service_url is None:
        return None
    service = AuthService(settings.auth_service_url, session, AUTH_TIMEOUT_S)

    async def validate(key: str) -> Permit | None:
        facts = await service.validate(key)
        return None if facts is None else Permit(facts.scopes, facts.rate_limit)

    return validate


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
            every("pending gauge", round_s, services.reconcile.show_pending),
            every("grid repairs", _HEAL_S, services.heal),
        ],
        works=(),
        metrics=services.metrics,
        chance=services.chance,
    )
