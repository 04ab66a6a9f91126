"""The clinic, loaded by one process and served by another, and those who speak to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.app import Services, open_services
from service.cli import clinic_of
from service.operations.seed_clinic import CLINIC, TIMEZONE
from tests.api.client import Client
from tests.api_people.conftest import served

HERE = ZoneInfo(TIMEZONE)
FULL = frozenset({"read", "write", "admin"})


@dataclass(frozen=True)
class Clinic:
    """A client of the clinic and one of the sample organization; its integer key and the days of its appointments."""

    api: Client
    demo: Client
    org: int
    days: list[date]

    async def appointments(self, query: str = "") -> list[dict[str, Any]]:
        """Every appointment the filters let through, by pages of twenty."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = await self.api("GET", f"/api/appointments?limit=20{query}{cursor}")
            assert answer.status == 200, answer.raw
            found += answer.json["appointments"]
            if answer.json["next_cursor"] is None:
                return found
            cursor = f"&cursor={answer.json['next_cursor']}"

    async def history(self, appointment: dict[str, Any]) -> list[dict[str, Any]]:
        """What happened to an appointment."""
        answer = await self.api("GET", f"/api/appointments/{appointment['appointment_id']}/history")
        assert answer.status == 200, answer.raw
        return answer.json["history"]

    async def cancel(self, appointment: dict[str, Any], **headers: str) -> None:
        """Cancel an appointment."""
        path = f"/api/appointments/{appointment['appointment_id']}/cancel"
        answer = await self.api("POST", path, {"reason": "a cold"}, headers=headers)
        assert (answer.status, answer.json["status"]) == (200, "cancelled"), answer.raw


async def load(services: Services) -> tuple[int, int]:
    """Load the clinic in a process of its own: (how much was added, how often progress was told)."""
    steps = list[None]()
    async with open_services(services.settings) as loading:
        added = await clinic_of(loading)(lambda: steps.append(None))
    return added, len(steps)


@pytest.fixture
async def clinic(services: Services, org: int) -> AsyncIterator[Clinic]:
    """The clinic over HTTP."""
    today = datetime.now(HERE).date()
    await load(services)
    own = await services.roster_store.organization(CLINIC)
    assert own is not None
    await services.keys.add(own, "clinic-desk", "desk", FULL, 0)
    await services.keys.add(org, "demo-desk", "desk", FULL, 0)
    async with served(services) as client:
        yield Clinic(client.with_key("clinic-desk"), client.with_key("demo-desk"), own, fortnight(today))


def begin(appointment: dict[str, Any]) -> datetime:
    """When it begins, by the clinic's clocks."""
    return datetime.fromisoformat(appointment["start_time"]).astimezone(HERE)


def fortnight(today: date) -> list[date]:
    """The fourteen dates from tomorrow on."""
    return [today + timedelta(days=number) for number in range(1, 15)]


def same_again(appointment: dict[str, Any], person: int = 0, **more: Any) -> dict[str, Any]:
    """The body that asks for an appointment's time and doctor, for somebody else."""
    wish = {name: appointment[name] for name in ("calendar_id", "coach_id", "start_time")}
    return {**wish, "contact_email": f"visitor{person}@example.com", **more}
