"""While Redis cannot be asked a process counts by itself: a limit is one, each key has its own, each window ends."""

from __future__ import annotations

import asyncio

import pytest

from service.claims.messages import Rate
from service.errors import RateLimitExceeded
from service.operations import local_rates
from service.operations.local_rates import LocalRates, RateSeen

MINUTE = 60_000


class Door:
    """Counts at moments of its own choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.rates = LocalRates()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now_s)

    def __call__(self, key_id: str = "a", limit: int = 2) -> tuple[int, int]:
        """What is left of the window and how long it lasts (ms). Raises RateLimitExceeded."""
        seen = RateSeen()
        self.rates.count(Rate(key_id, limit, MINUTE), seen)
        assert seen.state is not None
        return seen.state.remaining, seen.state.reset_ms


async def test_a_window_ends_so_long_after_its_first_request_however_many_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(monkeypatch)
    assert door() == (1, MINUTE)
    door.now_s += 45
    assert door() == (0, 15_000)
    for _ in range(3):
        with pytest.raises(RateLimitExceeded) as refused:
            door()
        assert refused.value.retry_after_s == 15
    door.now_s += 15
    assert door() == (1, MINUTE)


async def test_each_key_is_counted_by_itself_and_one_without_a_limit_is_never_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(monkeypatch)
    assert [door("a"), door("a"), door("b")] == [(1, MINUTE), (0, MINUTE), (1, MINUTE)]
    assert {door("c", limit=0) for _ in range(5)} == {(0, MINUTE)}
    with pytest.raises(RateLimitExceeded):
        door("a")


async def test_of_more_keys_than_are_counted_who_asked_longest_ago_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_rates, "MOST_KEYS", 2)
    door = Door(monkeypatch)
    for key_id in ("a", "b", "a", "c"):
        door(key_id)
    assert len(door.rates._windows) == 2
    with pytest.raises(RateLimitExceeded):
        door("a")
