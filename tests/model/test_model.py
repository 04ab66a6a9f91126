"""Whatever happens, in whatever order: Postgres, the grid and a plain model of the rules agree after every step.

They agree on what is booked and with whom, on what can be booked, on what was refused and on what each coach is owed;
and nothing overlaps. `MODEL_SEEDS` and `MODEL_STEPS` make the run longer, `MODEL_FIRST` begins with another seed. A
failure names its seed and every step up to it.
"""

from __future__ import annotations

import asyncio
import os
import random
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from service.domain.grid import instant_of
from tests.model.conftest import Beginning, Process, World
from tests.model.draw import DAYS, beginning, drawn
from tests.model.model import Model
from tests.model.steps import Step, done, foreseen
from tests.operations.steps import differences

SEEDS = int(os.environ.get("MODEL_SEEDS", "3"))
STEPS = int(os.environ.get("MODEL_STEPS", "48"))
FIRST = int(os.environ.get("MODEL_FIRST", "0"))


@pytest.mark.timeout(120 + STEPS * 2)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
async def test_postgres_the_grid_and_the_model_agree(begin: Beginning, seed: int) -> None:
    chance = random.Random(seed)
    model = beginning(chance, ("even", "forward", "back")[seed % 3])
    began = str(model)
    world = await begin(model)
    steps: list[Step] = []
    try:
        for number in range(STEPS):
            step = drawn(chance, model, number)
            steps.append(step)
            # By either process, and looked at by either: neither may remember what the other has changed.
            acting, looking = chance.choices(world.processes, k=2)
            model = await agreed(world, step, model, acting)
            await look(world, model, looking)
    except BaseException as failure:
        for line in (f"seed {seed}", began, *(f"{number}: {step}" for number, step in enumerate(steps))):
            failure.add_note(line)
        raise


async def agreed(world: World, step: Step, model: Model, process: Process) -> Model:
    """The model after a step, of which only what the model foresees may come."""
    outcomes = foreseen(step, model)
    answer = await done(step, world, process)
    answered = [after for said, after in outcomes if said == answer]
    assert answered, f"answered {answer}, foreseen {[said for said, _ in outcomes]}"
    record, owed = await recorded(world), await owed_in_redis(world, process, model)
    fitting = [after for after in answered if (expected(after), owed_by(after)) == (record, owed)]
    if not fitting:
        assert record == expected(answered[0])
        assert owed == owed_by(answered[0])
    return fitting[0]


async def look(world: World, model: Model, process: Process) -> None:
    """What can be booked, the grid and Postgres' account, as one process sees them."""
    services = process.services
    roster = await process.roster(world.org)
    for calendar in model.calendars.values():
        known = roster.calendar(calendar.calendar_id) if calendar.calendar_id else roster.everyone
        window = (model.now - timedelta(hours=1), model.now + timedelta(days=DAYS))
        free = await services.availability(roster, known, None, *window)
        listed = {(instant_of(cell), coach.coach_id) for cell, coaches in free.slots() for coach in coaches}
        bookable = model.bookable(calendar)
        assert listed == bookable, (
            f"{calendar.calendar_id}: listed in error {sorted(listed - bookable)[:5]}, "
            f"not listed {sorted(bookable - listed)[:5]}"
        )
    assert await differences(services, world.org) == 0
    await asyncio.gather(*(one.services.gate.drain() for one in world.processes))
    assert await services.grid.pending() == {}
    account = await services.roster_store.deficits(roster)
    owed = {coach.coach_id: account.get(coach.column, 0) for coach in roster.coaches}
    assert owed == owed_by(model)
    assert sum(owed.values()) == 0


_RECORD = """
SELECT a.appointment_id, c.calendar_id, k.coach_id, a.starts_at, a.ends_at, lower(a.occupied) AS occupied_from,
    upper(a.occupied) AS occupied_to, a.local_day, a.strategy, a.status, a.confirmed_at IS NOT NULL AS confirmed,
    a.version
FROM appointments AS a JOIN calendars AS c USING (org_id, calendar_no) JOIN coaches AS k USING (org_id, coach_no)
WHERE a.org_id = $1
"""


async def recorded(world: World) -> dict[int, tuple[Any, ...]]:
    """Every appointment Postgres has, by its number; no two live ones of a coach overlap."""
    rows = await world.sql.fetch(_RECORD, world.org)
    live = [row for row in rows if row["status"] != "cancelled"]
    live.sort(key=lambda row: (row["coach_id"], row["occupied_from"]))
    for earlier, later in pairwise(live):
        assert earlier["coach_id"] != later["coach_id"] or earlier["occupied_to"] <= later["occupied_from"]
    by_id = {row["appointment_id"].int: tuple(row)[1:] for row in rows}
    assert len(by_id) == len(world.ids)
    return {number: by_id[one.int] for number, one in world.ids.items()}


def expected(model: Model) -> dict[int, tuple[Any, ...]]:
    """Every appointment of the model, as `recorded` has them."""
    return {
        number: (
            *(one.calendar, one.place.coach, *one.place.time, *one.place.occupied, one.place.day),
            *(one.strategy.value, one.status, one.confirmed, one.version),
        )
        for number, one in model.booked.items()
    }


async def owed_in_redis(world: World, process: Process, model: Model) -> dict[str, int]:
    """What Redis says each coach is owed."""
    columns = {coach.coach_id: coach.column for coach in model.coaches.values()}
    units = await process.services.grid.deficits(world.org, max(columns.values()) + 1)
    return {coach_id: units[column] for coach_id, column in columns.items()}


def owed_by(model: Model) -> dict[str, int]:
    """What each coach is owed by the model's account."""
    return {coach_id: model.owed.get(coach_id, 0) for coach_id in model.coaches}
