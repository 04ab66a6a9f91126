"""The CRM: hears of appointments, each webhook under a key by which it recognises a repeat."""

from __future__ import annotations

from datetime import datetime

import aiohttp
import msgspec

from service.outside.http import Attempt, attempt


class CrmCreated(msgspec.Struct, frozen=True, kw_only=True):
    """An appointment was made; times are UTC."""

    appointment_id: str
    coach_id: str
    start_time: datetime
    end_time: datetime
    client_id: str


class CrmUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """An appointment changed and now has this status."""

    appointment_id: str
    status: str


class CrmCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """An appointment was cancelled; the reason is null where nobody gave one."""

    appointment_id: str
    reason: str | None


class Crm:
    """Posts webhooks. Each is one attempt; trying again is the caller's."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._timeout_s = timeout_s

    async def created(self, body: CrmCreated, key: str, correlation_id: str) -> Attempt:
        """POST /webhooks/appointment-created."""
        return await self._post("appointment-created", body, key, correlation_id)

    async def updated(self, body: CrmUpdated, key: str, correlation_id: str) -> Attempt:
        """POST /webhooks/appointment-updated."""
        return await self._post("appointment-updated", body, key, correlation_id)

    async def cancelled(self, body: CrmCancelled, key: str, correlation_id: str) -> Attempt:
        """POST /webhooks/appointment-cancelled."""
        return await self._post("appointment-cancelled", body, key, correlation_id)

    async def _post(self, hook: str, body: object, key: str, correlation_id: str) -> Attempt:
        return await attempt(
            self._session,
            "POST",
            f"{self._url}/webhooks/{hook}",
            body=body,
            headers={"X-Idempotency-Key": key, "X-Correlation-ID": correlation_id},
            timeout_s=self._timeout_s,
        )
