"""Asking again: for calls that change nothing on the other side, so that twice does no harm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)
from tenacity.wait import wait_base

from service.errors import Unavailable
from service.outside.http import Attempt


class _NotNowError(Exception):
    """The other side is unwell; the attempt says how."""

    def __init__(self, made: Attempt) -> None:
        super().__init__(made.why)
        self.made = made


class _AsToldOrJitter(wait_base):
    """Exponential with full jitter, but never earlier than the other side asked for."""

    def __init__(self, base_s: float, longest_s: float) -> None:
        self._jitter = wait_random_exponential(multiplier=base_s, max=longest_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        problem = retry_state.outcome.exception() if retry_state.outcome else None
        told_ms = problem.made.retry_after_ms if isinstance(problem, _NotNowError) else None
        return max(self._jitter(retry_state), (told_ms or 0) / 1000)


async def asked(
    name: str, ask: Callable[[], Awaitable[Attempt]], *, tries: int, base_s: float, longest_s: float
) -> Attempt:
    """The first attempt of at most `tries` that found the other side well, whatever it answered.

    Waits up to base_s · 2^n between them, and gives up when told to wait longer than `longest_s`.
    Raises Unavailable, naming the service by `name`, when no attempt found it well.
    """

    async def once() -> Attempt:
        made = await ask()
        if made.unwell:
            raise _NotNowError(made)
        return made

    def worth_another(problem: BaseException) -> bool:
        # An allow-list: a deny-list would swallow the cancellation of the task too.
        return isinstance(problem, _NotNowError) and (problem.made.retry_after_ms or 0) <= longest_s * 1000

    retrying = AsyncRetrying(
        stop=stop_after_attempt(tries),
        wait=_AsToldOrJitter(base_s, longest_s),
        retry=retry_if_exception(worth_another),
        reraise=True,
    )
    try:
        return await retrying(once)
    except _NotNowError as problem:
        raise Unavailable(f"{name}: {problem.made.why}") from None
