"""No two servers of the tests are given one port, and none has one that the kernel may give to somebody else.

Nor has a node of a Redis Cluster, which listens on its port and ten thousand too.
"""

from __future__ import annotations

from itertools import islice

import pytest

from tests.servers import free_port, ports_of_this_process


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100


def test_tests_that_run_beside_each_other_have_no_port_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    shares: list[set[int]] = []
    for number in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        shares.append(set(islice(ports_of_this_process(), 3_300)))
    ports = set.union(*shares)
    assert len(ports) == 3 * 3_300
    assert max(ports) < min(ports) + 10_000
    # From 32768 on Linux gives them to whoever asks for any.
    assert max(ports) + 10_000 < 32_768
