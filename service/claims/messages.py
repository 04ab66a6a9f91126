"""What is said to the gate: admissions, claims, settlements and releases as values.

Structs, because a frozen dataclass sets each field through a call: three times as long, and every request makes many.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from service.domain.assignment import Strategy
from service.domain.grid import Placement


class Rate(msgspec.Struct, frozen=True, cache_hash=True):
    """What a request is counted against: the API key's id, its limit a window (0: none), the window's length."""

    key_id: str
    limit: int
    window_ms: int


class RateState(msgspec.Struct, frozen=True):
    """Where a key stands after a request: its limit, what is left, and ms until the window ends."""

    limit: int
    remaining: int
    reset_ms: int

    @classmethod
    def after(cls, rate: Rate, count: int, reset_ms: int) -> RateState:
        """The state after the request that made the counter `count`."""
        left = max(0, rate.limit - count) if rate.limit else 0
        return cls(rate.limit, left, reset_ms)


class Mark(msgspec.Struct, frozen=True):
    """An idempotency key being begun: the client's key, the fingerprint (32 hex digits), the owner's token."""

    key: str
    fingerprint: str
    owner: str


class Search(StrEnum):
    """Where an appointment that moves looks for a coach: its own first, then the team; others only; or as if new."""

    KEEP = "keep"
    OTHERS = "others"
    ANY = "any"


class OwnTime(msgspec.Struct, frozen=True):
    """What an appointment that moves holds already: its column, its cells, the local day it counts on.

    `considered` is who was considered when it was assigned, packed.
    """

    appointment: str
    column: int
    placement: Placement
    local_day: int
    considered: bytes
    search: Search


class SlotClaim(msgspec.Struct, frozen=True):
    """A wish to take a time.

    `zones` holds (zone index or None when the whole roster is in one zone, local day number) for every zone of
    the team whose start grid contains the start; `column` is -1 unless a coach was asked for, `draws` decide at whom
    looking for those who are free begins.
    """

    org: int
    version: int
    width: int
    calendar_number: int
    token: str
    placement: Placement
    zones: tuple[tuple[int | None, int], ...]
    strategy: Strategy
    column: int
    draws: tuple[int, ...]
    idempotency_key: str | None
    own: OwnTime | None = None


class Admission(msgspec.Struct, frozen=True):
    """Everything one request asks of the gate."""

    org: int
    rate: Rate | None = None
    mark: Mark | None = None
    claim: SlotClaim | None = None


class Refused(msgspec.Struct, frozen=True):
    """A request whose claim would be one that was `taken` before: by which version of the roster, in which epoch, and
    how much had been freed by then. `rate` is None when it is counted already, `key` its idempotency key.
    """

    org: int
    version: int
    epoch: int
    freed: int
    rate: Rate | None
    key: str | None


class Answer(msgspec.Struct, frozen=True):
    """A finished answer to keep for replays."""

    key: str
    fingerprint: str
    status: int
    appointment_id: str
    body: bytes


class Settlement(msgspec.Struct, frozen=True):
    """A committed change: the token to drop, the event ('org appointment sequence'), its streams, the answer."""

    org: int
    token: str | None
    event: str | None
    streams: tuple[str, ...]
    answer: Answer | None = None


class Side(StrEnum):
    """Which time of a pending entry: the new one, or the one a move leaves."""

    NEW = "new"
    OLD = "old"


class Release(msgspec.Struct, frozen=True):
    """A token whose time is to be freed, with the placement and local day it was noted with.

    Of a move, `keeping` is the appointment's other time where the coach is the same: cells of both stay taken, and
    where it counts on the same day (`counted` False) the day keeps its count. `frees` False: only the token goes, and
    what its booking did to the deficits; cells and count stay for the repair of the coach-day that must follow, for
    what is freed first and repaired then may be somebody's in between.
    """

    org: int
    token: str
    placement: Placement
    local_day: int
    idempotency_key: str | None = None
    side: Side = Side.NEW
    keeping: Placement | None = None
    counted: bool = True
    frees: bool = True
