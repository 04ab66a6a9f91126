"""Who hears of an organization's events: the built-in destinations, and whatever else tells its destinations here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from service.db.delivery_log import Heard
from service.db.endpoints import EndpointStore
from service.db.rosters import RosterStore
from service.domain.event import Destination, EventRef, EventType, heard_by

ENDPOINT_STREAM = "endpoint-deliveries"
_ENDPOINT = "endpoint:"


@dataclass(frozen=True, slots=True)
class Way:
    """How an event gets to a destination: by which stream, and how its entry names it."""

    stream: str
    entry: str


class DestinationSource(Protocol):
    """One kind of destinations."""

    async def heard(self, org: int) -> list[Heard]:
        """What the organization's destinations of this kind hear of. Raises Unavailable."""
        ...

    def way(self, ref: EventRef, destination: str) -> Way | None:
        """How an event gets to a destination; None when it is none of this kind."""
        ...


class BuiltIn:
    """The destinations that nobody registers, each with a stream of its name."""

    def __init__(self, rosters: RosterStore) -> None:
        self._rosters = rosters

    async def heard(self, org: int) -> list[Heard]:
        """What the CRM and the contacts hear of, and the external calendar, if it knows the organization's coaches."""
        calendar = await self._rosters.in_calendar(org)
        return [
            Heard(destination.value, kind.value)
            for kind in EventType
            for destination in heard_by(kind, calendar=calendar, endpoints=False)
        ]

    def way(self, ref: EventRef, destination: str) -> Way | None:
        """By the stream of its name."""
        if destination not in set(Destination):
            return None
        return Way(destination, f"{ref.org} {ref.appointment_id.hex} {ref.sequence}")


class RegisteredEndpoints:
    """The endpoints an organization registered, named `endpoint:` and their id; all are told by one stream."""

    def __init__(self, endpoints: EndpointStore) -> None:
        self._endpoints = endpoints

    async def heard(self, org: int) -> list[Heard]:
        """What each endpoint hears of, from when on."""
        found = await self._endpoints.subscriptions(org)
        return [Heard(endpoint_name(endpoint_id), kind, since) for endpoint_id, kind, since in found]

    def way(self, ref: EventRef, destination: str) -> Way | None:
        """By the stream of all endpoints."""
        if not destination.startswith(_ENDPOINT):
            return None
        try:
            return Way(ENDPOINT_STREAM, endpoint_entry(ref, UUID(destination.removeprefix(_ENDPOINT))))
        except ValueError:
            return None


def endpoint_name(endpoint_id: UUID) -> str:
    """What an endpoint is called as a destination."""
    return f"{_ENDPOINT}{endpoint_id}"


def endpoint_entry(ref: EventRef, endpoint_id: UUID) -> str:
    """How the stream names the delivery of an event to an endpoint."""
    return f"{ref.org} {ref.appointment_id.hex} {ref.sequence} {endpoint_id.hex}"


class Destinations:
    """All destinations of an organization."""

    def __init__(self, sources: Sequence[DestinationSource]) -> None:
        self._sources = tuple(sources)

    async def heard(self, org: int) -> list[Heard]:
        """What each destination of the organization hears of. Raises Unavailable."""
        return [one for source in self._sources for one in await source.heard(org)]

    def way(self, ref: EventRef, destination: str) -> Way | None:
        """How an event gets to a destination; None for one that nobody knows."""
        return next((way for source in self._sources if (way := source.way(ref, destination)) is not None), None)
