"""The API in the test's own process, with the test's own database, and an organization besides the sample one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sanic import Sanic

from service.api.coach_schedules import CoachScheduleRoutes
from service.api.contacts import ContactRoutes
from service.api.endpoint import Edge, Route
from service.api.manage_calendars import CalendarRoutes
from service.api.manage_coaches import ManageCoachRoutes
from service.api.openapi import document
from service.api.server import build_application, serve
from service.app import Services, default_slot, open_services
from service.assemble_api import build_api
from service.db.people import PeopleStore
from service.domain.schedule import Window
from service.operations.change_roster import ChangeRoster
from service.operations.manage_calendars import ManageCalendars
from service.operations.manage_coaches import ManageCoaches
from service.operations.manage_contacts import ManageContacts
from service.outside.http import open_session
from tests.api.client import Client, open_client
from tests.servers import eventually

ADMIN, READER, STRANGER = "admin-of-demo", "reader-of-demo", "admin-elsewhere"
EVERYTHING = frozenset({"read", "write", "admin"})


def people_routes(services: Services, edge: Edge) -> list[Route]:
    """The routes of coaches, schedules, calendars and contacts."""
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
    ]


@asynccontextmanager
async def served(services: Services, *more: Route) -> AsyncIterator[Client]:
    """The API on a free port, for an administrator of the sample organization; with routes of the test's own."""
    async with open_session() as session:
        edge, routes = build_api(services, session)
        known = {route.operation_id for route in routes}
        routes = [*routes, *(route for route in people_routes(services, edge) if route.operation_id not in known)]
        routes += more
        assert document(routes)
        app = build_application(edge, routes)
        Sanic.unregister_app(app)
        listening = socket.create_server(("127.0.0.1", 0))
        stop = asyncio.Event()
        serving = asyncio.ensure_future(serve(app, listening, stop))
        async with open_client(f"http://127.0.0.1:{listening.getsockname()[1]}", ADMIN) as client:

            async def answers() -> bool:
                return serving.done() or (await client("GET", "/livez")).status == 200

            await eventually(answers, what="the API")
            yield client
        stop.set()
        await serving


@pytest.fixture
async def elsewhere(services: Services) -> int:
    """Another organization."""
    async with services.database.transaction() as connection:
        return await connection.fetchval("INSERT INTO organizations (name) VALUES ('elsewhere') RETURNING org_id")


@pytest.fixture
async def api(services: Services, org: int, elsewhere: int) -> AsyncIterator[Client]:
    """A client with an administrator's key; keys of a reader and of another organization exist too."""
    await services.keys.add(org, ADMIN, "admin", EVERYTHING, 0)
    await services.keys.add(org, READER, "reader", frozenset({"read"}), 0)
    await services.keys.add(elsewhere, STRANGER, "stranger", EVERYTHING, 0)
    async with served(services) as client:
        yield client


@pytest.fixture
async def second(services: Services, api: Client) -> AsyncIterator[Client]:
    """The same API served by another process' objects."""
    async with open_services(services.settings) as others, served(others) as client:
        await client.slots(calendar_id="cal-1")  # it has a roster of its own now
        yield client
