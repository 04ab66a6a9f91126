"""Webhook endpoints over HTTP: register, list, look at, change, pause, remove, give a new secret."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.api.endpoint import Call, Route
from service.api.parsing import decode_body, refuse_nul, uuid_of
from service.api.people_shapes import PAGE_PARAMETERS, cursor_of, page_size, row_before, unknown_cursor
from service.api.response import Response
from service.db.endpoints import EndpointRecord, EndpointState
from service.domain.addresses import LONGEST_URL
from service.domain.event import EventType
from service.operations.manage_endpoints import ManageEndpoints, Told

_KIND = "webhook-endpoints"
JSON = "application/json"

Url = Annotated[str, Meta(min_length=1, max_length=LONGEST_URL, description="http or https, reachable by anybody")]
EventTypes = Annotated[list[EventType], Meta(min_length=1, max_length=50)]
Description = Annotated[str, Meta(max_length=200)]


class RegisterEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A URL that shall hear of events; without `event_types` of all of them."""

    url: Url
    event_types: EventTypes | None = None
    description: Description | None = None


class ChangeEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change of an endpoint; `state` pauses and resumes it."""

    url: Url | UnsetType = UNSET
    event_types: EventTypes | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    state: Literal["active", "paused"] | UnsetType = UNSET


class EndpointShape(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint; `reason` says why it is not called since `paused_at`."""

    endpoint_id: str
    url: str
    event_types: list[str]
    description: str | None
    state: Literal["active", "paused", "disabled"]
    reason: str | None
    paused_at: datetime | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(EndpointShape, frozen=True, kw_only=True):
    """An endpoint and its new secret, which no other answer shows."""

    secret: str


class EndpointPage(msgspec.Struct, frozen=True):
    """Endpoints in the order they were registered."""

    endpoints: list[EndpointShape]
    next_cursor: str | None


_REGISTER = msgspec.json.Decoder(RegisterEndpoint)
_CHANGE = msgspec.json.Decoder(ChangeEndpoint)


class WebhookEndpointRoutes:
    """Handlers of /api/webhooks/endpoints."""

    def __init__(self, endpoints: ManageEndpoints) -> None:
        self._endpoints = endpoints

    def routes(self) -> list[Route]:
        """The endpoints."""
        every = "/api/webhooks/endpoints"
        one = f"{every}/<endpoint_id>"
        return [
            Route(
                method="POST",
                path=every,
                operation_id="register_endpoint",
                summary="Register a URL that hears of events; its secret is shown this once",
                handler=self.register,
                scope="admin",
                tag="webhooks",
                idempotency="optional",
                body=RegisterEndpoint,
                body_required=True,
                answer=EndpointWithSecret,
                status=201,
                errors=(409,),
            ),
            Route(
                method="GET",
                path=every,
                operation_id="list_endpoints",
                summary="Webhook endpoints, page by page",
                handler=self.page,
                scope="read",
                tag="webhooks",
                answer=EndpointPage,
                parameters=PAGE_PARAMETERS,
            ),
            Route(
                method="GET",
                path=one,
                operation_id="get_endpoint",
                summary="One webhook endpoint",
                handler=self.get,
                scope="read",
                tag="webhooks",
                answer=EndpointShape,
                errors=(404,),
            ),
            Route(
                method="PATCH",
                path=one,
                operation_id="change_endpoint",
                summary="Change, pause or resume a webhook endpoint",
                handler=self.change,
                scope="admin",
                tag="webhooks",
                idempotency="optional",
                body=ChangeEndpoint,
                body_required=True,
                answer=EndpointShape,
                errors=(404,),
            ),
            Route(
                method="DELETE",
                path=one,
                operation_id="remove_endpoint",
                summary="Remove a webhook endpoint; what waited for it is not sent",
                handler=self.remove,
                scope="admin",
                tag="webhooks",
                idempotency="optional",
                answer=EndpointShape,
                errors=(404,),
            ),
            Route(
                method="POST",
                path=f"{one}/rotate-secret",
                operation_id="rotate_endpoint_secret",
                summary="Give a webhook endpoint a new secret; the old one signs beside it for 24 h",
                handler=self.rotate,
                scope="admin",
                tag="webhooks",
                idempotency="optional",
                answer=EndpointWithSecret,
                errors=(404,),
            ),
        ]

    async def register(self, call: Call) -> Response:
        """POST /api/webhooks/endpoints"""
        body = decode_body(call.body, _REGISTER)
        refuse_nul(body.description, "description")
        types = _types(list(EventType) if body.event_types is None else body.event_types)
        complete = call.completing(_made)
        return _made(await self._endpoints.register(call.who.org, body.url, types, body.description, complete=complete))

    async def page(self, call: Call) -> Response:
        """GET /api/webhooks/endpoints"""
        most, last = page_size(call.query), row_before(_KIND, call.query)
        try:
            after = None if last is None else UUID(last)
        except ValueError:
            raise unknown_cursor() from None
        found = await self._endpoints.page(call.who.org, after, most + 1)
        more = cursor_of(_KIND, str(found[most - 1].endpoint_id)) if len(found) > most else None
        return Response(
            msgspec.json.encode(EndpointPage([_shape(one) for one in found[:most]], more)), content_type=JSON
        )

    async def get(self, call: Call) -> Response:
        """GET /api/webhooks/endpoints/{endpoint_id}"""
        return _shown(await self._endpoints.get(call.who.org, _id(call)))

    async def change(self, call: Call) -> Response:
        """PATCH /api/webhooks/endpoints/{endpoint_id}"""
        endpoint_id = _id(call)
        body = decode_body(call.body, _CHANGE)
        given: dict[str, Any] = {
            name: value for name in ("url", "description") if (value := getattr(body, name)) is not UNSET
        }
        refuse_nul(given)
        saved = await self._endpoints.change(
            call.who.org,
            endpoint_id,
            given,
            types=None if body.event_types is UNSET else _types(body.event_types),
            state=None if body.state is UNSET else EndpointState(body.state),
            complete=call.completing(_shown),
        )
        return _shown(saved)

    async def remove(self, call: Call) -> Response:
        """DELETE /api/webhooks/endpoints/{endpoint_id}"""
        return _shown(await self._endpoints.remove(call.who.org, _id(call), complete=call.completing(_shown)))

    async def rotate(self, call: Call) -> Response:
        """POST /api/webhooks/endpoints/{endpoint_id}/rotate-secret"""
        return _rotated(await self._endpoints.rotate(call.who.org, _id(call), complete=call.completing(_rotated)))


def _id(call: Call) -> UUID:
    return uuid_of(call.path["endpoint_id"], "webhook endpoint")


def _types(given: list[EventType]) -> list[str]:
    return sorted({kind.value for kind in given})


def _shape(endpoint: EndpointRecord) -> EndpointShape:
    return msgspec.convert(_fields(endpoint), EndpointShape)


def _fields(endpoint: EndpointRecord) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(endpoint),
        "endpoint_id": str(endpoint.endpoint_id),
        "event_types": list(endpoint.event_types),
        "state": endpoint.state.value,
    }


def _shown(endpoint: EndpointRecord) -> Response:
    return Response(msgspec.json.encode(_shape(endpoint)), content_type=JSON)


def _made(told: Told) -> Response:
    headers = {"Location": f"/api/webhooks/endpoints/{told.endpoint.endpoint_id}", "Cache-Control": "no-store"}
    return Response(_with_secret(told), 201, headers, JSON)


def _rotated(told: Told) -> Response:
    return Response(_with_secret(told), headers={"Cache-Control": "no-store"}, content_type=JSON)


def _with_secret(told: Told) -> bytes:
    shape = msgspec.convert({**_fields(told.endpoint), "secret": told.secret}, EndpointWithSecret)
    return msgspec.json.encode(shape)
