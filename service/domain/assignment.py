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
# So many of a large team are drawn to find one who is free.
DRAWN = 8
_BITS = 160
# An odd number without a pattern, by which any other's bits are mixed.
_MIXING = 0x9E3779B97F4A7C15F39CC0605CEDC835
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


def draws_of(team: Sequence[int], turn: int) -> tuple[int, ...]:
    """What decides at whom looking begins, by any number `turn`: a number, then columns of the ascending team.

    Of a team within one word no columns: that one is looked at whole.
    """
    if not team or team[0] // 32 == team[-1] // 32:
        return (0,)
    drawn, columns = turn * _MIXING % (1 << _BITS), list[int]()
    for _ in range(DRAWN):
        drawn, place = divmod(drawn, len(team))
        columns.append(team[place])
    return drawn % (1 << 32), *columns


def considered_columns(free: Sequence[int], draws: Sequence[int]) -> list[int]:
    """Which of the free columns (ascending) are looked at: in turn from one of them on, until there are enough.

    That is the first drawn column that is free; where none is, the free one that the drawn number tells. Not the one
    behind a drawn column: who stands behind many that are not free would be looked at more often. So each coach that is
    free is looked at as often as the others, wherever its column is, and of up to 32 all are.
    """
    if not free:
        return []
    number, *columns = draws
    begin = next((column for column in columns if column in free), free[number % len(free)])
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
