"""Who gets an appointment: the rules of `lua/claim_slot.lua`, once more in Python.

`balanced` is eligible-share deficit: each coach free for a booking earns its score's share of one
appointment, the one that is owed most gets it and pays one whole appointment. Nobody earns what it could
not have taken, so newcomers and part-timers are neither flooded nor starved. All in integers of a
millionth of an appointment, so the sum of all deficits stays exactly 0.
A property test holds this module and the script equal.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

APPOINTMENT_UNITS = 1_000_000
ENOUGH_CANDIDATES = 32
_CONSIDERED = struct.Struct(">HIi")


class Strategy(StrEnum):
    """How a coach is chosen among those free."""

    BALANCED = "balanced"
    SCORE = "score"
    REQUESTED = "requested"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A coach free for the booking: its column, score (millionths) and deficit before the booking (units)."""

    column: int
    score: int
    deficit: int


class Considered(NamedTuple):
    """A coach that was considered: what it earned by this booking and its deficit before it (units).

    A tuple, for of many appointments very many are made: in half of a frozen dataclass' time.
    """

    column: int
    share: int
    deficit: int


@dataclass(frozen=True, slots=True)
class ConsideredTogether:
    """Who was considered for many appointments, one after the other as `Decision.packed` has each.

    `lengths` are the bytes of each, big-endian 32-bit numbers. `balanced`: their shares are what
    was earned; of the other rules only who was free is on record.
    """

    balanced: bool
    lengths: bytes
    packed: bytes


@dataclass(frozen=True, slots=True)
class Decision:
    """The column that won and everybody considered, in the order they were looked at."""

    winner: int
    considered: tuple[Considered, ...]

    def deltas(self) -> dict[int, int]:
        """What the booking adds to each considered coach's deficit; sums to 0."""
        return deficit_deltas(self.winner, self.considered)

    def packed(self) -> bytes:
        """The considered coaches as the script packs them: big-endian (u16 column, u32 share, i32 deficit) each."""
        return b"".join(_CONSIDERED.pack(c.column, c.share, c.deficit) for c in self.considered)


def unpack_considered(packed: bytes) -> tuple[Considered, ...]:
    """The inverse of `Decision.packed`."""
    return tuple(map(Considered._make, _CONSIDERED.iter_unpack(packed)))


def deficit_deltas(winner: int, considered: Sequence[Considered]) -> dict[int, int]:
    """Earned minus paid for each considered coach."""
    return {c.column: c.share - (APPOINTMENT_UNITS if c.column == winner else 0) for c in considered}


def choose(strategy: Strategy, candidates: Sequence[Candidate]) -> Decision:
    """Pick the winner among `candidates` (at least one).

    balanced: largest deficit after earning; ties by higher score, then lower column.
    score, requested: best score, then lower column; deficits are left alone, so the winner
    earns exactly what it pays and the others nothing.
    """
    if strategy is not Strategy.BALANCED:
        best = min(candidates, key=lambda c: (-c.score, c.column))
        return Decision(
            best.column,
            tuple(
                Considered(c.column, APPOINTMENT_UNITS if c.column == best.column else 0, c.deficit) for c in candidates
            ),
        )
    total = sum(c.score for c in candidates)
    count = len(candidates)
    shares = [APPOINTMENT_UNITS * c.score // total if total else APPOINTMENT_UNITS // count for c in candidates]
    owed = [
        (-(c.deficit + share), -c.score, c.column, i)
        for i, (c, share) in enumerate(zip(candidates, shares, strict=True))
    ]
    index = min(owed)[3]
    shares[index] += APPOINTMENT_UNITS - sum(shares)
    return Decision(
        candidates[index].column,
        tuple(Considered(c.column, share, c.deficit) for c, share in zip(candidates, shares, strict=True)),
    )


def first_column(team: Sequence[int], turn: int) -> int:
    """The column of an ascending team that looking begins at, `turn` being any number: each as often as the others.

    Of a team within one word it is always the first: that one is looked at whole. An empty team has column 0.
    """
    if not team or team[0] // 32 == team[-1] // 32:
        return team[0] if team else 0
    return team[turn % len(team)]


def considered_columns(free: Sequence[int], begin: int) -> list[int]:
    """Which of the free columns (ascending) are looked at: in turn from column `begin` on, until there are enough.

    So each coach that is free is looked at as often as the others, wherever its column is, and of up to 32 all are.
    """
    at = bisect_left(free, begin)
    return [*free[at:], *free[:at]][:ENOUGH_CANDIDATES]


def reason_of(strategy: str, considered: int) -> str:
    """One sentence for a person: why this coach."""
    if strategy == Strategy.REQUESTED:
        return "asked for by the client"
    all_of_them = considered < ENOUGH_CANDIDATES  # else more may have been free
    if strategy == Strategy.SCORE:
        return f"best score of {considered} free" if all_of_them else "best score of all free"
    return f"owed most by score among {considered} {'free' if all_of_them else 'of those free'}"
