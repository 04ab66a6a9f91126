"""Retries spread out: anywhere up to a ceiling that doubles and ends at five minutes, never before Retry-After."""

from __future__ import annotations

import random

import pytest

from service.domain.retry import LONGEST_WISH_MS, backoff_ms


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 500), (2, 1000), (5, 8000), (11, 300_000), (10_000, 300_000)])
def test_the_delay_is_drawn_evenly_from_nothing_to_the_ceiling(attempt: int, ceiling: int) -> None:
    chance = random.Random(1)
    drawn = [backoff_ms(attempt, 500, chance=chance) for _ in range(2000)]
    assert 0 <= min(drawn) < ceiling * 0.01
    assert ceiling * 0.99 < max(drawn) <= ceiling
    assert abs(sum(drawn) / len(drawn) - ceiling / 2) < ceiling * 0.03


def test_a_receivers_wish_is_the_least_delay_up_to_a_day() -> None:
    chance = random.Random(1)
    assert all(backoff_ms(1, 500, chance=chance, retry_after_ms=5000) == 5000 for _ in range(50))
    assert backoff_ms(1, 500, chance=chance, retry_after_ms=10**9) == LONGEST_WISH_MS
    assert backoff_ms(1, 500, chance=chance, retry_after_ms=3_600_000) == 3_600_000
    assert backoff_ms(9, 500, chance=random.Random(3), retry_after_ms=1) > 1
