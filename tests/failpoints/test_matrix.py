"""Whatever breaks at whatever step: one key has one truth, no time is lost, every event arrives under one id.

The matrix is made of the list of steps. FAILPOINTS=all runs all of it (`make faults` does), else a fixed part in which
every step breaks once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from service.failpoints import Step
from tests.api.client import Answer, assert_problem
from tests.failpoints.lives import LIVES, wish_for
from tests.failpoints.system import is_stopped
from tests.failpoints.world import CLAIM_TTL_S, Ask, World, is_definite

KILL, RAISE, STOP = "kill", "raise", "stop"
# Longer than a claim may wait, a key is held and an entry is left alone.
DELAY = f"delay {round(2.2 * CLAIM_TTL_S * 1000)}"
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
# Where the CRM hears twice of an event, under its one id: it had been told, and nobody knew.
HEARD_TWICE = {
    (Step.DELIVERY_SENT, KILL),
    (Step.DELIVERY_SENT, RAISE),
    (Step.DELIVERY_SENT, STOP),
    (Step.DELIVERY_BEFORE_SEND, STOP),
}
# Who is slow there loses its entry to whichever worker looks next, itself or the other, which tells the CRM once more.
MAY_BE_HEARD_TWICE = {(Step.DELIVERY_BEFORE_SEND, DELAY), (Step.DELIVERY_SENT, DELAY)}
# Who is stopped there has a claim that is given up, or a token that is used up, by the time it goes on.
LATE = [
    ("booking", Step.BOOKING_CLAIMED),
    ("booking", Step.BOOKING_BEFORE_COMMIT),
    ("cancellation", Step.CHANGE_COMMITTED),
    ("cancellation", Step.CHANGE_ANNOUNCED),
    ("move", Step.MOVE_CLAIMED),
    ("move", Step.MOVE_BEFORE_COMMIT),
    ("move", Step.MOVE_COMMITTED),
    ("move", Step.MOVE_ANNOUNCED),
]
WHOLE = os.environ.get("FAILPOINTS") == "all"


def matrix() -> Iterator[tuple[str, Step, str]]:
    """Every life's every step broken in every way that can make a difference there."""
    for name, life in LIVES.items():
        for step in life.steps:
            for how in (KILL, RAISE, STOP, DELAY):
                if how in (KILL, RAISE) or step in DEADLINES:
                    yield name, step, how


def fixed_part() -> Iterator[tuple[str, Step, str]]:
    """Every step broken once, by turns in one of the two ways, and each way of waiting once."""
    for name, life in LIVES.items():
        if name == "confirmation":
            continue  # a cancellation has its steps
        for number, step in enumerate(life.steps):
            yield name, step, (KILL, RAISE)[number % 2]
    yield "delivery", Step.DELIVERY_SENT, STOP
    yield "move", Step.MOVE_BEFORE_COMMIT, DELAY


MATRIX = list(matrix())
CASES = MATRIX if WHOLE else list(fixed_part())


def test_every_step_is_broken_in_every_run() -> None:
    assert {(step, how) for _, step, how in MATRIX} >= {(step, how) for step in Step for how in (KILL, RAISE)}
    assert {step for _, step, _ in fixed_part()} == set(Step)
    assert set(fixed_part()) <= set(MATRIX)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "step", "how"), CASES, ids=[f"{name}, {how} at {step}" for name, step, how in CASES])
async def test_there_is_one_truth(world: World, name: str, step: Step, how: str) -> None:
    errand = await LIVES[name].begin(world)
    killed = len(world.system.killed)
    first, pid = await broken(world, errand.ask, step, how)
    _, truth = await asyncio.gather(world.ended(await world.pending()), world.insist(errand.ask))
    if how == STOP:
        if not at_the_api(step):
            await world.until(world.all_heard, what="somebody else doing its work")
        world.system.go_on(pid)
    check_first(await first, truth, step, how)
    await check_again(world, errand.ask, truth)
    await errand.check(truth)
    await world.at_rest()
    assert len(world.system.killed) == killed + (how == KILL)
    if name == "delivery":
        assert errand.event_id is not None
        times = world.crm.done.count(errand.event_id)
        assert times == 1 + ((step, how) in HEARD_TWICE) or (times == 2 and (step, how) in MAY_BE_HEARD_TWICE)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "step"), LATE if WHOLE else LATE[1:3], ids=str)
async def test_who_goes_on_late_takes_nothing_from_who_came_meanwhile(world: World, name: str, step: Step) -> None:
    errand = await LIVES[name].begin(world)
    first, pid = await broken(world, errand.ask, step, STOP)
    await world.ended(await world.pending())
    committed = step in (Step.CHANGE_COMMITTED, Step.CHANGE_ANNOUNCED, Step.MOVE_COMMITTED, Step.MOVE_ANNOUNCED)
    slot = errand.left if committed else errand.wanted
    assert slot is not None
    wish = wish_for(slot)
    rival = await world.insist(Ask("POST", "/api/appointments", wish))
    assert rival.status == 201, "the time was free, and was not given"
    world.system.go_on(pid)
    late = await first
    assert late is not None
    truth = await world.insist(errand.ask)
    if committed:
        check_first(late, truth, step, STOP)
        assert truth.status == 200
        await check_again(world, errand.ask, truth)
    else:
        assert_problem(late, 409, "SLOT_UNAVAILABLE")
        assert_problem(truth, 409, "SLOT_UNAVAILABLE")
    assert [row["id"] for row in await world.live(wish["contact_email"])] == [rival.json["appointment_id"]]
    await world.at_rest()
    assert not await world.is_offered(slot)


async def broken(world: World, ask: Ask, step: Step, how: str) -> tuple[asyncio.Future[Answer | None], int]:
    """The request under way whose step has just broken, and the number of the process it broke in."""
    world.system.arm(step, how)
    first = asyncio.ensure_future(world.send(ask))
    await world.until(lambda: world.system.hit() is not None, what=f"somebody coming by {step}")
    pid = world.system.hit()
    assert pid is not None
    if how == STOP:
        await world.until(lambda: is_stopped(pid), what="the stop")
    return first, pid


def at_the_api(step: Step) -> bool:
    """Whether an API process takes the step, while a client waits."""
    return step.startswith(("booking", "change", "move")) or step is Step.INCOMING_STORED


def check_first(first: Answer | None, truth: Answer, step: Step, how: str) -> None:
    """The try that broke was told nothing, or nothing that is not true."""
    if step is Step.BOOKING_SETTLED:  # reached after the answer was given
        assert first is not None
        assert (first.status, first.raw) == (truth.status, truth.raw)
        return
    if how == KILL and at_the_api(step):
        assert first is None, "a process that was killed has answered"
        return
    assert first is not None
    if how == RAISE and at_the_api(step):
        assert "FailpointError" not in str(assert_problem(first, 500, "INTERNAL_ERROR"))
    elif is_definite(first):
        assert (first.status, first.raw) == (truth.status, truth.raw)
    else:
        assert first.status in (409, 503), first.raw


async def check_again(world: World, ask: Ask, truth: Answer) -> None:
    """The key has the same answer ever after."""
    again = await world.insist(ask)
    assert (again.status, again.raw) == (truth.status, truth.raw)
