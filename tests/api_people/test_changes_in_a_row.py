"""A change that was answered is known to who asks afterwards, also where a process is still reading the one before."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest

from service.app import Services
from service.domain.calendar import Roster
from tests.api.client import Client
from tests.api_people.asking import made
from tests.servers import eventually


@pytest.mark.parametrize("path", ["/api/availability?calendar_id=two", "/api/appointments?calendar_id=two"])
async def test_who_waits_for_a_reading_of_before_its_change_is_not_given_that(
    path: str, api: Client, second: Client, services: Services, org: int
) -> None:
    await api.slots(calendar_id="cal-1")  # it has a roster of its own now
    load, has_read, go_on = services.roster_store.load, asyncio.Event(), asyncio.Event()

    async def slow(org: int) -> Roster:
        found = await load(org)
        has_read.set()
        await go_on.wait()
        return found

    refresh = services.rosters.refresh
    with (
        patch.object(services.roster_store, "load", slow),
        patch.object(services.rosters, "refresh", wraps=refresh) as asked,
    ):
        await made(second, "/api/calendars", calendar_id="one", name="One", coach_ids=["coach-1"])
        slowly = asyncio.ensure_future(api("GET", "/api/availability?calendar_id=one"))
        await has_read.wait()
        await made(second, "/api/calendars", calendar_id="two", name="Two", coach_ids=["coach-1"])
        after_it = asyncio.ensure_future(api("GET", path))

        async def waits() -> bool:
            return asked.call_count == 2

        await eventually(waits, what="the one that asks after both changes")
        go_on.set()
        assert (await slowly).status == 200
        found = await after_it
    assert found.status == 200, found.raw
