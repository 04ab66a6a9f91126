"""How the mocks read bodies and write answers: JSON both ways, refusals too."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

RETRY_AFTER_S = 5

Body = TypeVar("Body")


class MalformedBodyError(Exception):
    """The request's body is not what the route takes; the message says where."""


def answer(body: object, status: int = 200) -> web.Response:
    """`body` as a JSON response; aware UTC times are written with `Z`."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def refuse(status: int, error: str, **more: object) -> web.Response:
    """A refusal: `{"error": …}` and whatever else the caller should know."""
    return answer({"error": error, **more}, status)


def unavailable(service: str) -> web.Response:
    """The 503 of a call chosen to fail. The wait it asks for, in seconds, stands in the body alone."""
    return refuse(503, f"{service} temporarily unavailable", retry_after=RETRY_AFTER_S)


def decode(raw: bytes, shape: type[Body]) -> Body:
    """`raw` as a `shape`. Fields the shape does not name are let through. Raises MalformedBodyError."""
    try:
        return msgspec.json.decode(raw, type=shape)
    # A string that is not UTF-8 raises UnicodeDecodeError, which is none of msgspec's own.
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBodyError(str(error)) from error


def application(service: str) -> web.Application:
    """An application that answers `/health`, and every refusal in JSON: unknown routes and bad bodies too."""

    async def health(_: web.Request) -> web.Response:
        return answer({"status": "healthy", "service": service})

    app = web.Application(middlewares=[_refusals_in_json])
    app.router.add_get("/health", health)
    return app


@web.middleware
async def _refusals_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except MalformedBodyError as error:
        return refuse(400, "Malformed body", message=str(error))
    except web.HTTPException as refusal:
        response = refuse(refusal.status, refusal.reason)
        if "Allow" in refusal.headers:
            response.headers["Allow"] = refusal.headers["Allow"]
        return response


def json_object(raw: bytes) -> dict[str, Any]:
    """`raw` as a JSON object, whatever its fields. Raises MalformedBodyError."""
    return decode(raw, dict[str, Any])
