"""What coaches earned by score on many appointments, worked out for all of them at once.

The rule is that of `assignment`; numpy goes through what is kept of a year's appointments in the time in which Python
goes through a day's.
"""

from __future__ import annotations

import numpy as np

from service.domain.assignment import APPOINTMENT_UNITS, ENOUGH_CANDIDATES, ConsideredTogether

# As `Decision.packed` has them.
_CONSIDERED = np.dtype([("column", ">u2"), ("share", ">u4"), ("deficit", ">i4")])
_COLUMNS = 65_536


class Earned:
    """Adds up what coaches of these scores (millionths, by column) earned, in millionths of an appointment."""

    def __init__(self, scores: dict[int, int]) -> None:
        self._scores = np.zeros(_COLUMNS, np.int64)
        self._scores[list(scores)] = list(scores.values())
        self._units = np.zeros(_COLUMNS, np.int64)

    def add(self, many: ConsideredTogether) -> None:
        """What was earned on these; where no share is on record, it is worked out from the scores."""
        entries = np.frombuffer(many.packed, _CONSIDERED)
        columns = entries["column"].astype(np.int64)
        if many.balanced:
            np.add.at(self._units, columns, entries["share"].astype(np.int64))
            return
        counts = np.frombuffer(many.lengths, ">i4").astype(np.int64) // _CONSIDERED.itemsize
        counts = counts[counts > 0]
        if not counts.size:
            return
        # One more than are looked at is the best of all who were free, put behind them: it would earn each time what
        # others earn when it is their turn. More than that a release of before looked at.
        one_more = counts == ENOUGH_CANDIDATES + 1
        if one_more.any():
            columns = np.delete(columns, np.cumsum(counts)[one_more] - 1)
            counts = counts - one_more
        firsts = np.cumsum(counts) - counts
        scores = self._scores[columns]
        totals = np.add.reduceat(scores, firsts)
        # As `choose` with nobody owed anything: where all scores are 0 each earns the same.
        parts = np.where(totals > 0, totals, counts)
        shares = APPOINTMENT_UNITS * np.where(np.repeat(totals, counts) > 0, scores, 1) // np.repeat(parts, counts)
        np.add.at(self._units, columns, shares)
        # What the division leaves is the winner's: the best score, then the lowest column.
        best = np.maximum.reduceat(scores * _COLUMNS + (_COLUMNS - 1 - columns), firsts)
        winners = _COLUMNS - 1 - best % _COLUMNS
        np.add.at(self._units, winners, APPOINTMENT_UNITS - np.add.reduceat(shares, firsts))

    def of(self, column: int) -> int:
        """What one coach earned."""
        return int(self._units[column])
