"""`/openapi.json`: OpenAPI 3.1, made from the same table and structs that route and validate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import orjson

from service.api.endpoint import Route
from service.api.shapes import ProblemShape

_PLACE = re.compile(r"<(\w+)>")
_TEXTS = {"/metrics": "text/plain", "/docs": "text/html"}
_HEADERS = {
    "X-Correlation-ID": "the request's correlation id",
    "X-RateLimit-Limit": "requests a window; 0 means no limit",
    "X-RateLimit-Remaining": "requests left in this window",
    "X-RateLimit-Reset": "seconds until the window ends",
}
_SIGNATURE = {
    "webhook-id": "the event's identity",
    "webhook-timestamp": "when it was signed, Unix seconds",
    "webhook-signature": "`v1,` and base64 of the HMAC-SHA256 of `id.timestamp.body`; several with spaces between",
}
_REPLAYED = {"Idempotent-Replayed": "`true` on the answer a key had already"}


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON."""
    types = [t for route in routes for t in (route.body, route.answer) if t is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, ProblemShape], ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip([*types, ProblemShape], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PLACE.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, by_type)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Booking service",
                "version": _version(),
                "description": "Books appointments without ever booking a coach twice.",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                },
            },
        }
    )


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PLACE.findall(route.path)
    ]
    parameters += [
        {
            "name": name,
            "in": "query",
            "required": name in route.required,
            "description": about,
            "schema": {"type": "string"},
        }
        for name, about in route.parameters
    ]
    if route.idempotency is not None:
        name = "Idempotency-Key" if _takes_a_key(route) else "X-Idempotency-Key"
        parameters.append(
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": f"{route.idempotency}: one key, one effect, one answer",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )
    if route.if_match:
        parameters.append(_condition("If-Match", "the ETag the change is made from; at another version: 412"))
    if route.if_none_match:
        parameters.append(_condition("If-None-Match", "ETags of answers one has; of what would be answered: 304"))
    if route.signed:
        parameters += [
            {"name": name, "in": "header", "required": True, "description": about, "schema": {"type": "string"}}
            for name, about in _SIGNATURE.items()
        ]
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": parameters,
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    if route.scope is not None:
        operation["security"] = [{"key": []}, {"bearer": []}]
        operation["x-required-scope"] = route.scope
    return operation


def _responses(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.answer is not None:
        success["content"] = {"application/json": {"schema": schemas[route.answer]}}
    elif route.path in _TEXTS:
        success["content"] = {_TEXTS[route.path]: {"schema": {"type": "string"}}}
    named = {} if route.scope is None else dict(_HEADERS)
    if route.idempotency is not None or route.signed:
        named |= _REPLAYED
    if named:
        success["headers"] = {
            name: {"description": about, "schema": {"type": "string"}} for name, about in named.items()
        }
    responses = {str(route.status): success}
    statuses = {*route.errors, *((412,) if route.if_match else ()), *((409, 422) if _takes_a_key(route) else ())}
    if route.scope is not None:
        statuses |= {400, 401, 403, 429, 500, 503}
    elif route.signed:
        statuses |= {400, 401, 500, 503}
    if route.method != "GET":
        statuses |= {413, 415}
    if route.if_none_match:
        responses["304"] = {"description": "Not Modified"}
    shown = {} if route.answer is None else {"content": {"application/json": {"schema": schemas[route.answer]}}}
    for status in sorted(statuses):
        problem: dict[str, Any] = {"application/problem+json": {"schema": schemas[ProblemShape]}}
        if route.scope is None and not route.signed:
            responses[str(status)] = {"description": HTTPStatus(status).phrase, **shown}
        else:
            responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    return responses


def _condition(name: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}


def _takes_a_key(route: Route) -> bool:
    return route.idempotency == "optional"


def _version() -> str:
    try:
        return version("booking-service")
    except PackageNotFoundError:
        return "0"
