"""What coaches earned on many appointments at once is what the rule gives them one by one."""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest

from service.domain.assignment import (
    APPOINTMENT_UNITS,
    ENOUGH_CANDIDATES,
    Candidate,
    ConsideredTogether,
    Decision,
    Strategy,
    choose,
    considered_columns,
    draws_of,
)
from service.domain.earned import Earned


def together(decisions: list[Decision], *, balanced: bool) -> ConsideredTogether:
    """Decisions as Postgres puts them together."""
    packed = [one.packed() for one in decisions]
    return ConsideredTogether(balanced, b"".join(struct.pack(">i", len(one)) for one in packed), b"".join(packed))


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("seed", range(20))
def test_many_at_once_earn_what_they_earn_one_by_one(strategy: Strategy, seed: int) -> None:
    chance = random.Random(seed)
    scores = {column: chance.choice((0, 0, 1, 333_333, 720_000, 1_000_000)) for column in (*range(40), 65_535)}
    earned, expected = Earned(scores), Counter[int]()
    for _ in range(3):
        teams = [chance.sample(sorted(scores), chance.randint(1, 35)) for _ in range(30)]
        candidates = [[Candidate(c, scores[c], chance.randint(-(2**31), 2**30)) for c in team] for team in teams]
        decisions = [choose(strategy, one) for one in candidates]
        nobody = Decision(0, ())
        earned.add(together([nobody, *decisions, nobody], balanced=strategy is Strategy.BALANCED))
        earned.add(together([nobody], balanced=strategy is Strategy.BALANCED))
        for team, decision in zip(teams, decisions, strict=True):
            best_added = strategy is not Strategy.BALANCED and len(team) == ENOUGH_CANDIDATES + 1  # see below
            looked_at = team[:-1] if best_added else team
            by_score = choose(Strategy.BALANCED, [Candidate(c, scores[c], 0) for c in looked_at])
            what = decision if strategy is Strategy.BALANCED else by_score
            expected.update({one.column: one.share for one in what.considered})
    assert {column: earned.of(column) for column in scores} == {column: expected[column] for column in scores}


def test_the_best_of_a_large_team_earned_by_its_score_and_not_for_being_put_behind_those_looked_at() -> None:
    """Of 200 it was said to have earned six times what others of nearly its score did."""
    chance = random.Random(1)
    team, best = range(200), 150
    scores = {column: 500_000 + 10_000 * (column == best) for column in team}
    decisions: list[Decision] = []
    for _ in range(1000):
        looked_at = considered_columns(team, draws_of(team, chance.getrandbits(62)))
        looked_at += [] if best in looked_at else [best]
        decisions.append(choose(Strategy.SCORE, [Candidate(column, scores[column], 0) for column in looked_at]))
    earned = Earned(scores)
    earned.add(together(decisions, balanced=False))
    units = {column: earned.of(column) for column in team}
    assert sum(units.values()) == 1000 * APPOINTMENT_UNITS
    assert max(units.values()) < 1.5 * min(units.values())
    assert units[best] < 1.5 * APPOINTMENT_UNITS * 1000 / 200
