"""Days of one organization in memory, claimed from by the rule that `lua/claim_slot.lua` claims by in Redis.

It decides while Redis is away, and a property test holds the two equal. A coach's day is a 288-bit integer, the first
cell its most significant bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.domain.assignment import (
    ENOUGH_CANDIDATES,
    Candidate,
    Considered,
    Decision,
    Strategy,
    choose,
    considered_columns,
)
from service.domain.calendar import Roster
from service.domain.grid import Placement
from service.domain.plane import cells_mask


@dataclass(frozen=True, slots=True)
class DayColumns:
    """One day: open and occupied cells by column, and how many appointments count on the local date of that number."""

    open: Mapping[int, int]
    occupied: dict[int, int]
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class Held:
    """What an appointment that moves holds itself: it does not stand in its own way.

    `keep`: its coach is kept where possible; `others`: it goes to another one.
    """

    column: int
    placement: Placement
    local_day: int
    keep: bool = False
    others: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A time that is wanted of a team: `zones` as (zone index or None, local day), `column` -1 unless asked for.

    `draws`: by which it is decided at whom looking begins, see `draws_of`.
    """

    team: Sequence[int]
    placement: Placement
    zones: Sequence[tuple[int | None, int]]
    strategy: Strategy
    column: int
    draws: Sequence[int]
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who got it, on which local day it counts, and who was considered; nobody when the coach was kept."""

    column: int
    local_day: int
    considered: tuple[Considered, ...]

    def packed(self) -> bytes:
        """Who was considered, as the script packs it."""
        return Decision(self.column, self.considered).packed()


@dataclass(slots=True)
class CoachGrid:
    """The days of one organization, and what each column is owed."""

    roster: Roster
    days: dict[int, DayColumns] = field(default_factory=dict[int, DayColumns])
    deficits: dict[int, int] = field(default_factory=dict[int, int])

    def claim(self, wanted: Wanted) -> Claimed | None:
        """Give the time to a coach who is free, and remember it; None when nobody is.

        Raises KeyError when a day it needs is not here.
        """
        columns = self._candidates(wanted)
        if not columns:
            return None
        coaches = self.roster.coach_by_column
        decision = choose(wanted.strategy, [Candidate(c, coaches[c].score, self.deficits.get(c, 0)) for c in columns])
        return self._take(wanted, decision)

    def _candidates(self, wanted: Wanted) -> list[int]:
        held = wanted.held
        if held is not None and held.keep:
            kept = self._free(wanted, held.column)
            if kept:
                return kept
        free = self._free(wanted, wanted.column)
        found = considered_columns(free, wanted.draws)
        looked_at = len(found)
        if held is not None and held.others:
            free, found = ([c for c in columns if c != held.column] for columns in (free, found))
        if wanted.strategy is Strategy.SCORE and looked_at == ENOUGH_CANDIDATES:
            best = min(free, key=lambda column: (-self.roster.coach_by_column[column].score, column))
            return found if best in found else [*found, best]
        return found

    def _free(self, wanted: Wanted, only: int) -> list[int]:
        """The free columns: of all the team, or of `only` one of it."""
        return [c for c in wanted.team if only in (-1, c) and self._is_free(wanted, c)]

    def _is_free(self, wanted: Wanted, column: int) -> bool:
        local_day = self._local_day(wanted, column)
        if local_day is None:
            return False
        held = wanted.held if wanted.held is not None and wanted.held.column == column else None
        counts_already = held is not None and held.local_day == local_day
        limit = self.roster.coach_by_column[column].max_daily_appointments
        if not counts_already and self.days[local_day].counts.get(column, 0) >= limit:
            return False
        placement = wanted.placement
        for part in placement.segments():
            day = self.days[part.day]
            occupied = day.occupied.get(column, 0)
            if held is not None:
                occupied &= ~cells_mask(part.day, held.placement.occupied_start, held.placement.occupied_end)
            if occupied & cells_mask(part.day, placement.occupied_start, placement.occupied_end):
                return False
            own = cells_mask(part.day, placement.start, placement.end)
            if day.open.get(column, 0) & own != own:
                return False
        return True

    def _local_day(self, wanted: Wanted, column: int) -> int | None:
        number = self.roster.zone_numbers[self.roster.coach_by_column[column].timezone]
        return next((day for zone, day in wanted.zones if zone in (None, number)), None)

    def _take(self, wanted: Wanted, decision: Decision) -> Claimed:
        column, held = decision.winner, wanted.held
        local_day = self._local_day(wanted, column)
        if local_day is None:
            raise AssertionError("a coach was free on no day")
        if held is not None:
            self.free(held)
        self._mark(column, wanted.placement)
        counts = self.days[local_day].counts
        counts[column] = counts.get(column, 0) + 1
        if held is not None and held.column == column:
            return Claimed(column, local_day, ())
        if wanted.strategy is Strategy.BALANCED:
            for one, delta in decision.deltas().items():
                self.deficits[one] = self.deficits.get(one, 0) + delta
        return Claimed(column, local_day, decision.considered)

    def free(self, held: Held) -> None:
        """Take a time back, as far as its days are here."""
        for day, columns in self.days.items():
            cells = cells_mask(day, held.placement.occupied_start, held.placement.occupied_end)
            columns.occupied[held.column] = columns.occupied.get(held.column, 0) & ~cells
        if held.local_day in self.days:
            self.days[held.local_day].counts[held.column] -= 1

    def _mark(self, column: int, placement: Placement) -> None:
        for part in placement.segments():
            occupied = self.days[part.day].occupied
            cells = cells_mask(part.day, placement.occupied_start, placement.occupied_end)
            occupied[column] = occupied.get(column, 0) | cells
