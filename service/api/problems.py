"""How every failure is answered: problem+json (RFC 9457) with the contract's fields, from one table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
import orjson

from service import errors
from service.api.response import Response


class Problem(msgspec.Struct, frozen=True):
    """What a client is told of a failure."""

    status: int
    error: str
    message: str
    details: Mapping[str, Any]
    retry_after_s: int | None = None


_TABLE: dict[type[errors.BookingError], tuple[int, str]] = {
    errors.InvalidRequest: (400, "VALIDATION_ERROR"),
    errors.NotAuthenticated: (401, "AUTHENTICATION_FAILED"),
    errors.Forbidden: (403, "FORBIDDEN"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.SlotUnavailable: (409, "SLOT_UNAVAILABLE"),
    errors.StateConflict: (409, "STATE_CONFLICT"),
    errors.AlreadyExists: (409, "ALREADY_EXISTS"),
    errors.IdempotencyInProgress: (409, "IDEMPOTENCY_IN_PROGRESS"),
    errors.VersionMismatch: (412, "VERSION_MISMATCH"),
    errors.IdempotencyKeyReused: (422, "IDEMPOTENCY_KEY_REUSED"),
    errors.RateLimitExceeded: (429, "RATE_LIMIT_EXCEEDED"),
    errors.Unavailable: (503, "SERVICE_UNAVAILABLE"),
    errors.OutcomeUnknown: (503, "OUTCOME_UNKNOWN"),
}
# What a client may know of a 503: not which part of the inside failed. None: the error's own words are meant for it.
_PLAIN: dict[type[errors.BookingError], str | None] = {
    errors.Overloaded: None,
    errors.Unavailable: "the service cannot answer right now; try again in a moment",
    errors.OutcomeUnknown: "whether this was carried out is not known yet; the same idempotency key will tell",
}
_BY_STATUS = {
    400: "VALIDATION_ERROR",
    401: "AUTHENTICATION_FAILED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMIT_EXCEEDED",
    503: "SERVICE_UNAVAILABLE",
}
ERROR_CODES = frozenset({code for _, code in _TABLE.values()} | set(_BY_STATUS.values()) | {"INTERNAL_ERROR"})


def problem_of(error: errors.BookingError) -> Problem:
    """The answer to a domain error; one that is not in the table is a fault of ours."""
    status, code, plain = _answer_to(type(error))
    if status == 500:
        return crashed()
    message = error.message if plain is None else plain
    return Problem(status, code, message, error.details, getattr(error, "retry_after_s", None))


@cache
def _answer_to(kind: type[errors.BookingError]) -> tuple[int, str, str | None]:
    """(status, code, words in place of the error's own) of a class of errors, or of what it is derived from."""
    status, code = next((_TABLE[one] for one in kind.__mro__ if one in _TABLE), (500, "INTERNAL_ERROR"))
    return status, code, next((_PLAIN[one] for one in kind.__mro__ if one in _PLAIN), None)


def crashed() -> Problem:
    """The answer to a crash, with nothing of the inside in it."""
    return Problem(500, "INTERNAL_ERROR", "something went wrong on our side; it has been logged", {})


def of_status(status: int, message: str) -> Problem:
    """The answer to what the server itself refuses: unknown routes, methods, sizes, malformed requests."""
    if status not in _BY_STATUS:
        return crashed() if status >= 500 else Problem(400, "VALIDATION_ERROR", message, {})
    return Problem(status, _BY_STATUS[status], message, {}, 1 if status == 503 else None)


def answer(problem: Problem, correlation_id: str) -> Response:
    """The response for a problem; a correlation id is text that JSON takes as it is."""
    headers: dict[str, str] = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'ApiKey realm="booking"'
    body = body_of(beginning_of(problem), correlation_id)
    return Response(body, problem.status, headers, "application/problem+json")


def answer_again(refusal: errors.SlotUnavailable, correlation_id: str) -> Response:
    """As `answer`, to a refusal that is told to many: all but the end of its body is made once."""
    status, beginning = _told(refusal)
    return Response(body_of(beginning, correlation_id), status, None, "application/problem+json")


@lru_cache(maxsize=256)  # an error is equal to itself alone
def _told(refusal: errors.SlotUnavailable) -> tuple[int, bytes]:
    problem = problem_of(refusal)
    return problem.status, beginning_of(problem)


def timestamp() -> str:
    """Now, as problems tell it: always as many characters."""
    second, ms = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_shown(second)}.{ms:03d}Z"


@lru_cache(maxsize=1)  # every refusal tells its time, thousands within one second
def _shown(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()


@cache
def _title(status: int) -> str:
    return HTTPStatus(status).phrase


def beginning_of(problem: Problem) -> bytes:
    """The body of the response for a problem up to its correlation id."""
    said = {
        "status": problem.status,
        "title": _title(problem.status),
        "error": problem.error,
        "message": problem.message,
        "details": problem.details,
    }
    return orjson.dumps(said)[:-1] + b',"correlation_id":"'


def body_of(beginning: bytes, correlation_id: str) -> bytes:
    """The body of the response for a problem that is told now."""
    return b'%b%b","timestamp":"%b"}' % (beginning, correlation_id.encode(), timestamp().encode())
