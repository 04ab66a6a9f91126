"""What can go wrong, in domain words.

Nothing here knows HTTP, SQL or Redis: the edge owns the one table that maps these to answers.
Drivers' exceptions are turned into these where the driver is called, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class BookingError(Exception):
    """Base of every error the service raises on purpose; `message` is written for a person."""

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details or {}


class ConfigurationError(BookingError):
    """A setting has a value the service cannot start with; the message begins with the variable's name."""


class InvalidRequest(BookingError):
    """Fields of a request that cannot be accepted, each named.

    `fields` is a sequence of (field, message); the message of the error is the first of them.
    """

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        field, message = fields[0]
        super().__init__(
            f"{field}: {message}",
            details={"fields": [{"field": name, "message": text} for name, text in fields]},
        )


class NotAuthenticated(BookingError):
    """No key, or a key nobody knows; `wait_s` is how long who keeps trying has to wait for being told so."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Forbidden(BookingError):
    """The key is known but lacks the scope the operation needs."""


class NotFound(BookingError):
    """The thing does not exist in the caller's organization."""


class SlotUnavailable(BookingError):
    """Nobody who could take the wanted time is free; `details.alternatives` lists free starts."""


class StateConflict(BookingError):
    """The appointment's state does not allow the change."""


class AlreadyExists(BookingError):
    """An id or e-mail address that must be unique is taken."""


class VersionMismatch(BookingError):
    """The caller's `If-Match` names another version than the current one."""


class IdempotencyKeyReused(BookingError):
    """The key was used before for a different request."""


class IdempotencyInProgress(BookingError):
    """A request with the same key is still being carried out."""

    retry_after_s = 1


class RateLimitExceeded(BookingError):
    """The key's requests of this window are used up; `retry_after_s` is the time to the next window."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(BookingError):
    """Something the service needs did not answer; trying again later is right."""

    retry_after_s = 1


class KeyJustBegun(Unavailable):
    """Another write began an idempotency key of these bookings beside them; nothing was written."""


class GateClosed(Unavailable):
    """Redis cannot be asked now; who can go on with Postgres alone does."""


class ItemBroken(Unavailable):
    """A script could not evaluate this one request of a batch: a fault of ours, and nothing happened."""


class Overloaded(Unavailable):
    """There are more requests than can be answered in time; nothing was begun. Come again after `retry_after_s`."""

    def __init__(self, *, retry_after_s: int) -> None:
        super().__init__("there are more requests than can be answered in time; try again in a moment")
        self.retry_after_s = retry_after_s


class OutcomeUnknown(BookingError):
    """A commit was sent and its answer lost; the same idempotency key will tell the truth."""

    retry_after_s = 2
