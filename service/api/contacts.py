"""Contacts over HTTP: add, list, look at."""

from __future__ import annotations

from uuid import UUID

import msgspec

from service.api.endpoint import Call, Route
from service.api.parsing import decode_body, email, refuse_nul, uuid_of
from service.api.people_shapes import (
    PAGE_PARAMETERS,
    ContactPage,
    ContactShape,
    CreateContact,
    cursor_of,
    page_size,
    row_before,
    unknown_cursor,
)
from service.api.response import Response
from service.db.people import ContactRecord
from service.operations.manage_contacts import ManageContacts

_CREATE = msgspec.json.Decoder(CreateContact)
_KIND = "contacts"
JSON = "application/json"


class ContactRoutes:
    """Handlers of /api/contacts."""

    def __init__(self, contacts: ManageContacts) -> None:
        self._contacts = contacts

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="POST",
                path="/api/contacts",
                operation_id="create_contact",
                summary="Add a contact",
                handler=self.create,
                scope="write",
                tag="contacts",
                body=CreateContact,
                body_required=True,
                answer=ContactShape,
                status=201,
                idempotency="optional",
                errors=(409,),
            ),
            Route(
                method="GET",
                path="/api/contacts",
                operation_id="list_contacts",
                summary="Contacts, page by page",
                handler=self.page,
                scope="read",
                tag="contacts",
                answer=ContactPage,
                parameters=PAGE_PARAMETERS,
            ),
            Route(
                method="GET",
                path="/api/contacts/<contact_id>",
                operation_id="get_contact",
                summary="One contact",
                handler=self.get,
                scope="read",
                tag="contacts",
                answer=ContactShape,
                errors=(404,),
            ),
        ]

    async def create(self, call: Call) -> Response:
        """POST /api/contacts"""
        body = decode_body(call.body, _CREATE)
        refuse_nul(msgspec.to_builtins(body))
        address = email("email", body.email)
        return _made(
            await self._contacts.create(call.who.org, address, body.name, body.phone, complete=call.completing(_made))
        )

    async def page(self, call: Call) -> Response:
        """GET /api/contacts"""
        most, last = page_size(call.query), row_before(_KIND, call.query)
        try:
            after = None if last is None else UUID(last)
        except ValueError:
            raise unknown_cursor() from None
        found = await self._contacts.page(call.who.org, after, most + 1)
        more = cursor_of(_KIND, str(found[most - 1].contact_id)) if len(found) > most else None
        page = ContactPage([_shape(one) for one in found[:most]], more)
        return Response(msgspec.json.encode(page), content_type=JSON)

    async def get(self, call: Call) -> Response:
        """GET /api/contacts/{contact_id}"""
        found = await self._contacts.get(call.who.org, uuid_of(call.path["contact_id"], "contact"))
        return Response(msgspec.json.encode(_shape(found)), content_type=JSON)


def _made(contact: ContactRecord) -> Response:
    headers = {"Location": f"/api/contacts/{contact.contact_id}"}
    return Response(msgspec.json.encode(_shape(contact)), 201, headers, JSON)


def _shape(contact: ContactRecord) -> ContactShape:
    return ContactShape(
        contact_id=str(contact.contact_id),
        email=contact.email,
        name=contact.name,
        phone=contact.phone,
        created_at=contact.created_at,
    )
