"""The mocks' luck: which request fails, waits, hangs or is refused, decided by a seed.

The n-th request that leaves something to chance gets its luck from (seed, service, n) alone, whatever was
asked before, so a run can be repeated. Health checks and book-keeping routes take no turn in that count.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from itertools import count
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How unpleasant a mock is. Rates are shares from 0 to 1; each mock heeds the ones that concern it.

    The defaults are what the real services show, except `failure_rate`, in which they differ
    (calendar 0.10, CRM 0.30, auth 0).
    """

    failure_rate: float
    """Calls answered 503."""
    seed: int = 0
    """Where the luck comes from; 0 draws a seed."""
    delay_scale: float = 1.0
    """Factor on all delays; 0 answers at once."""
    never_answer_rate: float = 0.05
    """CRM: cancelled webhooks that get no answer at all."""
    conflict_rate: float = 0.05
    """Calendar: blocks answered 409 although nothing is blocked."""
    not_found_rate: float = 0.10
    """CRM: contacts answered 404."""
    missing_rate: float = 0.30
    """Calendar: starts left out of an availability answer."""
    frozen: bool = False
    """Calendar: draw each coach's missing starts once and keep them, instead of anew at each call."""
    blocked_dates: tuple[str, ...] = ()
    """Calendar: the `blocked_dates` of every coach's settings, YYYY-MM-DD."""

    @classmethod
    def calm(cls, seed: int = 1) -> Behaviour:
        """Nothing fails, waits, hangs or is missing: the start of a test that adds one trouble of its own."""
        return cls(
            seed=seed,
            failure_rate=0.0,
            delay_scale=0.0,
            never_answer_rate=0.0,
            conflict_rate=0.0,
            not_found_rate=0.0,
            missing_rate=0.0,
        )


class Draw:
    """The luck of one request: the questions are answered in the order they are asked."""

    def __init__(self, source: Random, delay_scale: float) -> None:
        self._source = source
        self._delay_scale = delay_scale

    def happens(self, rate: float) -> bool:
        """Whether something of probability `rate` (0 to 1) happens this time."""
        return self._source.random() < rate

    def identifier(self, prefix: str) -> str:
        """A new id such as `block_5f0c…`: 64 random bits in hex."""
        return f"{prefix}_{self._source.getrandbits(64):016x}"

    async def pause(self, low_ms: int, high_ms: int) -> None:
        """Wait a random time between the two, in milliseconds, times the delay scale."""
        wait_ms = self._source.uniform(low_ms, high_ms) * self._delay_scale
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)


class Chance:
    """Hands each request of one mock its luck."""

    def __init__(self, behaviour: Behaviour, service: str) -> None:
        self._root = f"{behaviour.seed or random_seed()}/{service}"
        self._delay_scale = behaviour.delay_scale
        self._turns = count()

    def next(self) -> Draw:
        """The luck of the next request. Call it before the first await: its turn is its order of arrival."""
        return Draw(Random(f"{self._root}/turn/{next(self._turns)}"), self._delay_scale)

    def kept(self, *names: str) -> Draw:
        """The luck tied to `names`: the same whenever and however often it is asked for."""
        return Draw(Random("/".join((self._root, "kept", *names))), self._delay_scale)


def random_seed() -> int:
    """A seed nobody chose, from 1 to 2^31 - 1."""
    return 1 + secrets.randbelow(2**31 - 1)
