"""The short fault run: one seed, a fault of each kind, and every promise held. `make faults` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.run import run
from tests.faults.schedule import FAULTS, SHORT, draw, named
from tests.servers import folder_of_its_own

SEED = 5
SECONDS = 30.0


@pytest.mark.alone
@pytest.mark.timeout(180)
async def test_every_promise_holds_through_a_fault_of_each_kind() -> None:
    rounds = draw(SEED, SECONDS, named(SHORT))
    assert {planned.fault.name for one in rounds for planned in one.faults} == set(SHORT)
    with folder_of_its_own() as folder:
        result = await run(SEED, rounds, SECONDS, folder, clients=16, say=print)
    assert result.unreached == []
    found = [f"{check}: {finding.what}" for check, findings in result.findings.items() for finding in findings]
    assert not found, "\n".join(found)
    assert result.totals()["2xx and 3xx"] > 100, "nothing could be booked"


@pytest.mark.parametrize("seed", range(20))
def test_a_full_schedule_has_every_fault_and_never_two_of_one_part_at_once(seed: int) -> None:
    rounds = draw(seed, 120)
    assert {planned.fault.name for one in rounds for planned in one.faults} == {fault.name for fault in FAULTS}
    for one in rounds:
        parts = [planned.fault.part for planned in one.faults]
        assert len(set(parts)) == len(parts)
    assert any(len(one.faults) == 2 for one in rounds), "no two faults at once"
    assert draw(seed, 120) == rounds, "a seed is a schedule"
    assert draw(seed + 1, 120) != rounds
