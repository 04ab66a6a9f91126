"""What must be true of a history and the end it came to, whatever was broken meanwhile: C1 to C11.

Each check is a function of values; where one allows for what cannot be known (a request without an answer, the
seconds after a fault), its docstring says what and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.check_answers import answers_are_true, keys_have_one_effect, refusals_left_nothing
from tests.faults.check_counters import counters_agree
from tests.faults.check_end import all_is_well, comparison_holds, everything_is_heard, nothing_is_left
from tests.faults.check_order import days_are_explained
from tests.faults.check_refusals import refusals_had_a_reason
from tests.faults.check_rows import rows_keep_the_rules
from tests.faults.final import Final
from tests.faults.findings import Finding
from tests.faults.history import FaultSpan, History
from tests.faults.timeline import timeline_of

__all__ = ["CHECKS", "Finding", "check_all"]

CHECKS = tuple(f"C{number}" for number in range(1, 12))


def check_all(history: History, final: Final, spans: Sequence[FaultSpan]) -> dict[str, list[Finding]]:
    """The findings of every check; every key is present, and an empty list means that it holds."""
    timeline = timeline_of(history, final)
    found = [
        *rows_keep_the_rules(final),
        *answers_are_true(history, final, timeline),
        *refusals_left_nothing(final, timeline),
        *keys_have_one_effect(history, final, timeline),
        *days_are_explained(final, timeline),
        *refusals_had_a_reason(history, final, timeline, spans),
        *everything_is_heard(final, timeline),
        *nothing_is_left(final),
        *comparison_holds(final),
        *counters_agree(history, final),
        *all_is_well(history, final),
    ]
    return {check: [finding for finding in found if finding.check == check] for check in CHECKS}
