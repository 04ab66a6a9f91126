"""When to try again: exponential backoff with full jitter.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the variant called full jitter).
"""

from __future__ import annotations

import random

LONGEST_DELAY_MS = 300_000
LONGEST_WISH_MS = 86_400_000


def backoff_ms(attempt: int, base_ms: int, *, chance: random.Random, retry_after_ms: int | None = None) -> int:
    """Milliseconds to wait after the failed attempt number `attempt` (1 for the first).

    Drawn evenly from [0, base · 2^(attempt-1)], capped at five minutes; never earlier than the
    receiver's `Retry-After`, which may ask for a day at most.
    """
    ceiling = min(LONGEST_DELAY_MS, base_ms << min(attempt - 1, 20))
    drawn = chance.randint(0, ceiling)
    return max(drawn, min(retry_after_ms or 0, LONGEST_WISH_MS))
