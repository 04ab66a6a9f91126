"""A good run passes every check; each violation that is planted in it is found by the check it belongs to.

The runs are written by hand (`story.py`, `planted.py`): what is asserted is the checker, not the service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.faults.checks import CHECKS, check_all
from tests.faults.explain import Step, explain
from tests.faults.final import Final
from tests.faults.history import FaultSpan
from tests.faults.holds import HOLD_S, SETTLING_S
from tests.faults.planted import PLANTED, good
from tests.faults.story import Story, at


def failing(story: Story, final: Final | None = None, *spans: FaultSpan) -> set[str]:
    """The checks that find something."""
    found = check_all(story.history, final or story.final(), spans)
    assert tuple(found) == CHECKS
    return {check for check, findings in found.items() if findings}


def test_a_good_run_passes_every_check() -> None:
    assert failing(good()) == set()


@pytest.mark.parametrize(("check", "plant"), PLANTED, ids=[f"{c}-{p.__name__}-{n}" for n, (c, p) in enumerate(PLANTED)])
def test_each_planted_violation_is_found(check: str, plant: Callable[[Story], Final]) -> None:
    story = good()
    assert check in failing(story, plant(story))


def test_every_check_has_a_planted_violation() -> None:
    assert {check for check, _ in PLANTED} == set(CHECKS)


def test_a_claim_without_an_answer_is_a_reason_until_its_deadline_and_a_round_are_over() -> None:
    def refused_after(seconds: float) -> set[str]:
        story = Story()
        story.booked(12, "c0", 1.0, 1.1)
        unknown = story.ask("book", story.wish(12), 2.0, key="u")
        story.refuse(unknown, 2.1, 503, "OUTCOME_UNKNOWN")
        story.refuse(story.ask("book", story.wish(12), 2.1 + seconds), 2.2 + seconds)
        return failing(story)

    assert refused_after(HOLD_S - 0.5) == set()
    assert refused_after(HOLD_S + 0.5) == {"C6"}


def test_a_time_just_freed_is_a_reason_only_within_seconds_after_a_fault() -> None:
    def refused_at(moment: float, name: str) -> set[str]:
        story = Story()
        one = story.booked(12, "c0", 1.0, 1.1)
        story.booked(12, "c1", 1.0, 1.1)
        story.cancelled(one, 2.0, 2.1)
        story.refuse(story.ask("book", story.wish(12), moment), moment + 0.1)
        return failing(story, None, FaultSpan(name, 1.5, 2.5, reached=True, note=""))

    assert refused_at(2.5 + SETTLING_S - 0.5, "kill_redis") == set()
    assert refused_at(2.5 + SETTLING_S + 0.5, "kill_redis") == {"C6"}
    assert refused_at(3.0, "crm_refuse") == {"C6"}, "the CRM has nothing to do with the grid"


def test_a_request_whose_key_was_used_before_is_a_reason_as_long_as_it_lasts() -> None:
    def refused(invoked: float, first_use: float) -> set[str]:
        story = Story()
        story.booked(12, "c0", 0.5, 0.6)
        story.booked(9, "c0", first_use, first_use + 0.1, key="k")
        story.refuse(story.ask("book", story.wish(12), 2.0, key="k"), 2.5, 422, "IDEMPOTENCY_KEY_REUSED")
        story.refuse(story.ask("book", story.wish(12), invoked), invoked + 0.1)
        return failing(story)

    assert refused(2.2, 1.0) == set()
    assert refused(2.7, 1.0) == {"C6"}
    assert refused(2.2, 3.0) == {"C6"}, "a key that is new claims only what it books"


def test_a_full_day_is_a_reason() -> None:
    story = Story()
    for hour in (8, 10):
        for coach in ("c0", "c1"):
            story.booked(hour, coach, 1.0, 1.1)
    story.refuse(story.ask("book", story.wish(15), 2.0), 2.1)
    assert failing(story) == set()


def test_the_reason_must_hold_for_all_coaches_at_one_moment() -> None:
    story = Story()
    one = story.booked(12, "c0", 1.0, 1.1)
    late = story.ask("book", story.wish(12), 2.0)
    story.cancelled(one, 2.1, 2.2)
    story.booked(12, "c1", 2.4, 2.5)
    story.refuse(late, 3.0)
    assert failing(story) == {"C6"}


def step(name: str, version: int, hours: tuple[float, float] | None, earliest: float, latest: float) -> Step:
    """A change of one coach's day."""
    return Step(name, version, None if hours is None else (at(hours[0]), at(hours[1])), earliest, latest)


ORDERS: Mapping[str, tuple[bool, list[Step]]] = {
    "one after the other": (True, [step("a", 1, (9, 10), 0, 1), step("a", 2, None, 2, 3), step("b", 1, (9, 10), 4, 5)]),
    "overlapping in time, so either may be first": (
        True,
        [step("b", 1, (9, 10), 0, 9), step("a", 1, (9, 10), 0, 9), step("a", 2, None, 0, 9)],
    ),
    "never both": (False, [step("a", 1, (9, 10), 0, 1), step("b", 1, (9, 10), 2, 3), step("a", 2, None, 4, 5)]),
    "unknown when, so late enough": (
        True,
        [step("a", 1, (9, 10), 0, 99), step("b", 1, (9, 10), 2, 3), step("b", 2, None, 4, 5)],
    ),
    "moved within the day, exchanged": (
        False,
        [
            step("a", 1, (9, 10), 0, 1),
            step("b", 1, (10, 11), 0, 1),
            step("a", 2, (10, 11), 2, 3),
            step("b", 2, (9, 10), 2, 3),
        ],
    ),
    "moved onto a part of its own time": (True, [step("a", 1, (9, 10), 0, 1), step("a", 2, (9.5, 10.5), 2, 3)]),
    "three where two may be": (
        False,
        [step(name, 1, (hour, hour + 1), 0, 9) for name, hour in (("a", 9), ("b", 11), ("c", 13))],
    ),
    "the later version first": (False, [step("a", 2, None, 0, 1), step("a", 1, (9, 10), 2, 3)]),
}


@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_found_where_there_are_any(name: str) -> None:
    explained, steps = ORDERS[name]
    for way in (steps, steps[::-1]):
        verdict = explain(way, limit=2)
        assert (verdict.explained, verdict.decided) == (explained, True)
