"""Registering, changing and removing endpoints that hear of an organization's events.

Whether there is any stands in the roster, so that the events of organizations without enter no stream for nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import uuid_utils

from service.db.endpoints import EndpointRecord, EndpointState, EndpointStore
from service.db.idempotency import Complete, completing
from service.domain.addresses import check_url
from service.domain.signed_message import new_secret, secret_text
from service.errors import InvalidRequest, StateConflict
from service.logs import get_logger
from service.operations.change_roster import ChangeRoster
from service.operations.tracking import TrackedTasks

MOST_ENDPOINTS = 100
OVERLAP = timedelta(hours=24)
PAUSED_BY_HAND = "paused over the API"

_log = get_logger("operations.manage_endpoints")


@dataclass(frozen=True, slots=True, repr=False)
class Told:
    """An endpoint and its new secret, which is said this once."""

    endpoint: EndpointRecord
    secret: str


class ManageEndpoints:
    """Reads and writes the endpoints of an organization. Writes go on when the caller is cancelled."""

    def __init__(self, store: EndpointStore, change: ChangeRoster, tasks: TrackedTasks, *, allow_private: bool) -> None:
        self._store = store
        self._change = change
        self._tasks = tasks
        self._allow_private = allow_private

    async def page(self, org: int, after: uuid.UUID | None, most: int) -> list[EndpointRecord]:
        """At most `most` endpoints in the order they were registered, those after `after`."""
        return await self._store.page(org, after, most)

    async def get(self, org: int, endpoint_id: uuid.UUID) -> EndpointRecord:
        """One endpoint. Raises NotFound."""
        return await self._store.get(org, endpoint_id)

    async def register(
        self,
        org: int,
        url: str,
        types: Sequence[str],
        description: str | None,
        *,
        complete: Complete[Told] | None = None,
    ) -> Told:
        """A new endpoint, which hears of what is committed from now on.

        Raises InvalidRequest for a URL that cannot be called, StateConflict when there are too many, Unavailable or
        OutcomeUnknown.
        """
        self._check(url)
        return await self._tasks.run(self._register(org, url, types, description, complete))

    async def _register(
        self, org: int, url: str, types: Sequence[str], description: str | None, complete: Complete[Told] | None
    ) -> Told:
        secret = new_secret()
        async with self._change(org) as change:
            if await self._store.count(change) >= MOST_ENDPOINTS:
                raise StateConflict(f"an organization can have {MOST_ENDPOINTS} webhook endpoints")
            made = await self._store.add(change, _new_id(), url, description, types, _new_id(), secret)
            told = await change.answered(complete, Told(made, secret_text(secret)))
        _log.info("endpoint registered", org=org, endpoint_id=str(made.endpoint_id))
        return told

    async def change(
        self,
        org: int,
        endpoint_id: uuid.UUID,
        fields: Mapping[str, Any],
        *,
        types: Sequence[str] | None,
        state: EndpointState | None,
        complete: Complete[EndpointRecord] | None = None,
    ) -> EndpointRecord:
        """Change `url` or `description`, the types, or whether it is called; resumed, it hears of all that waited.

        Raises NotFound, InvalidRequest, Unavailable or OutcomeUnknown.
        """
        if "url" in fields:
            self._check(fields["url"])
        if not fields and types is None and state is None:
            return await self.get(org, endpoint_id)
        return await self._tasks.run(
            self._store.save(
                org,
                endpoint_id,
                fields=dict(fields),
                types=types,
                state=state,
                reason=PAUSED_BY_HAND,
                complete=complete,
            )
        )

    async def remove(
        self, org: int, endpoint_id: uuid.UUID, *, complete: Complete[EndpointRecord] | None = None
    ) -> EndpointRecord:
        """Remove an endpoint; what it was. Raises NotFound, Unavailable or OutcomeUnknown."""
        return await self._tasks.run(self._remove(org, endpoint_id, complete))

    async def _remove(
        self, org: int, endpoint_id: uuid.UUID, complete: Complete[EndpointRecord] | None
    ) -> EndpointRecord:
        await self._store.get(org, endpoint_id)  # an unknown one changes no roster
        async with self._change(org) as change:
            return await change.answered(complete, await self._store.remove(change, endpoint_id))

    async def rotate(self, org: int, endpoint_id: uuid.UUID, *, complete: Complete[Told] | None = None) -> Told:
        """A new secret; for a day the one before signs too. Raises NotFound, Unavailable or OutcomeUnknown."""
        secret = new_secret()

        def told(rotated: EndpointRecord) -> Told:
            return Told(rotated, secret_text(secret))

        kept = completing(complete, told)
        rotated = await self._tasks.run(self._store.rotate(org, endpoint_id, _new_id(), secret, OVERLAP, complete=kept))
        return told(rotated)

    def _check(self, url: str) -> None:
        try:
            check_url(url, allow_private=self._allow_private)
        except ValueError as problem:
            raise InvalidRequest([("url", str(problem))]) from None


def _new_id() -> uuid.UUID:
    return uuid.UUID(int=uuid_utils.uuid7().int)
