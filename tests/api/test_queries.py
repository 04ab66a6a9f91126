"""Queries are taken apart once for all who ask the same."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.parsing import query_of
from service.errors import InvalidRequest

KNOWN = frozenset({"days"})


def test_nobody_changes_a_query_for_the_next() -> None:
    first: Any = query_of("days=7", KNOWN)
    with pytest.raises(TypeError):
        first["days"] = "8"


def test_one_route_s_parameters_are_not_another_s() -> None:
    assert query_of("days=7", KNOWN) == {"days": "7"}
    with pytest.raises(InvalidRequest, match="days"):
        query_of("days=7", frozenset({"from"}))
