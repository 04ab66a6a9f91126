"""Each coach gets the share its score earns of the bookings it could have taken: no flood, no starving.

The traces are those of the architecture page. A trace is run twice over: by the integers of the rule, and by
plain division, which says what each coach should have had.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from service.domain.assignment import (
    APPOINTMENT_UNITS,
    Candidate,
    Considered,
    Decision,
    Strategy,
    choose,
    considered_columns,
    deficit_deltas,
    draws_of,
    reason_of,
    unpack_considered,
)

SCORES = (850_000, 720_000, 900_000, 580_000, 780_000)
Free = Callable[[int, random.Random], Sequence[int]]


class Trace:
    """Bookings one after the other: what each coach was owed, given, and should have had."""

    def __init__(self, scores: Sequence[int], free: Free, seed: int = 1) -> None:
        self.scores = scores
        self.owed = [0] * len(scores)
        self.given = [0] * len(scores)
        self.earned = [0.0] * len(scores)
        self._free = free
        self._chance = random.Random(seed)
        self._booked = 0

    def run(self, bookings: int) -> Trace:
        """So many bookings more."""
        for _ in range(bookings):
            free = self._free(self._booked, self._chance)
            self._booked += 1
            if not free:
                continue
            decision = choose(Strategy.BALANCED, [Candidate(c, self.scores[c], self.owed[c]) for c in free])
            for column, delta in decision.deltas().items():
                self.owed[column] += delta
            assert sum(self.owed) == 0
            self.given[decision.winner] += 1
            total = sum(self.scores[c] for c in free)
            for column in free:
                self.earned[column] += self.scores[column] / total if total else 1 / len(free)
        return self

    @property
    def furthest(self) -> float:
        """The most appointments any coach is from its eligible share."""
        return max(abs(given - earned) for given, earned in zip(self.given, self.earned, strict=True))


TRACES: dict[str, Free] = {
    "everyone free": lambda _, __: range(5),
    "half free at random": lambda _, chance: [c for c in range(5) if chance.random() < 0.5],
    "a one-in-five part-timer": lambda _, chance: [c for c in range(5) if c != 3 or chance.random() < 0.2],
    "a late joiner": lambda number, _: range(5) if number >= 500 else range(4),
}


@pytest.mark.parametrize("name", TRACES)
def test_on_1000_bookings_of_five_coaches_each_is_within_one_of_its_share(name: str) -> None:
    trace = Trace(SCORES, TRACES[name])
    for _ in range(10):
        assert trace.run(100).furthest <= 1.0
    assert sum(trace.given) > 900


def test_on_200_random_traces_of_up_to_ten_coaches_each_stays_within_three() -> None:
    assert max(_random_trace(seed).run(500).furthest for seed in range(200)) <= 3.0


def test_the_distance_from_the_share_does_not_grow_with_the_trace() -> None:
    traces = [_random_trace(seed).run(500) for seed in range(1000, 1020)]
    early = max(trace.furthest for trace in traces)
    late = max(trace.run(3500).furthest for trace in traces)
    assert late <= min(3.0, early + 1.0)


def _random_trace(seed: int) -> Trace:
    chance = random.Random(seed)
    coaches = chance.randint(2, 10)
    often = [chance.uniform(0.1, 1.0) for _ in range(coaches)]
    scores = [chance.randint(0, 1_000_000) for _ in range(coaches)]
    return Trace(scores, lambda _, draw: [c for c in range(coaches) if draw.random() < often[c]], seed)


@pytest.mark.parametrize("strategy", [Strategy.BALANCED, Strategy.SCORE])
def test_the_first_pick_of_an_idle_team_is_its_best_coach(strategy: Strategy) -> None:
    decision = choose(strategy, [Candidate(c, score, 0) for c, score in enumerate(SCORES)])
    assert decision.winner == 2


@pytest.mark.parametrize("strategy", list(Strategy))
def test_equal_scores_are_decided_by_the_lower_column(strategy: Strategy) -> None:
    candidates = [Candidate(7, 500, 0), Candidate(3, 500, 0), Candidate(5, 500, 0)]
    assert choose(strategy, candidates).winner == 3


def test_who_is_owed_alike_is_chosen_by_score_and_then_by_column() -> None:
    candidates = [Candidate(0, 700_000, 0), Candidate(5, 1_000_000, 0), Candidate(2, 1_000_000, 0)]
    shares = [1_000_000 * c.score // 2_700_000 for c in candidates]
    even = [Candidate(c.column, c.score, max(shares) - share) for c, share in zip(candidates, shares, strict=True)]
    assert choose(Strategy.BALANCED, even).winner == 2


def test_a_team_without_scores_shares_alike() -> None:
    trace = Trace([0, 0, 0], lambda _, __: range(3)).run(300)
    assert trace.given == [100, 100, 100]


def test_shares_are_whole_and_add_up_and_the_winner_gets_the_remainder() -> None:
    decision = choose(Strategy.BALANCED, [Candidate(0, 1, 0), Candidate(1, 1, 5), Candidate(2, 1, 0)])
    assert decision.winner == 1
    assert [c.share for c in decision.considered] == [333_333, 333_334, 333_333]
    assert decision.deltas() == {0: 333_333, 1: -666_666, 2: 333_333}


def test_by_score_nobody_is_owed_anything_for_it() -> None:
    decision = choose(Strategy.SCORE, [Candidate(0, 9, -50), Candidate(1, 1, 50)])
    assert decision.winner == 0
    assert decision.deltas() == {0: 0, 1: 0}
    assert sum(c.share for c in decision.considered) == APPOINTMENT_UNITS


def test_what_is_packed_is_unpacked_and_its_deltas_are_the_same() -> None:
    decision = Decision(65_535, (Considered(0, 999_999, -(2**31)), Considered(65_535, 1, 2**31 - 1)))
    assert len(decision.packed()) == 20
    assert unpack_considered(decision.packed()) == decision.considered
    assert deficit_deltas(65_535, unpack_considered(decision.packed())) == decision.deltas()


def test_a_small_team_is_looked_at_whole_and_of_a_large_one_32_from_one_that_is_free() -> None:
    assert considered_columns([0, 4, 31], (0,)) == [0, 4, 31]
    many = range(0, 128, 2)
    assert considered_columns(many, (0, 31, 32, 64)) == [*range(32, 96, 2)]
    assert considered_columns(many, (50, 99, 1)) == [*range(100, 128, 2), *range(0, 36, 2)]
    assert considered_columns([1, 127], (3, 2)) == [127, 1]
    assert considered_columns([], (7, 2)) == []


def test_each_of_a_large_team_is_drawn_as_often_and_nobody_of_one_word() -> None:
    draws = [draws_of((3, 40, 99), turn) for turn in range(300)]
    assert Counter(first for _, first, *_ in draws) == {3: 100, 40: 100, 99: 100}
    for drawn in zip(*(columns for _, *columns in draws), strict=True):
        assert min(Counter(drawn)[column] for column in (3, 40, 99)) > 60
    assert {draws_of((33, 40, 63), turn) for turn in range(9)} == {(0,)}
    assert draws_of((), 5) == (0,)


@pytest.mark.parametrize("coaches", [33, 40, 200])
@pytest.mark.parametrize("share_free", [1.0, 0.7])
def test_in_a_large_team_nobody_is_far_from_its_share_wherever_its_column_is(coaches: int, share_free: float) -> None:
    """Those of a last word with few columns were given half of theirs, or less."""
    chance = random.Random(coaches)
    team = range(coaches)
    scores = [chance.randint(500_000, 1_000_000) for _ in team]
    owed, given, earned = [0] * coaches, [0] * coaches, [0.0] * coaches
    for _ in range(20 * coaches):
        free = [column for column in team if chance.random() < share_free]
        looked_at = considered_columns(free, draws_of(team, chance.getrandbits(62)))
        decision = choose(Strategy.BALANCED, [Candidate(c, scores[c], owed[c]) for c in looked_at])
        for column, delta in decision.deltas().items():
            owed[column] += delta
        given[decision.winner] += 1
        total = sum(scores[column] for column in free)
        for column in free:
            earned[column] += scores[column] / total
    assert max(abs(got - share) for got, share in zip(given, earned, strict=True)) < 4
    assert sum(owed) == 0


@pytest.mark.parametrize("free", [range(100, 200), range(80, 130), [*range(30), *range(190, 200)]])
def test_who_stands_behind_many_who_are_not_free_is_looked_at_as_often_as_the_others(free: Sequence[int]) -> None:
    """As where half of a team works in another part of the world."""
    chance = random.Random(1)
    owed, given, seen = [0] * 200, [0] * 200, [0] * 200
    free = [*free]
    for _ in range(1000):
        looked_at = considered_columns(free, draws_of(range(200), chance.getrandbits(62)))
        decision = choose(Strategy.BALANCED, [Candidate(c, 500_000, owed[c]) for c in looked_at])
        for column, delta in decision.deltas().items():
            owed[column] += delta
            seen[column] += 1
        given[decision.winner] += 1
    assert max(abs(given[column] - 1000 / len(free)) for column in free) < 4
    assert max(seen[column] for column in free) < 1.5 * min(seen[column] for column in free)


def test_the_reason_says_which_rule_decided() -> None:
    reasons = {reason_of(strategy, 4) for strategy in Strategy}
    assert reasons == {"asked for by the client", "best score of 4 free", "owed most by score among 4 free"}
    assert reason_of("balanced", 32) == "owed most by score among 32 of those free"
    assert reason_of("score", 33) == "best score of all free"
