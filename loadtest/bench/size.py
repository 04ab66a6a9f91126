"""How much is measured: the full size, or a quick one that proves the way and no speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """`requests` of None loads for `seconds` with wrk, else so many requests are sent by a loop of our own."""

    repeats: int
    seconds: float
    warm_s: float
    requests: int | None
    coaches: int
    organizations: int
    teams: tuple[int, ...]
    looks: int
    latency_s: float
    latency_rate: float | None
    paced_rate: float
    big_coaches: int
    big_appointments: int
    buyers: int
    days_kept: int
    # Settings that are not as shipped.
    knobs: Mapping[str, object]


def full(repeats: int, seconds: float) -> Size:
    """What the goals are for."""
    return Size(
        repeats=repeats,
        seconds=seconds,
        warm_s=2.0,
        requests=None,
        coaches=200,
        organizations=100,
        teams=(6, 100, 1_000, 10_000),
        looks=40,
        latency_s=60.0,
        latency_rate=None,
        paced_rate=500.0,
        big_coaches=1_000,
        big_appointments=1_000_000,
        buyers=5_000,
        days_kept=365,
        knobs={},
    )


def quick() -> Size:
    """A few hundred requests in all, through the same code."""
    return Size(
        repeats=1,
        seconds=1.0,
        warm_s=0.0,
        requests=60,
        coaches=8,
        organizations=3,
        teams=(6, 40),
        looks=3,
        latency_s=1.0,
        latency_rate=60.0,
        paced_rate=40.0,
        big_coaches=10,
        big_appointments=2_000,
        buyers=40,
        days_kept=31,
        knobs={"CALENDAR_SYNC_INTERVAL_S": 0, "MOCK_DELAY_SCALE": 0},
    )
