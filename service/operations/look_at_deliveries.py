"""Looking at deliveries and asking for them to be made again.

A replay is a write to the record, which the worker carries out: it ends under the same event id with the same
bytes as before, its attempts counted anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from service.db.delivery_log import AttemptState, DeliveryLog, DeliveryPage, DeliveryPlace, DeliveryState
from service.db.idempotency import Complete
from service.domain.event import EventRef
from service.errors import NotFound, StateConflict
from service.operations.destinations import Destinations
from service.operations.tracking import TrackedTasks


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryWish:
    """Which deliveries to list; None lets everything through."""

    state: str | None = None
    appointment_id: UUID | None = None
    destination: str | None = None


class LookAtDeliveries:
    """Lists deliveries, shows one with its attempts, and replays. Raises Unavailable."""

    def __init__(self, log: DeliveryLog, destinations: Destinations, tasks: TrackedTasks) -> None:
        self._log = log
        self._destinations = destinations
        self._tasks = tasks

    async def page(self, org: int, wish: DeliveryWish, after: DeliveryPlace | None, most: int) -> DeliveryPage:
        """A page of deliveries, newest appointment first."""
        return await self._log.page(
            org,
            await self._destinations.heard(org),
            most,
            after=after,
            state=wish.state,
            appointment_id=wish.appointment_id,
            destination=wish.destination,
        )

    async def one(self, ref: EventRef, destination: str) -> tuple[DeliveryState, list[AttemptState]]:
        """A delivery and all its attempts, oldest first. Raises NotFound."""
        return await self._get(ref, destination), await self._log.attempts(ref, destination)

    async def replay(
        self, ref: EventRef, destination: str, *, complete: Complete[DeliveryState] | None = None
    ) -> DeliveryState:
        """Send one that is dead or delivered again; it as it stands then.

        Raises NotFound, StateConflict when it is on its way, or OutcomeUnknown. Goes on when the caller is cancelled.
        """
        before = await self._get(ref, destination)
        if self._destinations.way(ref, destination) is None:
            raise StateConflict(f"there is no destination {destination!r} any more", details={"state": before.state})
        heard = await self._destinations.heard(ref.org)
        if destination not in {one.destination for one in heard if one.type == before.type}:
            raise StateConflict(f"{destination!r} does not hear of this any more", details={"state": before.state})
        asked = await self._tasks.run(self._log.replay(ref, destination, heard, complete))
        if asked is None:
            now = await self._get(ref, destination)
            raise StateConflict("the delivery is on its way", details={"state": now.state})
        return asked

    async def replay_dead(self, org: int, destination: str, *, complete: Complete[int] | None = None) -> int:
        """Send everything again that is dead at a destination, and that it still hears of; how many that is.

        Raises NotFound or OutcomeUnknown.
        """
        types = [one.type for one in await self._destinations.heard(org) if one.destination == destination]
        if not types:
            raise NotFound(f"no destination {destination[:64]!r}")
        return await self._tasks.run(self._log.replay_dead(org, destination, types, complete))

    async def _get(self, ref: EventRef, destination: str) -> DeliveryState:
        found = await self._log.get(ref, destination, await self._destinations.heard(ref.org))
        if found is None:
            raise NotFound(f"no delivery {ref.event_id}.{destination}"[:200])
        return found
