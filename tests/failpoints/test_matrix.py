"""Whatever breaks at whatever step: one key has one truth, no time is lost, every event arrives under one id.

The matrix is made of the list of steps. FAILPOINTS=all runs all of it (`make faults` does), else a fixed part.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from service.failpoints import Step
from tests.api.client import Answer, assert_problem
from tests.failpoints.lives import LIVES
from tests.failpoints.system import is_stopped
from tests.failpoints.world import CLAIM_TTL_S, World, is_definite

KILL, RAISE, STOP = "kill", "raise", "stop"
# Longer than a claim may wait, a key is held and an entry is left alone.
DELAY = f"delay {round(2.5 * CLAIM_TTL_S * 1000)}"
WHOLE = os.environ.get("FAILPOINTS") == "all"
# Who waits at one of these holds something that has a deadline: a claim, an idempotency key, an entry.
DEADLINES = (
    Step.BOOKING_CLAIMED,
    Step.BOOKING_BEFORE_COMMIT,
    Step.BOOKING_COMMITTED,
    Step.CHANGE_NOTED,
    Step.CHANGE_COMMITTED,
    Step.MOVE_CLAIMED,
    Step.MOVE_BEFORE_COMMIT,
    Step.MOVE_COMMITTED,
    Step.DELIVERY_BEFORE_SEND,
    Step.DELIVERY_SENT,
    Step.DELIVERY_RECORDED,
    Step.DELIVERY_BEFORE_ACK,
    Step.INCOMING_APPLIED,
    Step.INCOMING_MARKED,
)
# How often the CRM hears of an event: again where what broke had told it and nobody knew.
HEARD_TWICE = {
    (Step.DELIVERY_SENT, KILL),
    (Step.DELIVERY_SENT, RAISE),
    (Step.DELIVERY_SENT, STOP),
    (Step.DELIVERY_BEFORE_SEND, STOP),
}


def cases() -> Iterator[tuple[str, Step, str]]:
    for name, life in LIVES.items():
        for step in life.steps:
            for how in (KILL, RAISE, STOP, DELAY):
                if how in (KILL, RAISE) or step in DEADLINES:
                    yield name, step, how


CASES = list(cases())


def test_every_step_is_in_the_matrix() -> None:
    assert {(step, how) for _, step, how in CASES} >= {(step, how) for step in Step for how in (KILL, RAISE)}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "step", "how"), CASES, ids=[f"{name}, {how} at {step}" for name, step, how in CASES])
async def test_there_is_one_truth(world: World, name: str, step: Step, how: str) -> None:
    errand = await LIVES[name].begin(world)
    killed = len(world.system.killed)
    world.system.arm(step, how)
    first = asyncio.ensure_future(world.send(errand.ask))
    await world.until(lambda: world.system.hit() is not None, what=f"somebody coming by {step}")
    pid = world.system.hit()
    assert pid is not None
    at_the_api = step.startswith(("booking", "change", "move")) or step is Step.INCOMING_STORED
    left = await world.pending()
    if how == STOP:
        await world.until(lambda: is_stopped(pid), what="the stop")
        world.system.start(world.system.kind_of(pid))
    _, truth = await asyncio.gather(world.ended(left), world.insist(errand.ask))
    if how == STOP:
        if not at_the_api:
            await world.until(world.all_heard, what="somebody else doing its work")
        world.system.go_on(pid)
    check_first(await first, truth, how, at_the_api=at_the_api)
    again = await world.send(errand.ask)
    assert again is not None
    assert (again.status, again.raw) == (truth.status, truth.raw)
    await errand.check(truth)
    await world.at_rest()
    assert len(world.system.killed) == killed + (how == KILL)
    if name == "delivery":
        assert errand.event_id is not None
        assert world.crm.done.count(errand.event_id) == 1 + ((step, how) in HEARD_TWICE)
    if how == STOP:
        await world.system.retire(pid)


def check_first(first: Answer | None, truth: Answer, how: str, *, at_the_api: bool) -> None:
    """The try that broke was told nothing, or nothing that is not true."""
    if how == KILL and at_the_api:
        assert first is None, "a process that was killed has answered"
    elif how == RAISE and at_the_api:
        assert first is not None
        problem = assert_problem(first, 500, "INTERNAL_ERROR")
        assert "FailpointError" not in str(problem)
    else:
        assert first is not None
        if is_definite(first):
            assert (first.status, first.raw) == (truth.status, truth.raw)
        else:
            assert not at_the_api or how not in (KILL, RAISE)
            assert first.status != 500, first.raw
