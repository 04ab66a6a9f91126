"""Appointments over HTTP: book, look at, move, cancel."""

from __future__ import annotations

from functools import partial
from zoneinfo import ZoneInfo

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from service.api.endpoint import Call, Route
from service.api.parsing import (
    LARGEST_METADATA_BYTES,
    decode_body,
    email,
    fingerprint_of,
    idempotency_key,
    instant,
    query_zone,
    refuse_nul,
    timezone_name,
    uuid_of,
    versions_of,
)
from service.api.problems import answer, answer_again, problem_of
from service.api.response import Response
from service.api.shapes import AppointmentShape, BookAppointment, CancelAppointment, MoveAppointmentShape
from service.domain.appointment import Appointment, etag_of, render_in
from service.errors import BookingError, InvalidRequest, SlotUnavailable
from service.operations.book import Book
from service.operations.change import ChangeAppointment
from service.operations.manage_contacts import ManageContacts
from service.operations.move import MoveAppointment
from service.operations.plan_booking import BookingRequest
from service.operations.plan_move import MoveWish

_BOOK = msgspec.json.Decoder(BookAppointment)
_MOVE = msgspec.json.Decoder(MoveAppointmentShape)
_CANCEL = msgspec.json.Decoder(CancelAppointment)
JSON = "application/json"


class AppointmentRoutes:
    """Handlers of /api/appointments."""

    def __init__(self, book: Book, change: ChangeAppointment, move: MoveAppointment, contacts: ManageContacts) -> None:
        self._book = book
        self._change = change
        self._move = move
        self._contacts = contacts

    def routes(self) -> list[Route]:
        """The endpoints."""
        one = "/api/appointments/<appointment_id>"
        return [
            Route(
                method="POST",
                path="/api/appointments",
                operation_id="book_appointment",
                summary="Book an appointment",
                handler=self.book,
                scope="write",
                tag="appointments",
                body=BookAppointment,
                body_required=True,
                answer=AppointmentShape,
                status=201,
                idempotency="optional",
                replays_itself=True,
                counts_itself=True,
                errors=(404, 409, 422),
            ),
            Route(
                method="GET",
                path=one,
                operation_id="get_appointment",
                summary="One appointment",
                handler=self.get,
                scope="read",
                tag="appointments",
                parameters=(("timezone", "IANA zone of the times in the answer"),),
                answer=AppointmentShape,
                if_none_match=True,
                errors=(404,),
            ),
            self._replacement("PATCH", one, "change_appointment"),
            self._replacement("PUT", one, "put_appointment"),
            Route(
                method="DELETE",
                path=one,
                operation_id="delete_appointment",
                summary="Cancel an appointment",
                handler=self.cancel,
                scope="write",
                tag="appointments",
                body=CancelAppointment,
                answer=AppointmentShape,
                idempotency="optional",
                if_match=True,
                errors=(404, 409),
            ),
            Route(
                method="POST",
                path=f"{one}/cancel",
                operation_id="cancel_appointment",
                summary="Cancel an appointment",
                handler=self.cancel,
                scope="write",
                tag="appointments",
                body=CancelAppointment,
                answer=AppointmentShape,
                idempotency="optional",
                if_match=True,
                errors=(404, 409),
            ),
        ]

    def _replacement(self, method: str, path: str, name: str) -> Route:
        return Route(
            method=method,
            path=path,
            operation_id=name,
            summary="Move an appointment to another time or coach in one step, or change its notes and metadata",
            handler=self.move,
            scope="write",
            tag="appointments",
            body=MoveAppointmentShape,
            body_required=True,
            answer=AppointmentShape,
            idempotency="optional",
            if_match=True,
            errors=(404, 409),
        )

    async def book(self, call: Call) -> Response:
        """POST /api/appointments"""
        booked = await self._book.ask(await self._booking(call), call.who, call.rate)
        if isinstance(booked, SlotUnavailable):
            return answer_again(booked, call.correlation_id)
        if isinstance(booked, BookingError):
            return answer(problem_of(booked), call.correlation_id)
        appointment_id = booked.appointment_id or orjson.loads(booked.body)["appointment_id"]
        headers = {"Location": f"/api/appointments/{appointment_id}", "ETag": etag_of(1)}
        if booked.replayed:
            headers["Idempotent-Replayed"] = "true"
        return Response(booked.body, 201, headers, JSON)

    async def _booking(self, call: Call) -> BookingRequest:
        wish = decode_body(call.body, _BOOK)
        if b"\\u" in call.body:  # otherwise JSON holds neither a NUL nor half a pair
            for name in ("calendar_id", "contact_email", "contact_name", "notes", "coach_id", "metadata"):
                refuse_nul(getattr(wish, name), name)
        zone = None if wish.timezone is None else timezone_name("timezone", wish.timezone)
        address, name = await self._contact(call.who.org, wish)
        return BookingRequest(
            calendar_id=wish.calendar_id,
            start_time=instant("start_time", wish.start_time, zone),
            end_time=None if wish.end_time is None else instant("end_time", wish.end_time, zone),
            contact_email=address,
            contact_name=name,
            notes=wish.notes,
            timezone=zone,
            coach_id=wish.coach_id,
            metadata=_metadata(wish.metadata),
            idempotency_key=idempotency_key(call.request.headers),
            stands_for=partial(fingerprint_of, "POST", "/api/appointments", call.body),
        )

    async def _contact(self, org: int, wish: BookAppointment) -> tuple[str, str | None]:
        """(address, name) of whom the appointment is for. Raises InvalidRequest or NotFound."""
        if wish.contact_email is not None:
            if wish.contact_id is not None:
                raise InvalidRequest([("contact_id", "is given beside contact_email; one of them names the contact")])
            return email("contact_email", wish.contact_email), wish.contact_name
        if wish.contact_id is None:
            raise InvalidRequest([("contact_email", "is required, or a contact_id")])
        contact = await self._contacts.get(org, uuid_of(wish.contact_id, "contact"))
        return contact.email, wish.contact_name if wish.contact_name is not None else contact.name

    async def move(self, call: Call) -> Response:
        """PATCH or PUT /api/appointments/{appointment_id}"""
        body = decode_body(call.body, _MOVE)
        for name in ("coach_id", "notes", "metadata"):
            refuse_nul(msgspec.to_builtins(getattr(body, name)) if getattr(body, name) is not UNSET else None, name)
        zone = None if isinstance(body.timezone, UnsetType) else timezone_name("timezone", body.timezone)
        wish = MoveWish(
            start_time=None if isinstance(body.start_time, UnsetType) else instant("start_time", body.start_time, zone),
            end_time=None if isinstance(body.end_time, UnsetType) else instant("end_time", body.end_time, zone),
            coach_id=None if isinstance(body.coach_id, UnsetType) else body.coach_id,
            notes=body.notes,
            metadata=body.metadata if isinstance(body.metadata, UnsetType) else _metadata(body.metadata),
        )
        shown_in = None if zone is None else ZoneInfo(zone)
        changed = await self._move(
            call.who.org,
            uuid_of(call.path["appointment_id"], "appointment"),
            wish,
            actor=call.who.actor,
            correlation_id=call.correlation_id,
            versions=versions_of(call.header("if-match")),
            complete=call.completing(partial(shown, zone=shown_in)),
        )
        return shown(changed, shown_in)

    async def get(self, call: Call) -> Response:
        """GET /api/appointments/{appointment_id}"""
        name = query_zone(call.query)
        found = await self._change.get(call.who.org, uuid_of(call.path["appointment_id"], "appointment"))
        etag = etag_of(found.version)
        if call.knows(etag):
            return Response(status=304, headers={"ETag": etag})
        return shown(found, None if name is None else ZoneInfo(name))

    async def cancel(self, call: Call) -> Response:
        """DELETE /api/appointments/{appointment_id} and POST …/cancel"""
        wish = decode_body(call.body, _CANCEL) if call.body else CancelAppointment()
        refuse_nul(wish.reason, "reason")
        changed = await self._change.cancel(
            call.who.org,
            uuid_of(call.path["appointment_id"], "appointment"),
            reason=wish.reason,
            actor=call.who.actor,
            correlation_id=call.correlation_id,
            versions=versions_of(call.header("if-match")),
            complete=call.completing(shown),
        )
        return shown(changed)


def shown(appointment: Appointment, zone: ZoneInfo | None = None) -> Response:
    """The answer that shows an appointment, its times in UTC or the zone the request names; its version is the tag."""
    return Response(render_in(appointment, zone), 200, {"ETag": etag_of(appointment.version)}, JSON)


def _metadata(value: dict[str, object]) -> dict[str, object]:
    if not value:
        return value
    try:
        encoded = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError):
        raise InvalidRequest([("metadata", "holds a number that is too large or nests too deeply")]) from None
    if len(encoded) > LARGEST_METADATA_BYTES:
        raise InvalidRequest([("metadata", f"takes more than {LARGEST_METADATA_BYTES} bytes")])
    return value
