"""What a client is told of a failure."""

from __future__ import annotations

import pytest

from service.api.problems import problem_of
from service.errors import GateClosed, ItemBroken, OutcomeUnknown, Overloaded, Unavailable


@pytest.mark.parametrize("kind", [Unavailable, GateClosed, ItemBroken, OutcomeUnknown])
def test_the_inside_of_a_503_stays_inside(kind: type[Unavailable]) -> None:
    told = problem_of(kind("ERR user_script:12: Redis at 10.0.0.7"))
    assert told.status == 503
    assert "script" not in told.message


def test_an_overload_says_so_itself() -> None:
    assert "more requests" in problem_of(Overloaded(retry_after_s=1)).message
