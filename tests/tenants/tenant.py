"""One organization of two: everything it has, under ids both have and under ids only it has.

Every text of it holds its name, so that what is another's is seen wherever it shows up.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from service.app import Services
from tests.api.client import Answer, Client

SCOPES = frozenset({"read", "write", "admin"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ALL_WEEK = {day: [{"start": "00:00", "end": "24:00"}] for day in _DAYS}


@dataclass
class Tenant:
    """An organization with a client that holds a key of every scope.

    `ids` are those nobody else has; `coach-1`, `cal-1` and `evt-1` are in every organization.
    """

    services: Services
    org: int
    name: str
    api: Client
    ids: dict[str, str] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    _number: count[int] = field(default_factory=count)

    def key_without(self, scope: str) -> Client:
        """A client whose key has every scope but one."""
        return self.api.with_key(f"{self.name}-without-{scope}")

    def value(self, name: str) -> Any:
        """What is sent in a field or parameter that names nothing there is; None when nobody has said it."""
        number = next(self._number)
        begin = datetime.fromisoformat(self.starts[-1])
        values: dict[str, Any] = {
            "name": f"Name {number} of {self.name}",
            "email": f"new-{number}@{self.name}.test",
            "notes": f"notes of {self.name}",
            "reason": f"reason of {self.name}",
            "event_id": f"evt-{number}-of-{self.name}",
            "event_type": "appointment.confirmed",
            "date": str(begin.date()),
            "start_time": self.starts.pop() if name == "start_time" else None,
            "end_time": (begin + timedelta(hours=5)).isoformat(),
            "weekly": _ALL_WEEK,
            "url": f"https://{self.name}.test/hooks",
            "description": f"description of {self.name}",
        }
        return values.get(name)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """What a request that must succeed is answered."""
        answer = await self.api(method, path, body, headers=headers)
        assert 200 <= answer.status < 300, (method, path, answer.raw)
        return answer.json

    async def settle_in(self, paths: Collection[str]) -> None:
        """Make some of everything there is an endpoint for."""
        who = self.name
        for calendar_id in ("cal-1", f"cal-{who}"):
            calendar = {"calendar_id": calendar_id, "name": f"Calendar of {who}", "min_notice_minutes": 0}
            await self.ask("POST", "/api/calendars", calendar)
        for coach_id in ("coach-1", f"coach-{who}"):
            coach = {"coach_id": coach_id, "name": f"Coach of {who}", "email": f"{coach_id}@{who}.test"}
            coach |= {"specialty": f"craft of {who}", "calendar_ids": ["cal-1", f"cal-{who}"]}
            await self.ask("POST", "/api/coaches", coach)
            await self.ask("PUT", f"/api/coaches/{coach_id}/schedule", {"weekly": _ALL_WEEK})
        for number in range(2):
            contact = {"email": f"contact-{number}@{who}.test", "name": f"Contact of {who}", "phone": f"1 {who}"}
            made = await self.ask("POST", "/api/contacts", contact)
        self.ids |= {"coach_id": f"coach-{who}", "calendar_id": f"cal-{who}", "contact_id": made["contact_id"]}
        self.ids["contact_email"] = made["email"]
        listed = await self.api.slots(calendar_id="cal-1", coach_id="coach-1", days=3)
        self.starts = sorted({slot["start_time"] for slot in listed})[8::4]
        for calendar_id, coach_id in (("cal-1", "coach-1"), (f"cal-{who}", f"coach-{who}")):
            booking = {"calendar_id": calendar_id, "coach_id": coach_id, "start_time": self.starts.pop(0)}
            booking |= {"contact_email": made["email"], "notes": f"notes of {who}", "metadata": {"of": who}}
            booked = await self.ask("POST", "/api/appointments", booking)
        self.ids["appointment_id"] = booked["appointment_id"]
        self.ids |= {"delivery_id": f"{booked['appointment_id']}.1.crm", "destination": "crm"}
        for event_id in ("evt-1", f"evt-{who}"):
            event = {"event_type": "appointment.confirmed", "event_id": event_id, "reason": f"reason of {who}"}
            await self.ask("POST", "/api/webhooks/calendar", {**event, "appointment_id": booked["appointment_id"]})
        self.ids["event_id"] = f"evt-{who}"
        if "/api/webhooks/endpoints" in paths:
            endpoint = {"url": f"https://{who}.test/hooks", "description": f"endpoint of {who}"}
            for _ in range(2):
                self.ids["endpoint_id"] = (await self.ask("POST", "/api/webhooks/endpoints", endpoint))["endpoint_id"]
        if "/api/coaches/{coach_id}/time-off" in paths:
            await self._go_away()

    async def _go_away(self) -> None:
        last = datetime.fromisoformat(self.starts[-1])
        for days in (40, 50):
            period = {"start_time": (last + timedelta(days=days)).isoformat(), "reason": f"reason of {self.name}"}
            period |= {"end_time": (last + timedelta(days=days + 1)).isoformat(), "existing": "keep"}
            made = await self.ask("POST", f"/api/coaches/{self.ids['coach_id']}/time-off", period)
        self.ids["time_off_id"] = made["time_off_id"]

    async def rows(self) -> dict[str, list[str]]:
        """Everything Postgres has of the organization, by table, as text."""
        async with self.services.database.writing() as connection:
            tables = await connection.fetch(
                "SELECT table_name FROM information_schema.columns WHERE column_name = 'org_id'"
                " AND table_schema = 'public' ORDER BY 1"
            )
            found: dict[str, list[str]] = {}
            for (name,) in tables:
                query = f"SELECT t::text FROM {name} AS t WHERE org_id = $1 ORDER BY 1"  # noqa: S608 - our tables
                found[name] = [row[0] for row in await connection.fetch(query, self.org)]
            return found

    async def secrets(self) -> set[str]:
        """What nobody else may read: its name, which is in every text of it, and every UUID in its rows."""
        text = str(await self.rows())
        assert text.count(self.name) > 20
        return {self.name, *_UUID.findall(text)}


def assert_nothing_of(secrets: Collection[str], answer: Answer, asked: Collection[str] = ()) -> None:
    """An answer holds nothing of somebody, except what the request itself has said."""
    text = answer.raw.decode() + "".join(f"\n{name}: {value}" for name, value in answer.headers.items())
    for word in sorted(asked, key=len, reverse=True):
        if any(secret in word for secret in secrets):
            text = text.replace(word, "")
    lower = text.lower()
    found = [secret for secret in secrets if secret in lower or secret.replace("-", "") in lower]
    assert not found, (found, answer.status, text[:2000])
