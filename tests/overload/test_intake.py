"""As many are taken in as are answered within the longest wait at the rate of late, by a clock of the test's."""

from __future__ import annotations

import pytest

from service.api.intake import ALWAYS, Intake
from service.errors import Overloaded
from service.metrics import Metrics

MOST = 1_000


class World:
    """An intake and its time."""

    def __init__(self, *, most: int = MOST, max_wait_s: float = 1.0) -> None:
        self.time = 100.0
        self.metrics = Metrics()
        self.unfinished = 0
        self.intake = Intake(
            most=most,
            max_wait_s=max_wait_s,
            metrics=self.metrics,
            unfinished=lambda: self.unfinished,
            now=lambda: self.time,
        )

    def crowd(self, seconds: float, rate: float) -> None:
        """As many as are let in come, and so many are answered a second."""
        for _ in range(round(seconds * rate)):
            self.fill()
            self.time += 1 / rate
            self.intake.leave(answered=True)
        self.fill()

    def quiet(self, seconds: float, rate: float) -> None:
        """One at a time comes."""
        for _ in range(round(seconds * rate)):
            self.intake.enter()
            self.time += 1 / rate
            self.intake.leave(answered=True)

    def fill(self) -> None:
        while not self.intake.is_full:
            self.intake.enter()

    def empty(self) -> None:
        while self.intake.in_flight:
            self.time += 0.0025
            self.intake.leave(answered=True)

    def refusals(self, why: str) -> float:
        return self.metrics.registry.get_sample_value("booking_overload_refusals_total", {"reason": why}) or 0.0


@pytest.mark.parametrize(("rate", "max_wait_s", "limit"), [(400, 1.0, 400), (150, 2.0, 300), (600, 0.5, 300)])
def test_the_limit_is_what_is_answered_within_the_longest_wait(rate: float, max_wait_s: float, limit: int) -> None:
    world = World(max_wait_s=max_wait_s)
    assert world.intake.limit == MOST, "before anything is known"
    world.crowd(10, rate)
    assert world.intake.limit == pytest.approx(limit, rel=0.02)
    assert world.metrics.registry.get_sample_value("booking_intake_limit") == world.intake.limit


def test_it_follows_a_service_that_gets_slower_and_quicker() -> None:
    world = World()
    limits: list[int] = []
    for rate in (600, 300, 600):
        world.crowd(15, rate)
        limits.append(world.intake.limit)
    assert limits == [pytest.approx(wanted, rel=0.05) for wanted in (600, 300, 600)]


def test_a_hiccup_does_not_turn_everybody_away() -> None:
    world = World()
    world.crowd(10, 400)
    world.time += 0.3
    world.fill()
    assert 250 < world.intake.limit < 400


def test_a_service_that_stands_still_takes_in_a_few_and_no_more() -> None:
    world = World()
    world.crowd(10, 400)
    for _ in range(100):
        world.time += 0.25
        world.fill()
    assert world.intake.limit == ALWAYS


def test_little_to_do_does_not_count_as_slow() -> None:
    world = World()
    world.crowd(10, 400)
    world.empty()
    world.quiet(60, 5)
    world.time += 3600
    world.fill()
    assert world.intake.in_flight == pytest.approx(400, rel=0.02)


def test_never_more_than_the_bound_and_each_refusal_has_its_reason() -> None:
    world = World(most=50)
    world.crowd(5, 4_000)
    assert world.intake.limit == 50
    with pytest.raises(Overloaded):
        world.intake.enter()
    assert (world.intake.in_flight, world.refusals("in_flight"), world.refusals("wait")) == (50, 1, 0)

    slow = World()
    slow.crowd(20, 100)
    with pytest.raises(Overloaded):
        slow.intake.enter()
    assert (slow.refusals("in_flight"), slow.refusals("wait")) == (0, 1)


def test_work_without_a_client_takes_room() -> None:
    world = World(most=5)
    world.unfinished = 5
    assert world.intake.is_full
    world.unfinished = 4
    assert not world.intake.is_full


def test_those_who_are_refused_together_do_not_come_again_together() -> None:
    world = World(most=1)
    world.fill()
    assert {world.intake.refuse().retry_after_s for _ in range(10)} == {1, 2}


def test_who_went_away_does_not_count_as_answered() -> None:
    world = World()
    world.crowd(10, 400)
    for _ in range(2_000):
        world.fill()
        world.time += 0.005
        world.intake.leave(answered=False)
    assert world.intake.limit == ALWAYS
