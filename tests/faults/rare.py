"""Paths of the service that only trouble takes. A full run in which one was never taken has tested too little.

The comparison of the grid that finds a difference is not among them: what a fault leaves is noted and repaired before
the comparison comes round. Its own tests plant differences (`tests/operations/test_rebuild.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.final import Final

# (series, label, value): what a run of every fault must have counted at least once.
RARE: tuple[tuple[str, str, str], ...] = (
    ("booking_unknown_commits_total", "", ""),
    ("booking_unsettled_total", "", ""),
    ("booking_ungated_total", "operation", "book"),
    ("booking_ungated_total", "operation", "move"),
    ("booking_fenced_commits_total", "", ""),
    ("booking_grid_repairs_total", "", ""),
    ("booking_gate_trips_total", "why", "fault"),
    ("booking_gate_trips_total", "why", "refused"),
    ("booking_gate_trips_total", "why", "suspect"),
    ("booking_backstop_conflicts_total", "", ""),
    ("booking_reconciled_total", "how", "claim settled"),
    ("booking_reconciled_total", "how", "claim released"),
    ("booking_reconciled_total", "how", "move carried out"),
    ("booking_reconciled_total", "how", "move dropped"),
    ("booking_reconciled_total", "how", "release carried out"),
    ("booking_reconciled_total", "how", "release dropped"),
    ("booking_swept_events_total", "destination", "crm"),
)


def rare_paths(finals: Sequence[Final]) -> Counter[str]:
    """How often each path was taken in all runs together; a path never taken is there with 0."""
    found: Counter[str] = Counter()
    for series, label, value in RARE:
        name = f"{series}{{{label}={value}}}" if label else series
        found[name] += round(sum(final.value(series, **({label: value} if label else {})) for final in finals))
    return found
