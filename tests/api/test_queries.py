"""Queries are taken apart once for all who ask the same."""

from __future__ import annotations

import pytest

from service.api.parsing import query_of
from service.errors import InvalidRequest

KNOWN = frozenset({"days"})


def test_what_is_done_to_a_query_does_not_show_in_the_next() -> None:
    first = query_of("days=7", KNOWN)
    first["days"] = "8"
    assert query_of("days=7", KNOWN) == {"days": "7"}


def test_one_route_s_parameters_are_not_another_s() -> None:
    assert query_of("days=7", KNOWN) == {"days": "7"}
    with pytest.raises(InvalidRequest, match="days"):
        query_of("days=7", frozenset({"from"}))
