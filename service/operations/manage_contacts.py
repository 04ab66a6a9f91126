"""The people appointments are made for; a booking by e-mail address makes its contact by itself."""

from __future__ import annotations

import uuid

from service.db.idempotency import Complete
from service.db.people import ContactRecord, PeopleStore
from service.errors import AlreadyExists
from service.operations.plan_booking import contact_id_of
from service.operations.tracking import TrackedTasks


class ManageContacts:
    """Reads and adds the contacts of an organization."""

    def __init__(self, people: PeopleStore, tasks: TrackedTasks) -> None:
        self._people = people
        self._tasks = tasks

    async def get(self, org: int, contact_id: uuid.UUID) -> ContactRecord:
        """One contact. Raises NotFound."""
        return await self._people.contact(org, contact_id)

    async def page(self, org: int, after: uuid.UUID | None, most: int) -> list[ContactRecord]:
        """At most `most` contacts in order of id, those after `after`."""
        return await self._people.contacts(org, after, most)

    async def create(
        self,
        org: int,
        email: str,
        name: str | None,
        phone: str | None,
        *,
        complete: Complete[ContactRecord] | None = None,
    ) -> ContactRecord:
        """A contact under its address. Raises AlreadyExists (its `details` name the contact) or OutcomeUnknown."""
        contact_id = contact_id_of(org, email)
        made = await self._tasks.run(self._people.add_contact(org, contact_id, email, name, phone, complete))
        if made is None:
            raise AlreadyExists(
                "a contact has this e-mail address", details={"field": "email", "contact_id": str(contact_id)}
            )
        return made
