"""Endpoints of organizations in Postgres: who they are, whether they are called, and what they still have to hear.

Secrets are read only to sign with them; the values that carry them do not show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from service.db.connection import Database
from service.db.idempotency import Complete, complete_within
from service.db.people import RosterChange
from service.db.statements import statement
from service.domain.event import EventRef, EventType
from service.errors import NotFound

MOST_SECRETS = 5


class EndpointState(StrEnum):
    """active: it is called. paused, disabled: its events wait, because of a person or its failures, or a 410."""

    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as it is shown; `reason` says why it is not called since `paused_at`."""

    endpoint_id: UUID
    url: str
    description: str | None
    event_types: tuple[str, ...]
    state: EndpointState
    reason: str | None
    paused_at: datetime | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime


class SigningKeys:
    """The secrets a message is signed with, newest first."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self.secrets = tuple(secrets)

    def __repr__(self) -> str:
        return f"SigningKeys({len(self.secrets)})"


class Callee(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as it is called."""

    org: int
    endpoint_id: UUID
    url: str
    state: EndpointState
    failing_since: datetime | None
    types: tuple[EventType, ...]
    keys: SigningKeys


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint taken to be looked at: nothing below `horizon` can be committed any more."""

    org: int
    endpoint_id: UUID
    updated_at: datetime
    horizon: int


class Undelivered(msgspec.Struct, frozen=True, kw_only=True):
    """An event an endpoint has not heard of after so many attempts; `young`: it may not have been announced yet."""

    ref: EventRef
    committed_in: int
    attempts: int
    young: bool


class EndpointStore:
    """Reads and writes endpoints. Raises Unavailable; writes OutcomeUnknown too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, org: int, after: UUID | None, most: int) -> list[EndpointRecord]:
        """At most `most` endpoints in the order they were registered, those after `after`."""
        return [_record(row) for row in await self._database.fetch("list_endpoints", org, after, None, most)]

    async def get(self, org: int, endpoint_id: UUID) -> EndpointRecord:
        """One endpoint. Raises NotFound."""
        row = await self._database.first("list_endpoints", org, None, endpoint_id, 1)
        if row is None:
            raise _nobody(endpoint_id)
        return _record(row)

    async def add(
        self,
        change: RosterChange,
        endpoint_id: UUID,
        url: str,
        description: str | None,
        types: Sequence[str],
        secret_id: UUID,
        secret: bytes,
    ) -> EndpointRecord:
        """A new endpoint, in the transaction of `change`; it hears of what is committed from now on."""
        await change.run("add_endpoint", endpoint_id, url, description)
        await change.run("subscribe_endpoint", endpoint_id, list(types))
        await change.run("add_endpoint_secret", endpoint_id, secret_id, secret)
        return _record(await change.run("list_endpoints", None, endpoint_id, 1))

    async def count(self, change: RosterChange) -> int:
        """How many endpoints there are, in the transaction of `change`."""
        return (await change.run("count_endpoints"))["endpoints"]

    async def remove(self, change: RosterChange, endpoint_id: UUID) -> EndpointRecord:
        """Remove an endpoint, in the transaction of `change`; what it was. Raises NotFound."""
        row = await change.run("list_endpoints", None, endpoint_id, 1)
        if row is None:
            raise _nobody(endpoint_id)
        await change.run("remove_endpoint", endpoint_id)
        return _record(row)

    async def save(
        self,
        org: int,
        endpoint_id: UUID,
        *,
        fields: dict[str, Any],
        types: Sequence[str] | None,
        state: EndpointState | None,
        reason: str,
        complete: Complete[EndpointRecord] | None = None,
    ) -> EndpointRecord:
        """Change `url` and `description`, the types, or whether it is called (`reason` says why not).

        Raises NotFound.
        """
        one = (org, endpoint_id)
        async with self._database.transaction() as connection:
            if await connection.fetchrow(statement("lock_endpoint"), *one) is None:
                raise _nobody(endpoint_id)
            before = _record(await connection.fetchrow(statement("list_endpoints"), org, None, endpoint_id, 1))
            url, description = fields.get("url", before.url), fields.get("description", before.description)
            await connection.execute(statement("save_endpoint"), *one, url, description)
            if types is not None:
                await connection.execute(statement("unsubscribe_endpoint"), *one, list(types))
                await connection.execute(statement("subscribe_endpoint"), *one, list(types))
            if state is EndpointState.ACTIVE:
                await connection.execute(statement("resume_endpoint"), *one)
            elif state is not None:
                await connection.execute(statement("pause_endpoint"), *one, state.value, reason)
            saved = _record(await connection.fetchrow(statement("list_endpoints"), org, None, endpoint_id, 1))
            return await complete_within(connection, complete, saved)

    async def rotate(
        self,
        org: int,
        endpoint_id: UUID,
        secret_id: UUID,
        secret: bytes,
        overlap: timedelta,
        *,
        complete: Complete[EndpointRecord] | None = None,
    ) -> EndpointRecord:
        """A new secret; the ones before, of which few are kept, sign beside it for `overlap`. Raises NotFound."""
        one = (org, endpoint_id)
        async with self._database.transaction() as connection:
            if await connection.fetchrow(statement("lock_endpoint"), *one) is None:
                raise _nobody(endpoint_id)
            await connection.execute(statement("retire_endpoint_secrets"), *one, overlap)
            await connection.execute(statement("add_endpoint_secret"), *one, secret_id, secret)
            await connection.execute(statement("forget_endpoint_secrets"), *one, MOST_SECRETS)
            rotated = _record(await connection.fetchrow(statement("list_endpoints"), org, None, endpoint_id, 1))
            return await complete_within(connection, complete, rotated)

    async def subscriptions(self, org: int) -> list[tuple[UUID, str, str]]:
        """(endpoint, event type, snapshot from which on) of everything endpoints hear of, called or not."""
        rows = await self._database.fetch("endpoint_subscriptions", org)
        return [(_uuid(row["endpoint_id"]), row["type"], row["since"]) for row in rows]

    async def callees(self, wanted: Sequence[tuple[int, UUID]]) -> dict[UUID, Callee]:
        """The endpoints among (organization, id) that exist, by id."""
        rows = await self._database.fetch("endpoints_to_call", [org for org, _ in wanted], [one for _, one in wanted])
        return {found.endpoint_id: found for found in map(_callee, rows)}

    async def to_tell(self, refs: Sequence[EventRef]) -> dict[EventRef, list[UUID]]:
        """For each committed event of `refs` the active endpoints that have not heard of it yet."""
        rows = await self._database.fetch(
            "endpoints_to_tell",
            [ref.org for ref in refs],
            [ref.appointment_id for ref in refs],
            [ref.sequence for ref in refs],
        )
        found: dict[EventRef, list[UUID]] = {}
        for row in rows:
            tell = found.setdefault(EventRef(row["org_id"], _uuid(row["appointment_id"]), row["sequence"]), [])
            if row["endpoint_id"] is not None:
                tell.append(_uuid(row["endpoint_id"]))
        return found

    async def pause(self, org: int, endpoint_id: UUID, state: EndpointState, reason: str) -> bool:
        """Stop calling an active endpoint; False when it was not called any more."""
        return bool(await self._database.write("pause_endpoint", org, endpoint_id, state.value, reason))

    async def failed(
        self, org: int, endpoint_id: UUID, pause_after_s: float, reason: str
    ) -> tuple[EndpointState, datetime] | None:
        """Note a failure; an endpoint that did nothing else for `pause_after_s` is paused.

        Its state and since when it fails; None when it was not called any more.
        """
        rows = await self._database.write("note_endpoint_failing", org, endpoint_id, pause_after_s, reason)
        return (EndpointState(rows[0]["state"]), rows[0]["failing_since"]) if rows else None

    async def well(self, org: int, endpoint_id: UUID) -> None:
        """Note a success: failures are counted anew."""
        await self._database.write("note_endpoint_well", org, endpoint_id)

    async def take_for_sweep(self, period: timedelta, most: int) -> list[Swept]:
        """At most `most` endpoints whose time to be looked at has come; no other worker gets them for a while."""
        return [
            Swept(
                org=row["org_id"],
                endpoint_id=_uuid(row["endpoint_id"]),
                updated_at=row["updated_at"],
                horizon=int(row["horizon"]),
            )
            for row in await self._database.write("endpoints_to_sweep", period, most)
        ]

    async def undelivered(self, swept: Swept, young: timedelta, most: int) -> list[Undelivered]:
        """At most `most` events the endpoint has still to hear of, in order of commit."""
        rows = await self._database.fetch("undelivered_to_endpoint", swept.org, swept.endpoint_id, young, most)
        return [
            Undelivered(
                ref=EventRef(swept.org, _uuid(row["appointment_id"]), row["sequence"]),
                committed_in=int(row["committed_in"]),
                attempts=row["attempts"],
                young=row["young"],
            )
            for row in rows
        ]

    async def swept(self, swept: Swept, up_to: int) -> None:
        """Keep how far an endpoint was swept, unless it was changed meanwhile."""
        await self._database.write("save_sweep", swept.org, swept.endpoint_id, str(up_to), swept.updated_at)

    async def by_state(self) -> dict[EndpointState, int]:
        """How many endpoints there are in each state."""
        found = {
            EndpointState(row["state"]): row["endpoints"] for row in await self._database.fetch("endpoints_by_state")
        }
        return {state: found.get(state, 0) for state in EndpointState}


def _nobody(endpoint_id: UUID) -> NotFound:
    return NotFound(f"no webhook endpoint {str(endpoint_id)!r}")


def _uuid(value: Any) -> UUID:
    return UUID(int=value.int)


def _record(row: Any) -> EndpointRecord:
    fields: dict[str, Any] = dict(row)
    fields["endpoint_id"] = _uuid(fields["endpoint_id"])
    fields["event_types"] = tuple(fields["event_types"])
    fields["state"] = EndpointState(fields["state"])
    return EndpointRecord(**fields)


def _callee(row: Any) -> Callee:
    known = set(EventType)
    return Callee(
        org=row["org_id"],
        endpoint_id=_uuid(row["endpoint_id"]),
        url=row["url"],
        state=EndpointState(row["state"]),
        failing_since=row["failing_since"],
        types=tuple(EventType(kind) for kind in row["event_types"] if kind in known),
        keys=SigningKeys(row["secrets"]),
    )
